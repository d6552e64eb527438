"""The offer: all that a training run is, signed by the coordinator before anybody does anything for it.

A node obeys nothing that is not in an offer or in a manifest of secure aggregation. The offer names the roster that it
goes by, the plan as text, the public catalogue by its digest, how many people each partner declares, the mechanisms
that the budget is divided into, and the model that the run starts from.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from silhouette_shared.config import Plan, parse_plan, write_toml
from silhouette_shared.enrolment.refusals import MalformedError
from silhouette_shared.enrolment.signed import (
    NAME_RULE,
    STRICT,
    build,
    content_of,
    is_name,
    open_sealed,
    seal,
    unverified,
)
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.secagg.keys import Identity

OFFER = "offer"
"""Kind of the document."""

_DIGEST = re.compile("[0-9a-f]{64}")
_MOST_PARTNERS = 1000
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got something else")


def is_run(name: str) -> bool:
    """Whether a run may be called so: it names a folder.

    >>> is_run("quick-e03b3a23"), is_run(".."), is_run("a/b")
    (True, False, False)
    """
    return _RUN.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OfferedMechanism:
    """A `SampledGaussian` as an offer holds it."""

    noise_multiplier: float
    sampling_rate: float
    steps: int
    clip_norm: float
    rounding: float
    grid_step: float
    size: int
    shares: int
    batch_cap: int | None
    overflow: float | None

    @classmethod
    def of(cls, mechanism: SampledGaussian) -> OfferedMechanism:
        """The same values."""
        return cls(**asdict(mechanism))

    def mechanism(self) -> SampledGaussian:
        """The mechanism; MalformedError if there is no such one."""
        try:
            return SampledGaussian(**asdict(self))
        except UsageError as error:
            raise MalformedError(f"offer, budget: {error}") from None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OfferedBudget:
    """A `Budget` as an offer holds it: every release of the run, by its name."""

    popularity: OfferedMechanism | None
    transitions: OfferedMechanism | None
    training: OfferedMechanism | None
    attributes: OfferedMechanism | None = None
    behaviours: OfferedMechanism | None = None
    lengths: OfferedMechanism | None = None
    pace: OfferedMechanism | None = None
    value: OfferedMechanism | None = None
    evaluation: OfferedMechanism | None = None

    @classmethod
    def of(cls, budget: Budget) -> OfferedBudget:
        """The same values."""
        parts = {name: OfferedMechanism.of(part) for name, part in budget.parts.items()}
        return cls(**{one.name: parts.get(one.name) for one in fields(Budget)})

    def budget(self) -> Budget:
        """The budget; MalformedError if there is no such one."""
        parts = {one.name: getattr(self, one.name) for one in fields(Budget)}
        return Budget(**{name: None if part is None else part.mechanism() for name, part in parts.items()})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Offer:
    """What a run is."""

    run: str
    consortium: str
    roster_version: int
    roster: str  # SHA-256 of the signed roster's bytes, hex
    plan: str  # TOML
    catalogue: str  # SHA-256 of the public catalogue with its attribute classes, hex
    people: dict[str, int]  # by partner, as the roster declares them
    budget: OfferedBudget | None  # None: without privacy
    seed_path: tuple[str, ...]  # names under the plan's seed from which the training draws what may repeat
    start_model: str  # SHA-256 of the float32 parameters (D,) that the run starts from, hex
    issued: int  # UTC seconds

    @model_validator(mode="after")
    def _check(self) -> Offer:
        _require(is_run(self.run), "run", "1 to 64 letters, digits, dots, hyphens or underscores")
        _require(is_name(self.consortium), "consortium", NAME_RULE)
        _require(self.roster_version >= 1, "roster_version", "1 or more")
        for name in ("roster", "catalogue", "start_model"):
            _require(_DIGEST.fullmatch(getattr(self, name)) is not None, name, "64 hexadecimal digits")
        _require(1 <= len(self.people) <= _MOST_PARTNERS, "people", f"1 to {_MOST_PARTNERS} partners")
        for name, people in self.people.items():
            _require(is_name(name), "people", NAME_RULE)
            _require(people >= 1, "people", "at least 1 for each partner")
        _require(1 <= len(self.seed_path) <= 10, "seed_path", "1 to 10 names")
        _require(self.issued >= 0, "issued", "UTC seconds")
        return self

    def encode(self, identity: Identity) -> bytes:
        """The signed document."""
        return seal(OFFER, content_of(self), identity)

    @classmethod
    def decode(cls, data: bytes, pinned: bytes) -> Offer:
        """Read an offer of the coordinator whose key is pinned.

        Raises:
            MalformedError: If it is none.
            ForgedDocumentError: If that key did not sign it.
        """
        open_sealed(OFFER, data, pinned)
        return build(cls, unverified(OFFER, data), OFFER)

    @property
    def partners(self) -> tuple[str, ...]:
        """Everybody's names, in order."""
        return tuple(sorted(self.people))

    def read_plan(self) -> Plan:
        """The plan in it.

        Raises:
            MalformedError: If the text is no plan, or not the one that the plan writes.
        """
        try:
            plan = parse_plan(tomllib.loads(self.plan), source="offer, plan", text=self.plan)
        except (UsageError, tomllib.TOMLDecodeError) as error:
            raise MalformedError(f"offer: expected a plan, got another text: {' '.join(str(error).split())}") from None
        if write_toml(plan) != self.plan:
            raise MalformedError("offer: expected the plan with every setting written out, got another text; refuse it")
        return plan


def offer_of(
    plan: Plan,
    *,
    run: str,
    consortium: str,
    roster: tuple[int, str],
    catalogue: str,
    people: Mapping[str, int],
    budget: Budget | None,
    seed_path: tuple[str, ...],
    start_model: str,
    issued: int,
) -> Offer:
    """An offer of a plan.

    Args:
        plan: Written out whole.
        run: Its name.
        consortium: Whose roster.
        roster: Its number, and the SHA-256 of its bytes.
        catalogue: SHA-256 of the public catalogue.
        people: As declared.
        budget: What is spent on what; None without privacy.
        seed_path: Names under the plan's seed.
        start_model: SHA-256 of the parameters.
        issued: UTC seconds.
    """
    return Offer(
        run=run,
        consortium=consortium,
        roster_version=roster[0],
        roster=roster[1],
        plan=write_toml(plan),
        catalogue=catalogue,
        people=dict(people),
        budget=None if budget is None else OfferedBudget.of(budget),
        seed_path=seed_path,
        start_model=start_model,
        issued=issued,
    )
