"""The rounds of tests/vectors/secagg_sa1.json come out byte for byte, and pass every check as they are stored."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.shared.secagg.freeze import cases, record
from tests.shared.secagg.house import RUN, House

from silhouette_shared.secagg import genesis, verify_sum, verify_transcript
from silhouette_shared.secagg.framing import VERSION

FROZEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "secagg_sa1.json").read_text(encoding="utf-8")
)
CASES = {name: (count, rounds, gone, ahead) for name, count, rounds, gone, ahead in cases()}


def test_there_are_twenty_frozen_rounds_of_this_version_with_and_without_dropouts() -> None:
    assert FROZEN["protocol"] == VERSION
    assert set(FROZEN["rounds"]) == set(CASES)
    assert len(CASES) >= 20
    assert {count for count, _, _, _ in CASES.values()} == {3, 5, 10}
    dropped = [len(FROZEN["rounds"][name]["survivors"]) < CASES[name][0] for name in CASES]
    assert sum(dropped) >= 8
    assert len(dropped) - sum(dropped) >= 10


@pytest.mark.parametrize("name", CASES)
def test_a_frozen_round_comes_out_byte_for_byte(name: str) -> None:
    assert record(*CASES[name]) == FROZEN["rounds"][name]


@pytest.mark.parametrize("name", CASES)
def test_a_frozen_transcript_and_its_sum_pass_every_check_as_stored(name: str) -> None:
    stored = FROZEN["rounds"][name]
    count, rounds, _, _ = CASES[name]
    pins = House(count, keys="frozen").pins
    data = base64.b64decode(stored["transcript"])
    previous = genesis(RUN)
    if rounds > 1:
        before = next(n for n, (c, r, gone, a) in CASES.items() if (c, r, a) == (count, 1, False) and not gone)
        # With keys sent ahead, the round before has the same manifest and sum but is not among the cases in full.
        first = base64.b64decode(FROZEN["rounds"][before]["transcript"])
        one = verify_transcript(first, pins, run=RUN, previous=previous)
        previous = one.digest
        if rounds > 2:
            again = next(n for n, (c, r, gone, a) in CASES.items() if (c, r, a) == (count, 2, True) and not gone)
            second = base64.b64decode(FROZEN["rounds"][again]["transcript"])
            previous = verify_transcript(second, pins, run=RUN, previous=previous, last=one.manifest).digest
    checked = verify_transcript(data, pins, run=RUN, previous=previous)
    assert checked.digest.hex() == stored["digest"]
    assert list(checked.survivors) == stored["survivors"]
    total = np.frombuffer(bytes.fromhex(stored["total"]), np.uint32)
    words = {who: np.frombuffer(bytes.fromhex(text), np.uint32) for who, text in stored["words"].items()}
    verify_sum(checked, total, [(who, words[who]) for who in checked.survivors])
