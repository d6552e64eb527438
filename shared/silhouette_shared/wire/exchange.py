"""The messages of a secure round: what the state machines of `silhouette_shared.secagg` say, carried by Flower.

One exchange is a message to every partner and an answer from each. The parts are the state machines' own bytes, signed
and checked there; here it is checked that a message brings the parts of its step and no others. Vectors travel beside
them as arrays, which Flower sends in chunks: as bytes 40 MB took fifty times longer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from flwr.app import RecordDict

from silhouette_shared.wire.codec import Vector, WireError, array_names, from_records, to_records

ExchangeStep = Literal["advertise", "share", "mask", "agree", "unmask"]
"""In the order of a round. With keys sent ahead a round begins with `mask`."""

STEPS: tuple[ExchangeStep, ...] = get_args(ExchangeStep)

# What a message of a step brings: each of these sets of parts, and no other.
_ASKED: Mapping[ExchangeStep, tuple[frozenset[str], ...]] = {
    "advertise": (frozenset({"manifest"}),),
    "share": (frozenset({"roll"}),),
    "mask": (frozenset({"delivery"}), frozenset({"manifest", "delivery"})),
    "agree": (frozenset({"survivors"}),),
    "unmask": (frozenset({"quorum"}), frozenset({"quorum", "roll"})),
}
_ANSWERED: Mapping[ExchangeStep, tuple[frozenset[str], ...]] = {
    "advertise": (frozenset({"advertise"}),),
    "share": (frozenset({"shares"}),),
    "mask": (frozenset({"masked"}),),
    "agree": (frozenset({"agreement"}), frozenset({"agreement", "advertise"})),
    "unmask": (frozenset({"unmask"}), frozenset({"unmask", "shares"})),
}
_INPUTS = {"parameters": "float32", "beside": "float32", "active": "int64"}  # `beside`: a model to compare with
_FIELDS = {"run": str, "purpose": str, "round": int, "step": str, "names": list, "parts": list}


@dataclass(frozen=True)
class Exchange:
    """What the coordinator asks of one partner in one step."""

    run: str
    purpose: str  # what the sum is for
    round: int  # of that purpose, as the plan counts
    step: ExchangeStep
    parts: Mapping[str, bytes]
    missed: tuple[bytes, ...] = ()  # transcripts that this partner may not have seen, oldest first
    inputs: Mapping[str, Vector] = field(default_factory=dict)  # what the round starts from; its digest is signed

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        settings = _settings(self.run, self.purpose, self.round, self.step, self.parts)
        return to_records({**settings, "missed": list(self.missed)}, self.inputs)

    @classmethod
    def decode(cls, records: RecordDict) -> "Exchange":
        """The message from Flower records; WireError if the form differs."""
        inputs = array_names(records)
        if inputs and not inputs <= set(_INPUTS):
            raise WireError(f"expected the arrays {sorted(_INPUTS)} at most, got {sorted(inputs)}")
        config, arrays = from_records(records, {**_FIELDS, "missed": list}, {name: _INPUTS[name] for name in inputs})
        step, parts = _parts(config["step"], config["names"], config["parts"], _ASKED)
        missed = tuple(_bytes(config["missed"]))
        if "manifest" not in parts and (inputs or missed):
            raise WireError("expected inputs and transcripts beside a manifest alone, got some in a later step")
        return cls(
            run=str(config["run"]),
            purpose=str(config["purpose"]),
            round=int(str(config["round"])),
            step=step,
            parts=parts,
            missed=missed,
            inputs=arrays,
        )


@dataclass(frozen=True)
class Answer:
    """What one partner answers in one step. Nothing here tells of its people but the masked words."""

    run: str
    purpose: str
    round: int
    step: ExchangeStep
    parts: Mapping[str, bytes]
    words: Vector | None = None  # (size,) uint32, masked; in the step `mask` alone

    def encode(self) -> RecordDict:
        """The message as Flower records."""
        settings = _settings(self.run, self.purpose, self.round, self.step, self.parts)
        return to_records(settings, None if self.words is None else {"words": self.words})

    @classmethod
    def decode(cls, records: RecordDict) -> "Answer":
        """The message from Flower records; WireError if the form differs."""
        config, arrays = from_records(records, _FIELDS, {"words": "uint32"} if array_names(records) else {})
        step, parts = _parts(config["step"], config["names"], config["parts"], _ANSWERED)
        if (step == "mask") != ("words" in arrays):
            raise WireError(f"expected masked words in the step mask and only there, got the step {step}")
        return cls(
            run=str(config["run"]),
            purpose=str(config["purpose"]),
            round=int(str(config["round"])),
            step=step,
            parts=parts,
            words=arrays.get("words"),
        )


def _settings(
    run: str, purpose: str, number: int, step: ExchangeStep, parts: Mapping[str, bytes]
) -> dict[str, str | int | bytes | list[str] | list[bytes]]:
    names = sorted(parts)
    return {
        "run": run,
        "purpose": purpose,
        "round": number,
        "step": step,
        "names": names,
        "parts": [parts[name] for name in names],
    }


def _parts(
    step: object, names: object, parts: object, allowed: Mapping[ExchangeStep, tuple[frozenset[str], ...]]
) -> tuple[ExchangeStep, dict[str, bytes]]:
    if step not in STEPS:
        raise WireError(f"expected one of the steps {', '.join(STEPS)}, got another")
    listed = cast(list[object], names)
    values = _bytes(parts)
    known = [name for name in listed if isinstance(name, str)]
    if len(known) != len(values) or len(known) != len(listed) or known != sorted(set(known)):
        raise WireError("expected a name for every part, once and in order, got other names")
    if frozenset(known) not in allowed[step]:
        raise WireError(f"expected the parts of the step {step}, got {known}")
    return step, dict(zip(known, values, strict=True))


def _bytes(values: object) -> list[bytes]:
    found = [value for value in cast(list[object], values) if isinstance(value, bytes)]
    if len(found) != len(cast(list[object], values)):
        raise WireError("expected bytes, got another type")
    return found
