"""The offer on its way: the signed document with the roster and the public catalogue, and a partner's typed answer.

The documents are bytes here; `silhouette_shared.enrolment` reads and checks them. The catalogue travels as two arrays,
which Flower sends in chunks, and its public words; its digest is in the offer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import RecordDict
from torch import Tensor

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.model.encoder import Vocabulary
from silhouette_shared.wire.codec import Vector, WireError, from_records, to_records
from silhouette_shared.wire.messages import Description

OFFER = "query.offer"
ROSTER = "query.roster"
"""Flower message types that an enrolled partner answers."""

_WORDS_LIMIT = 512 * 2**20
_MOST_FIGURES = 50


@dataclass(frozen=True, eq=False)
class PublicCatalogue:
    """The catalogue that all partners of a run share, and the classes of the attributes that people declare."""

    catalogue: Catalogue
    attributes: Mapping[str, tuple[str, ...]]  # public classes in order

    @property
    def digest(self) -> str:
        """SHA-256 over all of it, in hex."""
        words = json.dumps([[name, list(classes)] for name, classes in self.attributes.items()], ensure_ascii=True)
        return hashlib.sha256(f"silhouette.offered {self.catalogue.digest()} {words}".encode("ascii")).hexdigest()

    def vocabulary(self) -> Vocabulary:
        """What an encoder is built on; item 0 is padding."""
        return Vocabulary(
            categories=_with_padding(self.catalogue.category_matrix),
            content=_with_padding(self.catalogue.content),
            attributes=tuple((name, len(classes)) for name, classes in self.attributes.items()),
        )


def _with_padding(matrix: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros((1, matrix.shape[1]), np.float32), matrix]))


def model_digest(parameters: Vector) -> str:
    """SHA-256 of a model's little-endian float32 bytes, (D,), in hex: what an offer calls its start model."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").data).hexdigest()


@dataclass(frozen=True, eq=False)
class OfferRequest:
    """Asks a partner to take part in a run."""

    offer: bytes  # signed
    roster: bytes  # signed, the one that the offer goes by
    catalogue: PublicCatalogue

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        held = self.catalogue.catalogue
        words = {
            "items": list(held.items),
            "titles": list(held.titles),
            "categories": list(held.categories),
            "texts": list(held.texts),
            "attributes": [[name, list(classes)] for name, classes in self.catalogue.attributes.items()],
        }
        arrays = {"category_matrix": held.category_matrix.reshape(-1), "content": held.content.reshape(-1)}
        return to_records(
            {"offer": self.offer, "roster": self.roster, "words": json.dumps(words).encode("ascii")},
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> OfferRequest:
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(
            records,
            {"offer": bytes, "roster": bytes, "words": bytes},
            {"category_matrix": "float32", "content": "float32"},
        )
        return cls(
            offer=cast(bytes, config["offer"]),
            roster=cast(bytes, config["roster"]),
            catalogue=_catalogue(cast(bytes, config["words"]), arrays["category_matrix"], arrays["content"]),
        )


def _catalogue(
    data: bytes, category_matrix: npt.NDArray[np.float32], content: npt.NDArray[np.float32]
) -> PublicCatalogue:
    if len(data) > _WORDS_LIMIT:
        raise WireError(f"expected at most {_WORDS_LIMIT} bytes of words in a catalogue, got {len(data)}; refuse it")
    try:
        words: Any = json.loads(data.decode("ascii"))
        items, categories = _strings(words["items"]), _strings(words["categories"])
        catalogue = Catalogue(
            items=items,
            titles=_strings(words["titles"]),
            categories=categories,
            category_matrix=category_matrix.reshape(len(items), len(categories)),
            texts=_strings(words["texts"]),
            content=content.reshape(len(items), -1 if len(content) else 0),
        )
        pairs = [(name, _strings(classes)) for name, classes in words["attributes"]]
        attributes = dict(pairs)
        if set(words) != {"items", "titles", "categories", "texts", "attributes"} or len(attributes) != len(pairs):
            raise ValueError("other words")
        if not all(isinstance(name, str) and classes for name, classes in pairs):
            raise ValueError("attributes without classes")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WireError(
            f"expected a whole public catalogue, got another form ({type(error).__name__}); refuse it"
        ) from None
    return PublicCatalogue(catalogue, attributes)


def _strings(found: object) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise TypeError("not a list of words")
    return tuple(found)


@dataclass(frozen=True)
class Refusal:
    """Why a partner does not take part, for people and for programs."""

    partner: str
    code: str
    reason: str
    exit_code: int
    figures: Mapping[str, str | int | float] = field(default_factory=dict)

    def __str__(self) -> str:
        """As a log line has it."""
        return f"{self.partner}: {self.code}: {self.reason}"


@dataclass(frozen=True)
class OfferAnswer:
    """A partner's answer: it has opened the run, or it refuses. Nothing here depends on a person's record."""

    content: Description | Refusal

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        if isinstance(self.content, Description):
            return self.content.encode()
        refusal = self.content
        return to_records(
            {
                "partner": refusal.partner,
                "code": refusal.code,
                "reason": refusal.reason,
                "exit_code": refusal.exit_code,
                "figures": json.dumps(dict(refusal.figures), sort_keys=True),
            }
        )

    @classmethod
    def decode(cls, records: RecordDict) -> OfferAnswer:
        """The message from Flower records; WireError if it is neither of the two."""
        try:
            return cls(Description.decode(records))
        except WireError:
            return cls(_refusal(records))


def _refusal(records: RecordDict) -> Refusal:
    config, _ = from_records(
        records, {"partner": str, "code": str, "reason": str, "exit_code": int, "figures": str}, {}
    )
    try:
        figures = json.loads(str(config["figures"]))
    except (ValueError, RecursionError):
        figures = None
    if (
        not isinstance(figures, dict)
        or len(figures) > _MOST_FIGURES
        or not all(isinstance(value, str | int | float) for value in figures.values())
    ):
        raise WireError("expected numbers and words as figures of a refusal, got others")
    return Refusal(
        partner=str(config["partner"]),
        code=str(config["code"]),
        reason=str(config["reason"]),
        exit_code=int(str(config["exit_code"])),
        figures=figures,
    )


@dataclass(frozen=True)
class RosterNotice:
    """Brings a partner the newest signed roster; it is what peers learn a revocation from."""

    roster: bytes

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records({"roster": self.roster})

    @classmethod
    def decode(cls, records: RecordDict) -> RosterNotice:
        """The message from Flower records; WireError if the form differs."""
        config, _ = from_records(records, {"roster": bytes}, {})
        return cls(cast(bytes, config["roster"]))


@dataclass(frozen=True)
class RosterHeld:
    """Which roster a partner goes by from now on, or why it did not take the one that came."""

    partner: str
    version: int  # of the roster that it holds
    refusal: str = ""  # empty: it holds the one that came

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records({"partner": self.partner, "roster": self.version, "refusal": self.refusal})

    @classmethod
    def decode(cls, records: RecordDict) -> RosterHeld:
        """The message from Flower records; WireError if the form differs."""
        config, _ = from_records(records, {"partner": str, "roster": int, "refusal": str}, {})
        return cls(str(config["partner"]), int(str(config["roster"])), str(config["refusal"]))
