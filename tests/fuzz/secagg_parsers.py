"""Fuzz every parser of the secure aggregation's own messages, and the check of a transcript.

    pip install atheris && python -m tests.fuzz.secagg_parsers -max_total_time=600  # guided by coverage
    python -m tests.fuzz.secagg_parsers --plain 600                                 # without it, for so many seconds

Whatever comes in is decoded whole, so that encoding gives the same bytes again, or refused with a FramingError; a
transcript is refused with an AbortError; and no parse allocates more than twice the stated limit of a message. Anything
else ends the fuzzer with the input.
"""

from __future__ import annotations

from tests.fuzz.driver import Bounded, main
from tests.shared.secagg.house import RUN, House, Wire

from silhouette_shared.secagg import AbortError, genesis, verify_transcript
from silhouette_shared.secagg.framing import MESSAGE_LIMIT, FramingError, Message
from silhouette_shared.secagg.messages import MESSAGES, Advertise, Transcript
from silhouette_shared.secagg.standing import Standing, decode_seen

_HOUSE = House(3)
_GENESIS = genesis(RUN)


def one_input(data: bytes) -> None:
    """Give the bytes to every parser, as they are and behind each right header."""
    for kind in MESSAGES:
        for candidate in (data, kind._header() + data):
            check(kind, candidate)


def check(kind: type[Message], data: bytes) -> None:
    """Decode, and say what went wrong if anything did."""
    with Bounded(2 * MESSAGE_LIMIT, kind.__name__):
        try:
            message = kind.decode(data)
        except FramingError:
            return
    if message.encode() != data:
        raise AssertionError(f"{kind.__name__}: another encoding of {data.hex()}")
    if isinstance(message, Advertise):
        Standing.decode(message.ledger)
        decode_seen([str(number) for number in range(len(message.seen) // 40)], message.seen)
    if isinstance(message, Transcript):
        try:
            verify_transcript(data, _HOUSE.pins, run=RUN, previous=_GENESIS)
        except AbortError:
            return


def corpus() -> list[bytes]:
    """All messages of an honest round."""
    wire = Wire()
    outcome = House(3).round(wire=wire)
    return [*dict.fromkeys(data for _, _, _, data in wire.log), outcome.transcript]


if __name__ == "__main__":
    main(one_input, corpus())
