"""Write what `profile.proto` gives: `python tests/client/serving/generate.py` (needs grpcio-tools).

The result is committed, so that a partner installs no compiler; a test holds both to each other.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = "silhouette_client/serving"
FOLDER = Path(__file__).parents[3] / "client" / _PACKAGE
NAMES = ("profile_pb2.py", "profile_pb2.pyi", "profile_pb2_grpc.py")


def generate(target: Path) -> None:
    """Write the modules into `target`, a folder that exists.

    Raises:
        RuntimeError: If the compiler fails.
    """
    import shutil
    import tempfile

    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as work:
        source, out = Path(work) / "in" / _PACKAGE, Path(work) / "out"
        source.mkdir(parents=True)
        out.mkdir()
        shutil.copy(FOLDER / "profile.proto", source)
        arguments = [f"-I{Path(work) / 'in'}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
        if protoc.main(["protoc", *arguments, f"{_PACKAGE}/profile.proto"]) != 0:
            raise RuntimeError("expected protoc to translate profile.proto, got an error; see above")
        for name in NAMES:
            content = (out / _PACKAGE / name).read_text(encoding="utf-8")
            (target / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    generate(FOLDER)
