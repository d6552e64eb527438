"""The frozen rounds: what every message of SA-1 is, byte for byte, when all secret bytes are fixed.

    python -m tests.shared.secagg.freeze > tests/vectors/secagg_sa1.json

writes them anew. They may only change together with the protocol's version: a partner of the release before would
refuse what this one sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from tests.shared.secagg.house import House, Wire

from silhouette_shared.secagg import AheadKeys, Outcome, Step
from silhouette_shared.secagg.framing import VERSION

STEPS = (Step.ADVERTISE, Step.SHARE, Step.MASKED, Step.CONSISTENCY, Step.UNMASK)


def cases() -> Iterator[tuple[str, int, int, Mapping[str, int], bool]]:
    """Name, partners, rounds in a row, who vanishes before which step of the last, and whether keys are sent ahead."""
    for count in (3, 5, 10):
        for rounds in (1, 2):
            yield f"{count} partners, {rounds} in a row", count, rounds, {}, False
        for rounds in (2, 3):
            yield f"{count} partners, {rounds} in a row, keys ahead", count, rounds, {}, True
    for index, step in enumerate(STEPS):
        yield f"5 partners, the third gone before {step}", 5, 1, {"partner-02": index}, False
        yield (
            f"10 partners, first and last gone before {step}",
            10,
            1,
            {"partner-00": index, "partner-09": index},
            False,
        )
    scattered = {"partner-01": 0, "partner-04": 2, "partner-08": 3}
    yield "10 partners, three gone at three steps", 10, 1, scattered, False
    yield "10 partners, keys ahead, two gone before masked", 10, 2, {"partner-03": 2, "partner-05": 2}, True


def play(count: int, rounds: int, gone: Mapping[str, int], keys_ahead: bool) -> tuple[Wire, Outcome]:
    """The rounds of a case; the wire of the last one."""
    house, ahead = House(count, seed="frozen", keys="frozen"), None
    found: tuple[Wire, Outcome] | None = None
    for number in range(1, rounds + 1):
        wire = Wire()
        last = number == rounds

        def alive(step: Step, name: str, last: bool = last) -> bool:
            return not last or step not in STEPS or STEPS.index(step) < gone.get(name, len(STEPS))

        outcome: Outcome
        following: AheadKeys | None = None
        if keys_ahead:
            outcome, following = house.ahead_round(number, ahead, wire=wire, alive=alive)
        else:
            outcome = house.round(number, wire=wire, alive=alive)
        ahead = following
        found = wire, outcome
    if found is None:
        raise ValueError("expected at least one round")
    return found


def record(count: int, rounds: int, gone: Mapping[str, int], keys_ahead: bool) -> dict[str, Any]:
    """A case as it is frozen: messages by their SHA-256, the masked vectors, the sum and the whole transcript."""
    wire, outcome = play(count, rounds, gone, keys_ahead)
    return {
        "messages": [
            f"{step} {sender} {recipient} {hashlib.sha256(data).hexdigest()}"
            for step, sender, recipient, data in wire.log
        ],
        "words": {name: words.tobytes().hex() for name, words in wire.words.items()},
        "survivors": list(outcome.survivors),
        "total": outcome.total.tobytes().hex(),
        "transcript": base64.b64encode(outcome.transcript).decode(),
        "digest": outcome.digest.hex(),
    }


def frozen() -> dict[str, Any]:
    """All cases by name."""
    return {name: record(count, rounds, gone, ahead) for name, count, rounds, gone, ahead in cases()}


if __name__ == "__main__":
    json.dump({"protocol": VERSION, "rounds": frozen()}, sys.stdout, indent=1)
    sys.stdout.write("\n")
