"""What a round of secure aggregation costs, beside Flower's SecAgg+ on the same vectors.

    python simulations/benchmarks/secure_aggregation.py

Processor time, not the clock's. Ours is everything that one partner does in a round: encoding, keys, shares,
signatures, masks and the digest of what it sends. Flower's is what one partner of its client does to a vector, with
Flower's own functions: quantising, masks, serialising; its shares are left out. Twice compared: the whole, and the
masks alone. The two take turns.
"""

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from flwr.common import ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import generate_key_pairs

from silhouette_shared.randomness import SecureSource
from silhouette_shared.secagg import (
    Coordinator,
    Identity,
    Layout,
    MaskedReply,
    Partner,
    Pins,
    Section,
    Terms,
    genesis,
)
from silhouette_shared.secagg.standing import Standing

RUN = "benchmark"
DIGEST = bytes(32)
LEDGER = Standing(0, bytes(32))
MOD_RANGE = 1 << 32


T = TypeVar("T")


class Stopwatch:
    """Adds up processor seconds by what they were spent on."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.seconds: dict[str, float] = {}

    def time(self, what: str, call: Callable[..., T], *arguments: object) -> T:
        """Call and add the processor seconds that it took."""
        started = time.process_time()
        result = call(*arguments)
        self.seconds[what] = self.seconds.get(what, 0.0) + time.process_time() - started
        return result


def round_of_ours(partners: int, values: npt.NDArray[np.int64], dropped: int) -> tuple[Stopwatch, dict[str, int], int]:
    """One round of five steps.

    Args:
        partners: On the roster.
        values: Every partner's vector, within 2**20.
        dropped: How many vanish after dealing their shares, the costliest moment for the coordinator.

    Returns:
        Processor seconds of all partners together and of the coordinator, bytes up and down per partner (the largest)
        and the most memory in bytes that the coordinator took for vectors and sum.
    """
    source = SecureSource()
    identities = {f"p{number:02d}": Identity.generate(source) for number in range(partners)}
    key = Identity.generate(source)
    pins = Pins(key.public, {name: identity.public for name, identity in identities.items()})
    layout = Layout((Section("update", values.size, -(1 << 20), 1 << 20),))
    terms = Terms("training", layout, DIGEST, DIGEST, DIGEST)
    parts = {name: Partner(name, identity, pins, RUN, source) for name, identity in identities.items()}
    watch = Stopwatch()
    bytes_of = {"up": 0, "down": 0}
    leader = Coordinator(key, pins, RUN, 1, terms, previous=genesis(RUN))

    def exchange(step: str, messages: dict[str, bytes], answer: Callable[[Partner, bytes], bytes]) -> dict[str, bytes]:
        found = {name: watch.time(f"partner {step}", answer, parts[name], data) for name, data in messages.items()}
        bytes_of["down"] += max(map(len, messages.values()))
        bytes_of["up"] += max(map(len, found.values()))
        return found

    adverts = exchange("keys", leader.open(), lambda one, data: one.advertise(data, terms, LEDGER))
    rolls = watch.time("coordinator keys", leader.advertised, adverts)
    deliveries = watch.time(
        "coordinator keys", leader.shared, exchange("shares", rolls, lambda one, data: one.share(data))
    )
    bytes_of["down"] += max(map(len, deliveries.values()))
    largest = 0
    peak = 0
    for name, data in list(deliveries.items())[dropped:]:
        encoded = watch.time("partner encoding", layout.encode, {"update": values})
        reply: MaskedReply = watch.time("partner masks", parts[name].mask, data, encoded)
        largest = max(largest, len(reply.message) + reply.words.nbytes)
        del encoded
        tracemalloc.start()
        watch.time("coordinator sum", leader.masked, name, reply.message, reply.words)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bytes_of["up"] += largest
    quorum = watch.time(
        "coordinator agreement",
        leader.agreed,
        exchange("agreement", leader.survivors(), lambda one, data: one.agree(data)),
    )
    opened = exchange("unmasking", quorum, lambda one, data: one.unmask(data))
    outcome = watch.time("coordinator unmasking", leader.unmasked, opened)
    if not np.array_equal(outcome.sums["update"], (partners - dropped) * values):
        sys.exit("expected the survivors' exact sum, got another")
    return watch, bytes_of, peak


def round_of_flower(partners: int, values: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Processor seconds that one partner of Flower's SecAgg+ takes: to quantise and serialise, and to mask.

    The statements of `_collect_masked_vectors` of 1.41 in their order, with Flower's own functions.
    """
    own, _ = generate_key_pairs()
    peers = [generate_key_pairs()[1] for _ in range(partners - 1)]
    parameters = [values * 2.0**-20]
    started = time.process_time()
    quantised = factor_combine(1, quantize(parameters_multiply(parameters, 1.0), 1.0, 1 << 22))
    shapes = [array.shape for array in quantised]
    prepared = time.process_time()
    masked = parameters_addition(quantised, pseudo_rand_gen(bytes(32), MOD_RANGE, shapes))
    for number, peer in enumerate(peers):
        mask = pseudo_rand_gen(generate_shared_key(own, peer), MOD_RANGE, shapes)
        masked = parameters_addition(masked, mask) if number % 2 else parameters_subtraction(masked, mask)
    masked = parameters_mod(masked, MOD_RANGE)
    done = time.process_time()
    sent = [ndarray_to_bytes(array) for array in masked]
    del sent
    return prepared - started + time.process_time() - done, done - prepared


def main() -> None:
    """Print cost, ratio, bytes and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="partners x words, such as 10x10000000; may be repeated")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    for shape in arguments.shape or ["10x10000000", "50x1000000"]:
        partners, words = (int(text) for text in shape.split("x"))
        values = np.random.default_rng(0).integers(-(1 << 20), 1 << 20, words)
        dropped = partners // 10
        ours: list[float] = []
        masks: list[float] = []
        flowers: list[float] = []
        their_masks: list[float] = []
        for turn in range(arguments.turns):
            watch, sizes, _ = round_of_ours(partners, values, dropped)
            partner = sum(seconds for what, seconds in watch.seconds.items() if what.startswith("partner"))
            # Who dropped out did less; counted as if everybody had done all.
            ours.append(partner / (partners - dropped))
            masks.append(watch.seconds["partner masks"] / (partners - dropped))
            others, masking = round_of_flower(partners, values)
            flowers.append(others + masking)
            their_masks.append(masking)
            if not turn:
                for what, seconds in sorted(watch.seconds.items()):
                    each = seconds / (partners - dropped) if what.startswith("partner") else seconds
                    print(f"  {what:24s} {each:8.3f} s{' each' if what.startswith('partner') else ''}")
                print(
                    f"  bytes a partner: up {sizes['up']:,} ({sizes['up'] / words:.3f} a word), down {sizes['down']:,}"
                )
        print(f"{partners} partners, {words:,} words, {dropped} dropped, median of {arguments.turns} turns")
        for what, mine, theirs in (("a partner and round", ours, flowers), ("its masks alone", masks, their_masks)):
            ratio = statistics.median(theirs) / statistics.median(mine)
            print(
                f"  {what:20s} {statistics.median(mine):.3f} s (largest {max(mine):.3f}), "
                f"Flower's {statistics.median(theirs):.3f} s: {ratio:.1f} times"
            )
    for partners in (5, 20, 50):
        _, _, peak = round_of_ours(partners, np.zeros(1_000_000, np.int64), 0)
        print(f"coordinator's memory for the sum of {partners:2d} vectors of 1,000,000 words: {peak / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
