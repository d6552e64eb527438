"""A run folder, read into typed values and checked on the way.

Only here are the files of a run opened; everything else in this package works on what comes out.
A file that is missing is a `UsageError`, one that is damaged an `IntegrityError`; both name its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from silhouette_shared.config import Plan, read_plan
from silhouette_shared.errors import IntegrityError
from silhouette_shared.model.evaluation import person_figures
from silhouette_simulations.report.fields import (
    Fields,
    missing,
    read_csv,
    read_json,
    read_text,
)
from silhouette_simulations.run_folder import ATTRIBUTE_COLUMNS, ROW_COLUMNS, SECURE_COLUMNS

FIRST_TIME = 10**8
"""Timestamps below (seconds, March 1973) are ranks or placeholders, not times."""


@dataclass(frozen=True)
class Header:
    """What run.json says about a run."""

    name: str
    digest: str
    seed: int
    complete: bool
    written: str  # UTC, ISO 8601; empty where not recorded
    seconds: float
    device: str
    backend: str
    versions: tuple[tuple[str, str], ...]
    dataset: str
    dataset_digest: str  # empty where not recorded
    users: int
    items: int
    events: int
    partners: tuple[tuple[str, int], ...]  # name and number of people
    note: str
    row_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One way of recommending, and how well it did over all people."""

    name: str
    label: str
    hr_at_10: float
    ndcg_at_10: float
    ndcg_low: float
    ndcg_high: float
    coverage_at_10: float | None
    novelty_at_10: float | None
    diversity_at_10: float | None
    worst_partner: str
    worst_partner_ndcg: float | None
    gap: float | None
    private: bool
    users: int
    seconds: float | None  # None where not recorded


@dataclass(frozen=True)
class Round:
    """One round of one training; the metrics are None where it was not evaluated."""

    row: str  # a row's name, or `local_only/<partner>` for one partner's own training
    round: int
    replies: int
    refused: int
    epsilon: float | None
    hr_at_10: float | None
    ndcg_at_10: float | None


@dataclass(frozen=True)
class SecureStep:
    """One step of one completed round of secure aggregation."""

    row: str
    round: int
    survivors: int
    step: str
    seconds: float
    sent: int  # bytes to all partners together
    received: int  # bytes from all of them
    unevenness: float  # largest z-score of the bytes of a masked vector of the round against even ones


@dataclass(frozen=True)
class PartnerScore:
    """How one row did at one partner."""

    row: str
    partner: str
    users: int
    hr_at_10: float
    ndcg_at_10: float


@dataclass(frozen=True)
class AttributeRow:
    """How well one row tells one attribute of people."""

    row: str
    attribute: str
    people: int
    classes: int
    majority_rate: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float | None


@dataclass(frozen=True)
class PartnerPrivacy:
    """What one partner's people spent."""

    partner: str
    epsilon: float
    delta: float | None
    noise_multiplier: float | None
    sampling_rate: float | None
    steps: int | None


@dataclass(frozen=True)
class PrivacyRecord:
    """What privacy.json says; in the mode `none` only `mode` and `warning` mean anything."""

    mode: str
    unit: str
    neighbours: str
    delta: float | None
    epsilon: float | None
    noise_multiplier: float | None
    sampling_rate: float | None
    steps: int | None
    clip_norm: float | None
    accountant: str
    accountants: tuple[tuple[str, float], ...]
    partners: tuple[PartnerPrivacy, ...]
    curve: tuple[tuple[int, float], ...]  # round and epsilon spent after it
    warning: str
    trust: str = ""  # who has to be trusted
    evaluation: str = ""  # what the exact metrics of a simulation are not


@dataclass(frozen=True)
class Event:
    """One event or recommendation of a person, ready to be shown."""

    title: str
    timestamp: int | None = None  # UTC seconds; None where the data set has no times
    score: float | None = None


@dataclass(frozen=True)
class Trait:
    """What the profile says about one attribute."""

    name: str
    value: str
    confidence: float


@dataclass(frozen=True)
class Person:
    """One person's profile, of a public research data set."""

    user: str
    partner: str
    events: int
    weights: tuple[tuple[str, float], ...]  # dimension and its share of the fusion attention
    traits: tuple[Trait, ...]
    tags: tuple[str, ...]
    recent: tuple[Event, ...]  # latest first
    recommendations: tuple[Event, ...]  # best first


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks of every person's targets in one row."""

    users: tuple[str, ...]  # of each rank, sorted; a person of whom several things are asked has several
    ranks: npt.NDArray[np.int64]  # (N,), from 0 for the best

    @property
    def people(self) -> tuple[str, ...]:
        """Each person once, sorted."""
        return tuple(dict.fromkeys(self.users))

    def gains(self, cutoff: int = 10) -> Tensor:
        """NDCG at `cutoff` of each person, float64, (U,)."""
        number = {user: row for row, user in enumerate(self.people)}
        owner = torch.tensor([number[user] for user in self.users])
        return person_figures(torch.from_numpy(np.array(self.ranks)), owner, cutoff)[1]


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder as the report and the comparison need it."""

    folder: Path
    plan: Plan
    plan_text: str
    header: Header
    rows: tuple[Row, ...]
    rounds: tuple[Round, ...]
    partner_scores: tuple[PartnerScore, ...]
    attributes: tuple[AttributeRow, ...]
    privacy: PrivacyRecord
    ranks: Mapping[str, Ranks]  # by row name
    profiles_of: str  # the row whose model made the profiles, empty where there is none
    secure_steps: tuple[SecureStep, ...] = ()  # none without secure aggregation

    def row(self, name: str) -> Row | None:
        """The row of that name, if this run has it."""
        return next((row for row in self.rows if row.name == name), None)


def read_run(folder: Path) -> Run:
    """Read everything but the profiles.

    Raises:
        UsageError: If a file is missing, or plan.toml is no plan.
        IntegrityError: If a file is damaged, or two files contradict each other.
    """
    header = read_header(folder)
    plan = read_plan(folder / "plan.toml")
    if plan.digest != header.digest:
        raise IntegrityError(
            f"{folder / 'plan.toml'}: expected the plan {header.digest[:8]} that run.json names, "
            f"got {plan.digest[:8]}; restore the plan of this run"
        )
    rows, ranks = read_rows(folder, header), read_ranks(folder, once=plan.evaluation.split != "random")
    _check_people(folder / "ranks.parquet", rows, ranks)
    return Run(
        folder=folder,
        plan=plan,
        plan_text=read_text(folder / "plan.toml"),
        header=header,
        rows=rows,
        rounds=_read_rounds(folder / "rounds.csv"),
        partner_scores=_read_partner_scores(folder / "partners.csv"),
        attributes=_read_attributes(folder / "attributes.csv"),
        privacy=_read_privacy(folder / "privacy.json"),
        ranks=ranks,
        profiles_of=_profiles_of(folder / "model" / "card.json"),
        secure_steps=_read_secure_steps(folder / "secure-steps.csv") if plan.aggregation.protocol == "sa-1" else (),
    )


def read_header(folder: Path) -> Header:
    """Read run.json; errors as `read_run`."""
    fields = read_json(folder / "run.json")
    partners = fields.fields("partners")
    versions = fields.fields("versions")
    row_seconds = fields.fields("row_seconds")
    dataset = fields.values.get("dataset")
    named = fields.fields("dataset") if isinstance(dataset, dict) else None
    for name in partners.values:
        if Path(name).name != name or name in ("", ".", ".."):
            raise IntegrityError(f"{partners.place}: expected names of folders, got {name!r}")
    return Header(
        name=fields.text("name"),
        digest=fields.text("digest"),
        seed=fields.count("seed"),
        complete=fields.text("state") == "complete",
        written=fields.text("written", ""),
        seconds=fields.number("seconds"),
        device=fields.text("device"),
        backend=fields.text("backend"),
        versions=tuple((name, versions.text(name, "unknown")) for name in versions.values),
        dataset=fields.text("dataset") if named is None else named.text("name"),
        dataset_digest=(fields.text("dataset_digest", "") if named is None else named.text("digest", "")),
        users=fields.count("users"),
        items=fields.count("items"),
        events=fields.count("events"),
        partners=tuple((name, partners.count(name)) for name in partners.values),
        note=fields.text("note", ""),
        row_seconds={name: row_seconds.number(name) for name in row_seconds.values},
    )


def read_rows(folder: Path, header: Header) -> tuple[Row, ...]:
    """Read rows.csv, the seconds of each row from run.json; errors as `read_run`."""
    path = folder / "rows.csv"
    rows = tuple(
        Row(
            name=fields.text("name"),
            label=fields.text("label"),
            hr_at_10=fields.number("hr_at_10"),
            ndcg_at_10=fields.number("ndcg_at_10"),
            ndcg_low=fields.number("ndcg_low"),
            ndcg_high=fields.number("ndcg_high"),
            coverage_at_10=fields.optional_number("coverage_at_10"),
            novelty_at_10=fields.optional_number("novelty_at_10"),
            diversity_at_10=fields.optional_number("diversity_at_10"),
            worst_partner=fields.text("worst_partner", ""),
            worst_partner_ndcg=fields.optional_number("worst_partner_ndcg"),
            gap=fields.optional_number("gap"),
            private=fields.flag("private"),
            users=fields.count("users"),
            seconds=header.row_seconds.get(fields.text("name")),
        )
        for fields in read_csv(path, ROW_COLUMNS)
    )
    if not rows:
        raise IntegrityError(f"{path}: expected at least one row, got only a header")
    if len({row.name for row in rows}) != len(rows):
        raise IntegrityError(f"{path}: expected every row once, got one twice")
    return rows


def read_ranks(folder: Path, *, once: bool = True) -> dict[str, Ranks]:
    """Read ranks.parquet, by row, people sorted by their id.

    Args:
        folder: Of the run.
        once: Whether one thing is asked for of each person, as with every split but `random`.

    Raises:
        UsageError: If the file is missing.
        IntegrityError: If it is damaged, or has a person twice in a row or a negative rank.
    """
    path = folder / "ranks.parquet"
    table = _read_table(path, ("row", "user", "rank"))
    names = np.asarray(table.column("row").to_pylist(), dtype=object)
    users = np.asarray([str(user) for user in table.column("user").to_pylist()], dtype=object)
    ranks = table.column("rank").to_numpy()
    if not np.issubdtype(ranks.dtype, np.integer) or (len(ranks) and ranks.min() < 0):
        raise IntegrityError(f"{path}: expected whole ranks from 0, got others")
    found = {}
    for name in dict.fromkeys(names.tolist()):
        chosen = names == name
        order = np.argsort(users[chosen], kind="stable")
        people = users[chosen][order]
        if once and len(set(people.tolist())) != len(people):
            raise IntegrityError(f"{path}: expected every person once in the row {name}, got one twice")
        found[str(name)] = Ranks(tuple(people.tolist()), ranks[chosen][order].astype(np.int64))
    return found


def _check_people(path: Path, rows: Sequence[Row], ranks: Mapping[str, Ranks]) -> None:
    """Refuse ranks that lack a row of the table or hold different people in different rows."""
    for row in rows:
        if row.name not in ranks:
            raise IntegrityError(
                f"{path}: expected ranks of the row {row.name} that rows.csv names, got none; run the simulation again"
            )
        if ranks[row.name].users != ranks[rows[0].name].users:
            raise IntegrityError(
                f"{path}: expected the same people in every row, got others in {row.name}; run the simulation again"
            )


def read_people(folder: Path, partners: Sequence[str], wanted: int = 4) -> tuple[Person, ...]:
    """A few people, chosen without looking at how well the model does for them.

    From each of the first `wanted` partners the person with the median number of events; from
    fewer partners further people at the quartiles. A run without profiles gives none.

    Raises:
        UsageError: If a partner with profiles lacks one of its other files.
        IntegrityError: If a file is damaged.
    """
    with_profiles = [name for name in partners if (folder / "partners" / name).is_dir()]
    people: list[Person] = []
    for position, name in _places(with_profiles, wanted):
        place = folder / "partners" / name
        table = _read_table(place / "profiles.parquet", ("user", "events"))
        if table.num_rows == 0:
            continue
        known = table.select(["events", "user"]).to_pylist()
        order = sorted(
            range(table.num_rows),
            key=lambda number, known=known: (known[number]["events"], str(known[number]["user"])),  # type: ignore[misc]
        )
        index = order[round(position * (len(order) - 1))]
        user = str(known[index]["user"])
        if all((person.partner, person.user) != (name, user) for person in people):
            people.append(_person(place, name, table.slice(index, 1)))
    return tuple(people)


def _places(partners: Sequence[str], wanted: int) -> list[tuple[float, str]]:
    """Quantile and partner of each person to show, round-robin over the partners."""
    quantiles = (0.5, 0.25, 0.75, 0.1)
    return [(quantile, name) for quantile in quantiles for name in partners[:wanted]][:wanted]


def _person(place: Path, partner: str, table: pa.Table) -> Person:
    fields = Fields(str(place / "profiles.parquet"), table.to_pylist()[0])
    names = table.column_names
    attributes = [
        name.removesuffix("_confidence")
        for name in names
        if name.endswith("_confidence") and name.removesuffix("_confidence") in names
    ]
    user = str(fields.values["user"])
    return Person(
        user=user,
        partner=partner,
        events=fields.count("events"),
        weights=tuple(
            (name.removeprefix("weight_"), fields.number(name))
            for name in names
            # A dimension that is absent for this person has no weight.
            if name.startswith("weight_") and fields.optional_number(name) is not None
        ),
        traits=tuple(
            Trait(name, str(fields.values[name]), fields.number(f"{name}_confidence"))
            for name in attributes
            if fields.values[name] is not None
        ),
        tags=tuple(str(tag) for tag in cast("list[object]", fields.values.get("tags") or [])),
        recent=_events(place / "recent.parquet", user, "timestamp"),
        recommendations=_events(place / "recommendations.parquet", user, "score"),
    )


def _events(path: Path, user: str, extra: str) -> tuple[Event, ...]:
    table = _read_table(path, ("user", "position", "title", extra), user=user)
    lines = [Fields(str(path), line) for line in table.to_pylist()]
    lines.sort(key=lambda line: line.number("position"))
    return tuple(
        Event(
            title=line.text("title", str(line.values.get("item") or "untitled")),
            timestamp=_time(line.optional_number(extra)) if extra == "timestamp" else None,
            score=line.optional_number(extra) if extra == "score" else None,
        )
        for line in lines
    )


def _time(value: float | None) -> int | None:
    return None if value is None or value < FIRST_TIME else int(value)


def _profiles_of(card: Path) -> str:
    # A run of counting methods only has no model, hence no card and no profiles.
    return read_json(card).text("trained_as", "") if card.exists() else ""


def _read_table(path: Path, columns: Sequence[str], user: str | None = None) -> pa.Table:
    if not path.is_file():
        raise missing(path)
    filters = None if user is None else [("user", "=", user)]
    try:
        names = pq.read_schema(path).names
        lacking = [name for name in columns if name not in names]
        if lacking:
            raise IntegrityError(
                f"{path}: expected the columns {', '.join(lacking)} as well, got "
                f"{', '.join(names)}; run the simulation again"
            )
        return pq.read_table(path, filters=filters)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise IntegrityError(
            f"{path}: expected a Parquet file, got a damaged one ({reason}); run the simulation again"
        ) from None


def _read_rounds(path: Path) -> tuple[Round, ...]:
    columns = ("row", "round", "replies", "refused", "epsilon", "hr_at_10", "ndcg_at_10")
    return tuple(
        Round(
            row=fields.text("row"),
            round=fields.count("round"),
            replies=fields.optional_count("replies") or 0,
            refused=fields.optional_count("refused") or 0,
            epsilon=fields.optional_number("epsilon"),
            hr_at_10=fields.optional_number("hr_at_10"),
            ndcg_at_10=fields.optional_number("ndcg_at_10"),
        )
        for fields in read_csv(path, columns)
    )


def _read_secure_steps(path: Path) -> tuple[SecureStep, ...]:
    return tuple(
        SecureStep(
            row=fields.text("row"),
            round=fields.count("round"),
            survivors=fields.count("survivors"),
            step=fields.text("step"),
            seconds=fields.number("seconds"),
            sent=fields.count("sent"),
            received=fields.count("received"),
            unevenness=fields.number("unevenness"),
        )
        for fields in read_csv(path, SECURE_COLUMNS)
    )


def _read_partner_scores(path: Path) -> tuple[PartnerScore, ...]:
    return tuple(
        PartnerScore(
            row=fields.text("row"),
            partner=fields.text("partner"),
            users=fields.count("users"),
            hr_at_10=fields.number("hr_at_10"),
            ndcg_at_10=fields.number("ndcg_at_10"),
        )
        for fields in read_csv(path, ("row", "partner", "users", "hr_at_10", "ndcg_at_10"))
    )


def _read_attributes(path: Path) -> tuple[AttributeRow, ...]:
    return tuple(
        AttributeRow(
            row=fields.text("row"),
            attribute=fields.text("attribute"),
            people=fields.count("people"),
            classes=fields.count("classes"),
            majority_rate=fields.number("majority_rate"),
            accuracy=fields.number("accuracy"),
            precision=fields.number("precision"),
            recall=fields.number("recall"),
            f1=fields.number("f1"),
            auc=fields.optional_number("auc"),
        )
        for fields in read_csv(path, ATTRIBUTE_COLUMNS)
    )


def _read_privacy(path: Path) -> PrivacyRecord:
    fields = read_json(path)
    accountants = fields.fields("accountants")
    partners = fields.fields("partners")
    mode = fields.text("mode")
    spent = tuple((name, partners.fields(name)) for name in partners.values)
    return PrivacyRecord(
        mode=mode,
        unit=fields.text("unit", ""),
        neighbours=fields.text("neighbours", ""),
        delta=fields.optional_number("delta"),
        # A run that claims privacy has to say how much; only the mode `none` may leave it out.
        epsilon=fields.optional_number("epsilon") if mode == "none" else fields.number("epsilon"),
        noise_multiplier=fields.optional_number("noise_multiplier"),
        sampling_rate=fields.optional_number("sampling_rate"),
        steps=fields.optional_count("steps"),
        clip_norm=fields.optional_number("clip_norm"),
        accountant=fields.text("accountant", ""),
        accountants=tuple(
            (name, accountants.number(name))
            for name in accountants.values
            if accountants.optional_number(name) is not None
        ),
        partners=tuple(
            PartnerPrivacy(
                partner=name,
                epsilon=one.number("epsilon"),
                delta=one.optional_number("delta"),
                noise_multiplier=one.optional_number("noise_multiplier"),
                sampling_rate=one.optional_number("sampling_rate"),
                steps=one.optional_count("steps"),
            )
            for name, one in spent
            if one.optional_number("epsilon") is not None
        ),
        curve=tuple((point.count("round"), point.number("epsilon")) for point in fields.list("curve")),
        warning=fields.text("warning", ""),
        trust=fields.text("trust", ""),
        evaluation=fields.text("evaluation", ""),
    )
