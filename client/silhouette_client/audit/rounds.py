"""The records of secure rounds, checked for somebody who does not trust the coordinator that kept them."""

import json
from dataclasses import dataclass
from pathlib import Path

from silhouette_shared.config import Plan
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.privacy.budget import Budget, budget_of, released
from silhouette_shared.secagg import Checked, Pins
from silhouette_shared.wire.agreement import pins_of
from silhouette_shared.wire.rounds import TRAINING, privacy_digest
from silhouette_shared.wire.transcripts import ABOUT, RecordFolder


@dataclass(frozen=True)
class RoundsFound:
    """What the records of one training show; everything in them has been checked.

    Args:
        folder: Where they lie.
        run: The run's name.
        rounds: Completed rounds.
        partners: On the roster.
        fewest: Survivors of the round with the fewest.
        purposes: How many rounds there were for each purpose.
        sums: How many sums were kept and are the signed ones.
        private: Whether all rounds were under the plan's noise; False if none were, None if no plan was named.
    """

    folder: str
    run: str
    rounds: int
    partners: int
    fewest: int
    purposes: dict[str, int]
    sums: int
    private: bool | None


def chains(folder: Path) -> list[Path]:
    """The folders of records in a run's folder, or the folder itself.

    Raises:
        UsageError: If there are none.
    """
    if (folder / ABOUT).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.rglob(f"secure/**/{ABOUT}"))
    if not found:
        raise UsageError(f"{folder}: expected records of secure rounds, found none; a run without sa-1 keeps none")
    return found


def read_pins(path: Path) -> Pins:
    """The public keys in a JSON file: `coordinator`, and `partners` by name, in hex.

    Raises:
        UsageError: If it is missing or is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return pins_of(document.get("pins", document))
    except FileNotFoundError:
        raise UsageError(f"{path}: expected public keys, found none; check the path") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: expected JSON with coordinator and partners, keys in hex, got others") from None


def verify_rounds(folder: Path, pins: Pins | None, plan: Plan | None, *, ledgers: bool = True) -> RoundsFound:
    """Check one folder of records.

    Args:
        folder: With an `about.json`.
        pins: The keys that are trusted; None believes the records.
        plan: Whose privacy terms the rounds have to be under; None compares none.
        ledgers: Whether a ledger that went back is an error.

    Raises:
        UsageError: If there are no records.
        IntegrityError: Naming what does not hold.
    """
    records = RecordFolder(folder)
    about = records.read()
    checked = records.verify(pins, ledgers=ledgers)
    purposes: dict[str, int] = {}
    for one in checked:
        purposes[purpose_of(one)] = purposes.get(purpose_of(one), 0) + 1
    return RoundsFound(
        folder=str(folder),
        run=about.run,
        rounds=len(checked),
        partners=len(about.pins.partners),
        fewest=min((len(one.survivors) for one in checked), default=0),
        purposes=purposes,
        sums=sum(records.sum(count).exists() for count in range(1, len(checked) + 1)),
        private=None if plan is None or not checked else _under_the_plan(folder, checked, plan),
    )


def purpose_of(one: Checked) -> str:
    """What a round's sum was for."""
    return one.manifest.purpose.rpartition("/")[0]


def _under_the_plan(folder: Path, checked: tuple[Checked, ...], plan: Plan) -> bool:
    """Whether the rounds were under the plan's noise; False if all were under the plan and without any."""
    if all(one.manifest.privacy == privacy_digest(plan, None) for one in checked):
        return False
    budget = budget_of(plan)
    for one in checked:
        if budget is None or one.manifest.privacy != _digest(plan, budget, one):
            raise IntegrityError(
                f"{folder}: expected round {one.round} ({purpose_of(one)}) under the privacy terms of plan "
                f"{plan.digest[:12]}, got other terms; name the plan that ran"
            )
    return True


def _digest(plan: Plan, budget: Budget, one: Checked) -> bytes | None:
    """What the manifest of a round says of privacy if it is one of the plan's; None if the plan has none such."""
    mechanism = budget.parts.get(purpose_of(one))
    if mechanism is None:
        return None
    if purpose_of(one) == TRAINING:
        mechanism = mechanism.after(plan.privacy.local_steps)
    return privacy_digest(plan, released(plan, mechanism, one.manifest.sections[0].size))
