"""The promoted model on its way to a partner: the signed alias and card first, the bytes only to whoever asks for them.

The documents and the bytes are not checked here; `silhouette_shared.cards` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import RecordDict

from silhouette_shared.wire.codec import Vector, WireError, from_records, to_records

MODEL = "query.model"
"""Flower message type that an enrolled partner answers."""

_WORD = 4  # bytes; Flower sends arrays in chunks, and bytes as one value


@dataclass(frozen=True)
class ModelNotice:
    """Tells a partner which model is promoted, and brings it along if there is one in it."""

    alias: bytes  # signed
    card: bytes  # signed
    model: bytes = b""  # empty: only told

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        padded = self.model + bytes(-len(self.model) % _WORD)
        return to_records(
            {"alias": self.alias, "card": self.card, "size": len(self.model)},
            {"model": np.frombuffer(padded, dtype="<u4")},
        )

    @classmethod
    def decode(cls, records: RecordDict) -> ModelNotice:
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(records, {"alias": bytes, "card": bytes, "size": int}, {"model": "uint32"})
        return cls(
            alias=cast(bytes, config["alias"]),
            card=cast(bytes, config["card"]),
            model=_unpadded(arrays["model"], int(str(config["size"]))),
        )


def _unpadded(words: Vector, size: int) -> bytes:
    content = words.tobytes()
    if not 0 <= len(content) - size < _WORD or any(content[size:]):
        raise WireError(f"expected a model of {size} bytes, got {len(content)}; refuse it")
    return content[:size]


@dataclass(frozen=True)
class ModelHeld:
    """Which promoted model a partner holds now, whether it wants to be sent the one told of, or why it does not."""

    partner: str
    number: int  # of the alias that it holds; 0 if it never took one
    wanted: bool = False
    refusal: str = ""  # code and reason

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        return to_records(
            {"partner": self.partner, "number": self.number, "wanted": int(self.wanted), "refusal": self.refusal}
        )

    @classmethod
    def decode(cls, records: RecordDict) -> ModelHeld:
        """The message from Flower records; WireError if the form differs."""
        config, _ = from_records(records, {"partner": str, "number": int, "wanted": int, "refusal": str}, {})
        if config["wanted"] not in (0, 1):
            raise WireError(f"expected 0 or 1 for wanted, got {config['wanted']!r}; refuse it")
        return cls(
            partner=str(config["partner"]),
            number=int(str(config["number"])),
            wanted=config["wanted"] == 1,
            refusal=str(config["refusal"]),
        )
