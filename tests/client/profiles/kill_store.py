"""Children that write profiles, or rotate keys, until they are killed; each tells what was acknowledged.

python kill_store.py FOLDER KILLS SEED write|rotate
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

from tests.profiles import KEYRING, profile

from silhouette_client.profiles.keys import KeyFile, write_keyring
from silhouette_client.profiles.vault import Vault, rotate

PEOPLE = 40


def write(home: Path, acknowledged: int, told: int) -> None:
    """Write one person after another; after each a record of who and which version goes into the file.

    A byte goes into `told` when the store is open and after each write.
    """
    with Vault.open(home) as vault:
        os.write(told, b"1")
        number = os.fstat(acknowledged).st_size // 8
        while True:
            number += 1
            person = number % PEOPLE
            vault.put_many([(str(person), profile(number))], "test", "build")
            os.write(acknowledged, struct.pack(">II", person, number))
            os.write(told, b"1")


def turn_keys(home: Path, told: int) -> None:
    os.write(told, b"1")
    while True:
        rotate(home, "test")


def main(home: Path, kills: int, seed: int, what: str) -> None:
    draw = random.Random(seed)
    home.mkdir(exist_ok=True)
    write_keyring(home / "profiles.key", KEYRING, KeyFile())
    with Vault.open(home) as vault:
        vault.put_many([(str(person), profile(0)) for person in range(PEOPLE)], "test", "build")
    acknowledged = os.open(home / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for life in range(kills):
        reader, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if what == "write":
                    write(home, acknowledged, told)
                else:
                    turn_keys(home, told)
            finally:
                os._exit(1)  # a child ends by being killed; anything else is a failure
        os.close(told)
        # Opened, and in most lives two writes, however slow the machine is.
        for _ in range(1 if what != "write" or life % 4 == 0 else 3):
            if os.read(reader, 1) != b"1":
                sys.exit(f"life {life} could not open the store or ended by itself")
        time.sleep(draw.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.close(reader)  # only now: a child that writes into a closed pipe ends by itself
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"life {life} ended by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
