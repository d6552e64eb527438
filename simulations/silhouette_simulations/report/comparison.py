"""Which of two rows, or of two plans, is better, asked person by person.

Every person has a rank in both, so what makes one person harder than another cancels and the
interval is about the difference alone. Runs whose plans differ in nothing but the seed are one
group, and a person's gain is averaged over its seeds. Intervals speak of people, not of seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from silhouette_shared.config import Plan, plan_document, read_plan
from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval, paired_bootstrap
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.report.reading import (
    Header,
    Ranks,
    read_header,
    read_ranks,
    read_rows,
)

RESAMPLES = 2000
LEVEL = 0.95
_MOST_KEYS_IN_A_LABEL = 3


@dataclass(frozen=True)
class Group:
    """Runs of one plan that differ in nothing but the seed."""

    label: str
    name: str
    digest: str  # of the plan without its seed
    seeds: tuple[int, ...]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """One side of a difference: a row of a group, and its mean NDCG."""

    group: str
    row: str
    label: str
    ndcg: float


@dataclass(frozen=True)
class Difference:
    """NDCG of `left` minus that of `right` over the same people."""

    left: Side
    right: Side
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`higher`, `lower` (left against right), or `unclear` where the interval holds 0."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "unclear"


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `differences` are in the order of groups and rows."""

    dataset: str
    target: str
    users: int
    cutoff: int
    resamples: int
    level: float
    seed: int
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]

    def to_document(self) -> dict[str, object]:
        """The same as plain JSON values."""
        document = asdict(self)
        for entry, found in zip(document["differences"], self.differences, strict=True):
            entry["verdict"] = found.verdict
        for group in document["groups"]:
            group["seeds"], group["folders"] = list(group["seeds"]), list(group["folders"])
        return {
            "metric": f"ndcg_at_{self.cutoff}",
            **document,
            "groups": list(document["groups"]),
            "differences": list(document["differences"]),
        }


@dataclass(frozen=True, eq=False)
class _Loaded:
    folder: Path
    plan: Plan
    header: Header
    labels: Mapping[str, str]  # row name -> label, in the order of the table
    ranks: Mapping[str, Ranks]


def compare(
    folders: Sequence[Path],
    row: str | None = None,
    *,
    cutoff: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare runs by paired bootstrap over people.

    Runs of one plan (seeds apart) are one group. With one group, `row` (default: federated, else
    the first) is compared with every other row. With several, `row` (default: every row they
    share) of each later group is compared with the same row of the first. The same plan and seed
    given twice makes two groups, so a repetition can be checked.

    Args:
        folders: Run folders, the reference first.
        row: A row's name, for example "federated".
        cutoff: Ranks from here on count nothing, at least 1.
        resamples: How often the people are drawn again, at least 1.
        seed: Of the resampling.

    Raises:
        UsageError: If the runs are over different data, targets or people, a row is in none of
            them, a setting is out of range, or a file is missing.
        IntegrityError: If a file is damaged.
    """
    if not folders:
        raise UsageError("expected at least one run folder, got none; name one")
    if cutoff < 1 or resamples < 1 or seed < 0:
        raise UsageError(
            f"expected cutoff and resamples of at least 1 and a seed of at least 0, "
            f"got {cutoff}, {resamples} and {seed}"
        )
    runs = [_load(Path(folder)) for folder in folders]
    for other in runs[1:]:
        _refuse_other_data(runs[0], other)
    groups = _group(runs)
    labels = _labels([members[0].plan for members in groups])
    described = tuple(
        Group(
            label,
            members[0].plan.name,
            members[0].plan.family_digest,
            tuple(run.plan.seed for run in members),
            tuple(str(run.folder) for run in members),
        )
        for label, members in zip(labels, groups, strict=True)
    )
    gains = _Gains(dict(zip(labels, groups, strict=True)), cutoff)
    pairs = list(_pairs(labels, groups, row))
    source = ReproducibleSource(seed).child("compare")
    differences = []
    for left, right in pairs:
        a, b = gains.of(*left), gains.of(*right)
        interval = paired_difference(a, b, source=source, resamples=resamples)
        differences.append(
            Difference(
                gains.side(*left),
                gains.side(*right),
                interval.mean,
                interval.low,
                interval.high,
            )
        )
    return Comparison(
        dataset=runs[0].header.dataset,
        target=runs[0].plan.evaluation.target,
        users=len(next(iter(runs[0].ranks.values())).people),
        cutoff=cutoff,
        resamples=resamples,
        level=LEVEL,
        seed=seed,
        groups=described,
        differences=tuple(differences),
    )


def paired_difference(
    left: Tensor, right: Tensor, *, source: ReproducibleSource, resamples: int = RESAMPLES
) -> Interval:
    """Mean of `left - right`, shape (U,) each over the same people, with its 95 % interval.

    Every pair resamples the same people, so that differences of one comparison fit together.
    """
    return paired_bootstrap(left, right, generator=source.torch_generator(), resamples=resamples, level=LEVEL)


class _Gains:
    """NDCG gains of every person, averaged over a group's seeds."""

    def __init__(self, groups: Mapping[str, Sequence[_Loaded]], cutoff: int) -> None:
        self._groups, self._cutoff = groups, cutoff
        self._users = next(iter(groups[next(iter(groups))][0].ranks.values())).users

    def of(self, group: str, row: str) -> Tensor:
        """Float64, shape (U,), people in the order of the first run's first row."""
        parts = []
        for run in self._groups[group]:
            if row not in run.ranks:
                raise UsageError(
                    f"{run.folder / 'ranks.parquet'}: expected the row {row}, got "
                    f"{', '.join(run.ranks)}; choose one of these"
                )
            ranks = run.ranks[row]
            if ranks.users != self._users:
                shared = len(set(ranks.users) & set(self._users))
                raise UsageError(
                    f"{run.folder / 'ranks.parquet'}: expected the same {len(self._users)} people "
                    f"as in the first run, got {len(ranks.users)} in the row {row}, of whom "
                    f"{shared} are the same; compare runs over the same people"
                )
            parts.append(ranks.gains(self._cutoff))
        return torch.stack(parts).mean(dim=0)

    def side(self, group: str, row: str) -> Side:
        label = self._groups[group][0].labels.get(row, row)
        return Side(group, row, label, float(self.of(group, row).mean()))


def _load(folder: Path) -> _Loaded:
    header, plan = read_header(folder), read_plan(folder / "plan.toml")
    loaded = _Loaded(
        folder=folder,
        plan=plan,
        header=header,
        labels={row.name: row.label for row in read_rows(folder, header)},
        ranks=read_ranks(folder, once=plan.evaluation.split != "random"),
    )
    if not header.complete:
        raise UsageError(
            f"{folder}: expected a complete run, got an unfinished one; go on with it by `silhouette sim run --resume`"
        )
    if not loaded.ranks:
        raise UsageError(f"{folder / 'ranks.parquet'}: expected somebody's ranks, got none")
    return loaded


def _refuse_other_data(first: _Loaded, other: _Loaded) -> None:
    facts = (
        ("data set", first.header.dataset, other.header.dataset),
        ("data set digest", first.header.dataset_digest, other.header.dataset_digest),
        ("number of users", first.header.users, other.header.users),
        ("number of items", first.header.items, other.header.items),
        ("number of events", first.header.events, other.header.events),
        ("target", first.plan.evaluation.target, other.plan.evaluation.target),
        ("split", first.plan.evaluation.split, other.plan.evaluation.split),
        ("share held out", _share(first.plan), _share(other.plan)),
    )
    for what, expected, got in facts:
        if expected != got:
            raise UsageError(
                f"{other.folder}: expected the {what} {expected} of {first.folder}, got {got}; "
                "compare runs over the same data and target"
            )


def _share(plan: Plan) -> float | None:
    """Of the events that are asked for; None where the split does not read it."""
    return plan.evaluation.held_out_share if plan.evaluation.split in ("random", "time") else None


def _group(runs: Iterable[_Loaded]) -> list[list[_Loaded]]:
    """By plan without its seed; a seed that a group has already starts another one."""
    groups: list[list[_Loaded]] = []
    for run in runs:
        for members in groups:
            if members[0].plan.family_digest == run.plan.family_digest and all(
                member.plan.seed != run.plan.seed for member in members
            ):
                members.append(run)
                break
        else:
            groups.append([run])
    return groups


def _pairs(
    labels: Sequence[str], groups: Sequence[Sequence[_Loaded]], row: str | None
) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    rows = [name for name in groups[0][0].labels if _everywhere(name, groups)]
    known = ", ".join(rows) or "none in common"
    if row is not None and row not in rows:
        raise UsageError(f"expected a row that every run has ({known}), got {row!r}; choose one")
    if not rows:
        raise UsageError("expected runs that share a row, got none in common; compare others")
    if len(groups) == 1:
        chosen = row or ("federated" if "federated" in rows else rows[0])
        if len(rows) == 1:
            raise UsageError(
                f"expected a second row or a second plan to compare with, got only {chosen}; name another run folder"
            )
        for name in rows:
            if name != chosen:
                yield (labels[0], chosen), (labels[0], name)
        return
    for label in labels[1:]:
        for name in rows if row is None else [row]:
            yield (label, name), (labels[0], name)


def _everywhere(name: str, groups: Sequence[Sequence[_Loaded]]) -> bool:
    return all(name in run.ranks for members in groups for run in members)


def _labels(plans: Sequence[Plan]) -> list[str]:
    """Name every group by its plan's name and by the settings in which the plans differ."""
    flat = [dict(_flatten(plan_document(plan))) for plan in plans]
    differing = [
        key
        for key in dict.fromkeys(key for settings in flat for key in settings)
        if key not in ("name", "seed", "note") and len({repr(settings.get(key)) for settings in flat}) > 1
    ]
    labels: list[str] = []
    for plan, settings in zip(plans, flat, strict=True):
        if len(differing) > _MOST_KEYS_IN_A_LABEL:
            label = f"{plan.name} {plan.family_digest[:8]}"
        elif differing:
            label = f"{plan.name} " + ", ".join(f"{key}={settings[key]}" for key in differing)
        else:
            label = plan.name
        repetitions = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({repetitions + 1})" if repetitions else label)
    return labels


def _flatten(document: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
