"""Two signed documents: a card says what a model is, an alias says which card counts.

Every committed round has a card. An alias has a number that goes up with every change, a way back included, so that
whoever has seen one number refuses a lower one. Both are believed for the signature of the coordinator's key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from typing import Literal

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from silhouette_shared.enrolment.refusals import ForgedDocumentError
from silhouette_shared.enrolment.signed import STRICT, build, content_of, digest, open_sealed, seal
from silhouette_shared.privacy.accounting import epsilon
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.statement import Release
from silhouette_shared.secagg.keys import Identity

CARD, ALIAS = "model card", "model alias"
"""Kinds of documents."""

PROMOTED = "promoted"
"""The alias of the model that nodes take."""

NAME = re.compile(r"(?=[^A-Za-z0-9]*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
"""Of a run: it names a folder."""

_HEX = re.compile("[0-9a-f]{64}")


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got something else")


def _check_hash(name: str, value: str) -> None:
    _require(_HEX.fullmatch(value) is not None, name, "a SHA-256 as 64 hexadecimal digits")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SpentOn:
    """What one kind of release has cost so far: a mechanism, as an accountant reads it."""

    run: str  # in which it was released
    purpose: str
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
    def of(cls, run: str, release: Release) -> SpentOn:
        """From what drove it."""
        return cls(run=run, purpose=release.purpose, **asdict(release.mechanism))

    @property
    def mechanism(self) -> SampledGaussian:
        """For the accountants; UsageError if it is none that they could read."""
        values = asdict(self)
        return SampledGaussian(**{name: values[name] for name in values if name not in ("run", "purpose")})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Spent:
    """The privacy that a model has cost one person's record at a partner, void rounds included.

    `run_epsilon` is of the run that made it, `epsilon` of that run and of every run it was started from. Both follow
    from `releases` and can be computed again.
    """

    mode: Literal["local", "distributed"]
    delta: float
    promised: float  # epsilon of the whole run, as its plan says
    run_epsilon: float
    epsilon: float
    releases: tuple[SpentOn, ...]  # of this run first, then of the runs before

    @model_validator(mode="after")
    def _check(self) -> Spent:
        _require(0 < self.delta < 1, "delta", "a number between 0 and 1")
        for name in ("promised", "run_epsilon", "epsilon"):
            _require(0 < getattr(self, name) < math.inf, name, "a positive number")
        _require(1 <= len(self.releases) <= 10_000, "releases", "1 to 10000 kinds of releases")
        return self

    @classmethod
    def count(
        cls,
        run: str,
        mode: Literal["local", "distributed"],
        delta: float,
        promised: float,
        releases: Sequence[Release],
        before: Sequence[SpentOn] = (),
    ) -> Spent:
        """What a model has cost, by the accountants.

        Args:
            run: That made it.
            mode: Of the run's privacy.
            delta: At which everything is counted.
            promised: The plan's epsilon.
            releases: Everything that the run has charged so far.
            before: What the model had cost that the run started from.

        Raises:
            UsageError: If the accountants give no answer.
        """
        own = tuple(SpentOn.of(run, release) for release in releases)
        alone = epsilon([one.mechanism for one in own], delta)
        together = epsilon([one.mechanism for one in (*own, *before)], delta) if before else alone
        return cls(
            mode=mode,
            delta=delta,
            promised=promised,
            run_epsilon=alone,
            epsilon=together,
            releases=(*own, *before),
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Figure:
    """A measured value and the standard deviation of the noise that was added to it; 0 where there is none."""

    value: float
    noise_std: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> Figure:
        _require(self.noise_std >= 0, "noise_std", "0 or more")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Quality:
    """How good a model is over all partners, and at the partner where it is worst."""

    overall: Figure
    worst: Figure | None = None  # None where no partner answers on its own


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """A charged federated evaluation: larger values are better.

    `beside` holds other models measured in the same evaluation, by the SHA-256 of their bytes: a comparison on the
    same people and at the same time goes before one of figures from two times.
    """

    metric: str
    quality: Quality
    beside: dict[str, Quality] = field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Evaluation:
        _require(1 <= len(self.metric) <= 64, "metric", "a short name")
        for model in self.beside:
            _check_hash("beside", model)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Parent:
    """The model that a run started from."""

    run: str
    round: int
    card: str  # SHA-256 of its card
    model: str  # SHA-256 of its bytes


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Audit:
    """The signed audit result that was shown when a model was promoted."""

    reference: str  # SHA-256 of its text
    auditor: str  # public key, hex

    @model_validator(mode="after")
    def _check(self) -> Audit:
        _check_hash("reference", self.reference)
        _check_hash("auditor", self.auditor)
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Card:
    """What a model is: where it comes from, what it cost, how good it is, and which bytes it has."""

    run: str
    round: int
    edition: int = 1  # goes up when something is measured later
    plan: str  # its name
    plan_digest: str
    catalogue: str = ""  # digest; empty where none is known
    roster: int = 0  # version; 0 where there is none
    layout: str  # digest of names and shapes
    parameters: int  # D + P numbers
    model: str  # SHA-256 of the file
    size: int  # bytes of the file
    transcript: str = ""  # head: SHA-256 of the round's signed record; empty without secure aggregation
    spent: Spent | None = None  # None: nothing is promised
    metrics: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    audit: Audit | None = None
    parent: Parent | None = None
    issued: int  # UTC seconds

    @model_validator(mode="after")
    def _check(self) -> Card:
        _require(NAME.fullmatch(self.run) is not None, "run", "a run's name")
        _require(self.round >= 1, "round", "1 or more")
        _require(self.edition >= 1, "edition", "1 or more")
        for name in ("plan_digest", "layout", "model"):
            _check_hash(name, getattr(self, name))
        for name in ("catalogue", "transcript"):
            if getattr(self, name):
                _check_hash(name, getattr(self, name))
        _require(self.parameters >= 1 and self.size >= 1, "parameters", "at least 1")
        _require(self.roster >= 0 and self.issued >= 0, "roster", "0 or more")
        _require(len(self.metrics) <= 1000, "metrics", "at most 1000")
        return self

    @property
    def reference(self) -> str:
        """How a person names it: run:round."""
        return f"{self.run}:{self.round}"

    def encode(self, identity: Identity) -> bytes:
        """The signed document."""
        return seal(CARD, content_of(self), identity)

    @classmethod
    def decode(cls, data: bytes, keys: Sequence[bytes]) -> Card:
        """Read a card.

        Args:
            data: Bytes from outside.
            keys: The coordinator's signing key, and those it had before; 32 bytes each.

        Raises:
            MalformedError: If it is no card.
            ForgedDocumentError: If it is not signed by one of these keys.
        """
        return build(cls, opened(CARD, data, keys), CARD)

    def next_edition(self, issued: int, evaluation: Evaluation | None, audit: Audit | None) -> Card:
        """The card with what was measured since."""
        return replace(
            self,
            edition=self.edition + 1,
            issued=issued,
            evaluation=self.evaluation if evaluation is None else evaluation,
            audit=self.audit if audit is None else audit,
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Alias:
    """Which card a name stands for. The number goes up with every change."""

    name: str
    number: int
    run: str
    round: int
    card: str  # SHA-256 of the signed card
    model: str  # SHA-256 of the model's bytes
    reason: Literal["promotion", "rollback"]
    issued: int  # UTC seconds

    @model_validator(mode="after")
    def _check(self) -> Alias:
        _require(self.name == PROMOTED, "name", PROMOTED)
        _require(self.number >= 1, "number", "1 or more")
        _require(self.round >= 1 and self.issued >= 0, "round", "1 or more")
        _check_hash("card", self.card)
        _check_hash("model", self.model)
        return self

    def encode(self, identity: Identity) -> bytes:
        """The signed document."""
        return seal(ALIAS, content_of(self), identity)

    @classmethod
    def decode(cls, data: bytes, keys: Sequence[bytes]) -> Alias:
        """Read an alias; errors as `Card.decode`."""
        return build(cls, opened(ALIAS, data, keys), ALIAS)


def opened(kind: str, data: bytes, keys: Sequence[bytes]) -> Mapping[str, object]:
    """The body of a document that one of several keys has signed; errors as `open_sealed`."""
    if not keys:
        raise ValueError("expected at least one key, got none")
    for key in keys[:-1]:
        try:
            return open_sealed(kind, data, key)
        except ForgedDocumentError:
            continue
    return open_sealed(kind, data, keys[-1])


def card_digest(data: bytes) -> str:
    """SHA-256 of a signed card, in hex: what an alias and a registry name."""
    return digest(data)
