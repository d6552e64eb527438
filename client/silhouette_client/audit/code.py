"""Which code this is: a digest of each package's sources, as they lie on this machine."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("silhouette_client", "silhouette_shared")
"""What a partner installs, and all that touches a person's record."""


def code_digests() -> dict[str, str]:
    """SHA-256, in hex, of the names and contents of each package's Python files."""
    return {package: _digest(_folder(package)) for package in PACKAGES}


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected {package} to be installed, found nothing", name=package)
    return Path(spec.origin).parent


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name, content = path.relative_to(folder).as_posix().encode(), path.read_bytes()
        for part in (name, content):  # framed, so that no two trees give the same bytes
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()
