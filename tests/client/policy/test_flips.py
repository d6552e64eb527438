"""A single byte that changed on the disk is found, or says nothing: the entries read as before."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tests.ledgers import NODE, Place, charge

from silhouette_client.policy.ledger_store import read_chain
from silhouette_shared.errors import IntegrityError
from silhouette_shared.privacy.ledger import Entry


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A ledger of several pages."""
    place = Place(tmp_path_factory.mktemp("flips"))
    with place.open() as ledger:
        for number in range(1, 61):
            ledger.charge(charge(number, purpose="training" if number % 4 else "statistics"))
    return place


def flip(place: Place, folder: Path, position: int, mask: int) -> tuple[Entry, ...] | None:
    """The entries after a byte changed; None if that was found."""
    target = folder / "ledger.sqlite"
    content = bytearray(place.path.read_bytes())
    content[position] ^= mask
    target.write_bytes(content)
    shutil.copy(place.key, target.with_suffix(".key"))
    (folder / "ledger.sqlite-journal").unlink(missing_ok=True)
    try:
        chain = read_chain(target)
        head = place.witness.head(NODE)
        assert head is not None
        chain.check_head(head, "the witness")
    except IntegrityError:
        return None
    return tuple(chain.entries)


def check_flips(place: Place, folder: Path, count: int, seed: int) -> int:
    """How many of so many flips were found; the others have to leave everything as it was."""
    draw = random.Random(seed)
    whole = tuple(read_chain(place.path).entries)
    size = place.path.stat().st_size
    found = 0
    for _ in range(count):
        position, mask = draw.randrange(size), draw.randrange(1, 256)
        after = flip(place, folder, position, mask)
        assert after in (None, whole), f"byte {position} ^ {mask:#x} changed the ledger unseen"
        found += after is None
    return found


def test_fifty_flips_are_found_or_change_nothing(written: Place, tmp_path: Path) -> None:
    assert check_flips(written, tmp_path, 50, seed=3) > 25


@pytest.mark.slow
def test_a_thousand_flips_are_found_or_change_nothing(written: Place, tmp_path: Path) -> None:
    found = check_flips(written, tmp_path, 1000, seed=4)
    assert 500 < found < 1000


def test_every_byte_of_an_entry_counts(written: Place, tmp_path: Path) -> None:
    content = written.path.read_bytes()
    start = content.index(b'{"charge"')
    for position in range(start, start + 40):
        assert flip(written, tmp_path, position, 1) is None


def test_the_first_page_of_a_database_is_looked_at(written: Place, tmp_path: Path) -> None:
    whole = tuple(read_chain(written.path).entries)
    for position in range(100):  # SQLite's own header
        for mask in (0x01, 0x80):
            assert flip(written, tmp_path, position, mask) in (None, whole)
