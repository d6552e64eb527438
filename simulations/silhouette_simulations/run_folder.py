"""The folder of one run: what it holds, how it is claimed, how it is found again.

Tables are CSV and Parquet that pandas reads in one line. Everything is written atomically, and `run.json` says
`complete` only after everything else is there.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from silhouette_shared.config import Plan, read_plan, with_changes, write_toml
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.files import lock_alone, write_atomically

ROW_COLUMNS = (
    "name",
    "label",
    "hr_at_10",
    "ndcg_at_10",
    "ndcg_low",
    "ndcg_high",
    "coverage_at_10",
    "novelty_at_10",
    "diversity_at_10",
    "worst_partner",
    "worst_partner_ndcg",
    "gap",
    "private",
    "users",
)
PARTNER_COLUMNS = ("row", "partner", "users", "hr_at_10", "ndcg_at_10")
ROUND_COLUMNS = (
    "row",
    "round",
    "replies",
    "refused",
    "update_norm",
    "epsilon",
    "hr_at_10",
    "ndcg_at_10",
    "seconds",
)
SECURE_COLUMNS = ("row", "round", "survivors", "step", "seconds", "sent", "received", "unevenness")
"""Of secure-steps.csv: every step of every completed secure round; bytes to and from all partners together."""
ATTRIBUTE_COLUMNS = (
    "row",
    "attribute",
    "people",
    "classes",
    "majority_rate",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
)

_ENDING_SECONDS = 2.0  # in which the workers of a sweep that was killed are gone

AUDIT_FILE = "audit.json"
"""The signed audit result that a run was started with; the run's privacy statement says what it found."""


class RunFolder:
    """Paths and writing of one run's folder.

    Args:
        path: The folder; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def state(self) -> Path:
        """Checkpoints and finished rows; removed when the run is complete."""
        return self.path / "state"

    def training(self, name: str) -> Path:
        """State of one training."""
        return self.state / "trainings" / name

    def secure(self, name: str) -> Path:
        """Signed records of one training's secure rounds, for an auditor."""
        return self.path / "secure" / name

    def row(self, name: str) -> Path:
        """Finished rankings of one row."""
        return self.state / "rows" / f"{name}.safetensors"

    def partner(self, name: str) -> Path:
        """What belongs to one partner and would not leave it."""
        return self.path / "partners" / name

    def write_text(self, name: str, text: str) -> None:
        """Write one file whole."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())

    def read_text(self, name: str) -> str | None:
        """Read one file; None if it is not there.

        Raises:
            IntegrityError: If it is no text.
        """
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{self.path / name}: expected text, got a damaged file ({error})") from None

    def write_json(self, name: str, document: Mapping[str, object]) -> None:
        """Write one JSON document whole."""
        self.write_text(name, json.dumps(document, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, object]:
        """Read one JSON document; empty if it is not there yet.

        Raises:
            IntegrityError: If it is damaged.
        """
        path, text = self.path / name, self.read_text(name)
        if text is None:
            return {}
        try:
            document = json.loads(text)
        except ValueError as error:
            raise IntegrityError(f"{path}: expected JSON, got a damaged file ({error}); start a new run") from None
        if not isinstance(document, dict):
            raise IntegrityError(f"{path}: expected a JSON object, got a damaged file; start a new run")
        return document

    def write_csv(self, name: str, columns: Sequence[str], lines: Sequence[Mapping[str, object]]) -> None:
        """Write one table; numbers keep every digit, so that equal results give equal bytes."""
        frame = pd.DataFrame(list(lines), columns=list(columns))
        self.write_text(name, frame.to_csv(index=False, lineterminator="\n"))

    def write_parquet(self, name: str, frame: pd.DataFrame) -> None:
        """Write one table in Parquet."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, frame.to_parquet(index=False))

    def forget_state(self) -> None:
        """Remove checkpoints and copies of the partners' data."""
        shutil.rmtree(self.state, ignore_errors=True)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out of this folder, and clear away what a killed one was writing.

        Raises:
            UnavailableError: If another process works in it.
        """
        with (self.path / ".lock").open("w") as lock:
            if not lock_alone(lock.fileno(), _ENDING_SECONDS):
                raise UnavailableError(f"{self.path}: another process works on this run; wait for it or stop it")
            for half_written in self.path.rglob(".*.tmp"):
                half_written.unlink()
            yield


def new_run_folder(out: Path, plan: Plan) -> RunFolder:
    """Make a folder for a run that starts; a second run of the same plan and seed gets a number."""
    folder = RunFolder(make_numbered_folder(out, f"{plan.name}-{plan.family_digest[:8]}-s{plan.seed}"))
    folder.write_text("plan.toml", write_toml(plan))
    return folder


def make_numbered_folder(out: Path, name: str) -> Path:
    """Make `out/name`, or `out/name-2` and so on if it is there; two processes never get the same one.

    Raises:
        UsageError: If ten thousand are there.
    """
    out.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        path = out / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise UsageError(f"{out}: holds 10,000 folders named {name}; name another folder with --out")


def existing_run_folder(
    path: Path, plan: Plan | None = None, changes: Mapping[str, object] | None = None
) -> tuple[RunFolder, Plan]:
    """The folder of a run that goes on.

    Args:
        path: As `new_run_folder` made it.
        plan: What the caller thinks was running; None takes the folder's word.
        changes: What the caller thinks was changed in that plan, as `with_changes` takes it.

    Raises:
        UsageError: If this is no run folder, or it belongs to another plan; nothing in it was changed.
    """
    if not (path / "plan.toml").is_file():
        raise UsageError(f"{path}: expected a run folder with a plan.toml, found none; check the path")
    stored = read_plan(path / "plan.toml")
    named = with_changes(stored if plan is None else plan, changes or {})
    if named.digest != stored.digest:
        raise UsageError(
            f"{path}: expected a run of plan {_described(named)}, got one of plan {_described(stored)}; "
            "resume it without naming a plan, or start a new run without --resume"
        )
    return RunFolder(path), stored


def _described(plan: Plan) -> str:
    return f"{plan.name} ({plan.digest[:8]}, seed {plan.seed}, mode {plan.privacy.mode})"
