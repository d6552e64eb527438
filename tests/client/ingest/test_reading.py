"""An agent gets the histories of those who consented, of items in the catalogue, and of nobody who was erased."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest
from tests.client.ingest.shop_files import catalogue, ingest, mapping, write

from silhouette_client.ingest.describing import coverage
from silhouette_client.ingest.reading import people, read_people
from silhouette_client.offers.people import TablesOnDisk, people_in
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.vault import Vault
from silhouette_shared.errors import RefusedError, UsageError
from silhouette_shared.schema import BEHAVIOURS

ATTRIBUTES = {"gender": ("F", "M"), "age": ("young", "old")}
EVENTS = ("u2,b,view,30,", "u1,a,view,20,4", "u1,b,cart,10,", "u1,c,purchase,20,", "u3,z,view,5,", "u4,a,view,1,")


class Excluded:
    def __init__(self, *users: str) -> None:
        self._users = set(users)

    def among(self, users: Sequence[str]) -> Collection[str]:
        return self._users & set(users)


@pytest.fixture
def shop(home: Path, tmp_path: Path) -> Path:
    ingest(home, write(tmp_path / "events.csv", *EVENTS))
    ingest(home, write(tmp_path / "users.csv", "u1,w", "u2,", "u9,m", header="who,sex"))
    return home


def test_histories_are_packed_as_written_out_by_hand(shop: Path) -> None:
    found = read_people(shop, catalogue("c", "b", "a").index, ATTRIBUTES)
    histories = found.histories
    assert found.users == ("u1", "u2", "u4")
    assert histories.offsets.tolist() == [0, 3, 4, 5]
    assert histories.items.tolist() == [2, 3, 1, 2, 3]  # the two of one second in the order in which they came
    assert [BEHAVIOURS[number - 1] for number in histories.behaviours.tolist()] == [
        "cart",
        "view",
        "purchase",
        "view",
        "view",
    ]
    assert histories.timestamps.tolist() == [10, 20, 20, 30, 1]
    assert histories.values.tolist() == [0, 10, 0, 0, 0]
    assert histories.attributes.tolist() == [[1, 0], [0, 0], [0, 0]]  # F, unknown; nobody has an age
    assert histories.has_times
    assert (found.unknown_items, found.only_unknown_items) == (1, 1)


def test_items_outside_the_catalogue_are_counted_and_stay(shop: Path) -> None:
    found = read_people(shop, catalogue("a").index, {})
    assert (found.users, found.unknown_items, found.only_unknown_items) == (("u1", "u4"), 4, 2)
    assert coverage(shop, ["a", "q"]) == {
        "catalogue_items": 2,
        "items_with_events": 1,
        "events_outside": 4,
        "items_outside": 3,
    }
    assert len(people(shop, catalogue("a", "b", "c", "z").index, {}).items) == len(EVENTS)


def test_only_people_who_consented_to_the_purpose_are_used(shop: Path, tmp_path: Path) -> None:
    rows = (
        "u1,training,yes,100",
        "u2,training,yes,100",
        "u2,training,no,200",  # took it back
        "u3,training,no,100",
        "u3,training,yes,200",  # later gave it
        "u4,profiling,yes,100",  # something else
    )
    strict = mapping().__class__(source=mapping().source)
    ingest(shop, write(tmp_path / "consent.csv", *rows, header="who,purpose,granted,at"), rules=strict)
    everything = catalogue("a", "b", "c", "z").index
    found = read_people(shop, everything, {})
    assert (found.users, found.without_consent) == (("u1", "u3"), 2)
    assert read_people(shop, everything, {}, "profiling").users == ("u4",)
    with pytest.raises(RefusedError, match="expected people who consented to selling, found none of 4"):
        people(shop, everything, {}, "selling")


def test_consent_kept_elsewhere_leaves_out_only_those_who_refused(shop: Path, tmp_path: Path) -> None:
    rows = ("u2,training,no,100", "u1,training,yes,100", "u1,training,no,100")  # in one second the refusal counts
    ingest(shop, write(tmp_path / "consent.csv", *rows, header="who,purpose,granted,at"))
    assert read_people(shop, catalogue("a", "b", "c", "z").index, {}).users == ("u3", "u4")


def test_without_a_consent_table_nobody_is_used_by_default(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events.csv", *EVENTS), rules=mapping().__class__(source=mapping().source))
    with pytest.raises(RefusedError, match="take in a consent table"):
        people(home, catalogue("a").index, {})


def test_excluded_people_are_left_out(shop: Path) -> None:
    found = read_people(shop, catalogue("a", "b", "c", "z").index, {}, exclusions=Excluded("u1", "u7"))
    assert (found.users, found.excluded) == (("u2", "u3", "u4"), 1)


def test_an_empty_node_says_what_to_do(home: Path) -> None:
    with pytest.raises(UsageError, match="node ingest"):
        people(home, catalogue("a").index, {})


def test_the_latest_row_of_a_person_counts_and_another_class_is_refused(shop: Path, tmp_path: Path) -> None:
    ingest(shop, write(tmp_path / "users-2.csv", "u1,m", header="who,sex"))
    found = read_people(shop, catalogue("a", "b", "c").index, {"gender": ("F", "M")})
    assert found.histories.attributes.tolist() == [[2], [0], [0]]
    with pytest.raises(UsageError, match="expected gender out of 1 classes, got 1 people with another"):
        people(shop, catalogue("a", "b", "c").index, {"gender": ("F",)})


def test_a_run_packs_what_was_taken_in_without_those_who_were_erased(shop: Path) -> None:
    source = people_in(shop, shop / "node" / "people")
    everybody = source.histories(catalogue("a", "b", "c", "z").index, {})
    assert everybody.lengths.tolist() == [3, 1, 1, 1]
    with Vault.open(shop, make=KeyFile()) as vault:
        vault.suppress("u1", "test")
    assert source.histories(catalogue("a", "b", "c", "z").index, {}).lengths.tolist() == [1, 1, 1]


def test_without_anything_taken_in_a_run_reads_the_tables_that_lie_there(home: Path) -> None:
    folder = home / "node" / "people"
    folder.mkdir(parents=True)
    assert isinstance(people_in(home, folder), TablesOnDisk)
