"""Long results in one committed file: a JSON line for each, keyed by plan, seed, commit and what was measured."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from silhouette_shared.errors import IntegrityError


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measurement and what it is of."""

    what: str  # rows, findings of `silhouette sim examine`, study, mix, federation or peers, and which
    plan: str  # name
    plan_digest: str
    seed: int
    commit: str  # of the code, "" where it is in no checkout; with + where files differed from it
    dataset_digest: str
    target: str  # test or validation
    seconds: float | None
    values: Mapping[str, object]

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What tells results apart."""
        return self.what, self.plan_digest, self.seed, self.commit


def result_of_run(run: Path, what: str, values: Mapping[str, object], *, timed: bool = True) -> Result:
    """What was measured on a finished run, by the code as it is now.

    Args:
        run: Its folder.
        what: Was measured.
        values: Of it.
        timed: Whether the run's seconds are said.
    """
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return Result(
        what=what,
        plan=about["name"],
        plan_digest=about["digest"],
        seed=about["seed"],
        commit=commit_of(Path(__file__).parent),
        dataset_digest=about["dataset_digest"],
        target=about["target"],
        seconds=about["seconds"] if timed else None,
        values=values,
    )


def read_results(path: Path) -> Sequence[Result]:
    """All results of a file, oldest first; none if there is no file.

    Raises:
        IntegrityError: If a line is no result.
    """
    if not path.exists():
        return ()
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(Result(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"{path}:{number}: expected a result, got another line ({error}); restore it"
            ) from None
    return tuple(found)


def add_result(path: Path, result: Result) -> None:
    """Append a result; one with the same key gives way to it.

    Raises:
        IntegrityError: If the file is damaged; it stays as it is.
    """
    kept = [one for one in read_results(path) if one.key != result.key]
    lines = [json.dumps(asdict(one), sort_keys=True, allow_nan=False) for one in (*kept, result)]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


def commit_of(folder: Path) -> str:
    """The commit that the checkout in `folder` is at, with a + if tracked files differ; "" where there is none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--match=", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()
