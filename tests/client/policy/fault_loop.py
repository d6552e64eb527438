"""Charges over a disk that fails once at every call it gets: `LD_PRELOAD=… python fault_loop.py FOLDER`, JSON out."""

from __future__ import annotations

import ctypes
import errno
import json
import sys
from pathlib import Path

from tests.ledgers import STEP, Place, charge

from silhouette_client.policy.ledger_store import read_chain
from silhouette_shared.errors import UnavailableError

KINDS = {"sync": 1, "write": 2, "truncate": 3}
SYNC_FOLDER = 4
MOST_CALLS = 40


def main(folder: Path) -> None:
    arm = ctypes.CDLL(None).fault_arm
    place = Place(folder)
    ledger = place.open()
    number, outcomes = 0, []
    for kind, kind_number in KINDS.items():
        for code in (errno.EIO, errno.ENOSPC):
            for nth in range(1, MOST_CALLS):
                number += 1
                arm(kind_number, nth, code)
                error = ""
                released = False
                try:
                    ledger.charge(charge(number)).redeem(STEP)
                    released = True
                except UnavailableError as unavailable:
                    error = str(unavailable)
                fired = bool(arm(0, 0, 0))
                ledger.close()
                ledger = place.open()  # the next start
                chain = read_chain(place.path)
                number += 1
                ledger.charge(charge(number)).redeem(STEP)  # and it goes on
                outcomes.append(
                    {
                        "kind": kind,
                        "error": errno.errorcode[code],
                        "nth": nth,
                        "fired": fired,
                        "released": released,
                        "message": error,
                        "charged": chain.holds(charge(number - 1)),
                    }
                )
                if not fired:
                    break
    ledger.close()
    arm(SYNC_FOLDER, 1, errno.EIO)
    try:
        place.open()
        start = "went through"
    except UnavailableError as unavailable:
        start = str(unavailable)
    arm(0, 0, 0)
    json.dump({"charges": outcomes, "start": start}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
