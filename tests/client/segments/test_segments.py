"""Segments hold at least k people, forget who is erased, and are found again by likeness."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.segmented import NOW, fill, person

from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.vault import Vault, rotate
from silhouette_client.segments.finding import find_lookalikes
from silhouette_client.segments.index import StoredSegments
from silhouette_client.segments.lookalike import SCORINGS, described, held_out_lift, lift, likeness
from silhouette_client.segments.making import by_clusters, by_preset, by_rule, segment_of, telling_tags
from silhouette_client.segments.map import projections
from silhouette_client.segments.page import page
from silhouette_client.segments.people import FIELDS, PeopleTable, table_of
from silhouette_client.segments.segment import Segment, SmallSegmentError, decode_segment, encode_segment
from silhouette_shared.cli import main
from silhouette_shared.errors import IntegrityError, UsageError

PEOPLE = 120


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("segments")
    with Vault.open(home, make=KeyFile()) as vault:
        fill(vault, PEOPLE)
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "home"
    shutil.copytree(filled, copy)
    monkeypatch.setenv("SILHOUETTE_HOME", str(copy))
    return copy


@pytest.fixture(scope="module")
def table(filled: Path) -> PeopleTable:
    with Vault.open(filled) as vault:
        return table_of(vault.everybody("test", "segment", FIELDS), NOW)


def segment(table: PeopleTable, name: str = "dramas", least: int = 20) -> Segment:
    rows = by_rule(table, '"Drama" in tags')
    return segment_of(table, rows, name=name, made_by="rule", rule='"Drama" in tags', least=least, now=NOW)


def test_who_was_erased_suppressed_or_lost_the_profile_since_is_in_no_segment_that_is_written_then(
    home: Path, table: PeopleTable
) -> None:
    before = segment(table)
    with Vault.open(home) as vault:
        vault.erase("p2", "test")
        vault.suppress("p4", "test")
        left = [f"p{number}" for number in range(PEOPLE) if number != 6]
        vault.keep_only(left, "test", vault.newest_change())
        vault.put_segment(before, "test")
        (kept,) = vault.segments("test")
        gone = {vault.pseudonym(user) for user in ("p2", "p4", "p6")}
        assert set(kept.members) == set(before.members) - gone
        with pytest.raises(SmallSegmentError, match="expected a segment of at least 60 people"):
            vault.put_segment(segment(table, "all-of-them", least=PEOPLE // 2), "test")
        assert [one.name for one in vault.segments("test")] == ["dramas"]


def test_a_rule_chooses_by_tags_traits_behaviour_and_rfm(table: PeopleTable) -> None:
    assert len(by_rule(table, '"Drama" in tags')) == PEOPLE // 2
    assert len(by_rule(table, '"Drama" in tags and recency_days > 100')) == 0
    assert len(by_rule(table, 'guess.gender == "M" and days_active > 100 and recency_days > 100')) == PEOPLE // 2
    counts = [float(str(table.facts[row]["count.purchase"])) for row in by_rule(table, "count.purchase >= 7")]
    assert set(counts) == {7.0}
    assert len(by_rule(table, "count.cart == 0")) == PEOPLE  # of what is not counted there was none
    best = by_rule(table, "rfm.monetary == 5")
    others = by_rule(table, "rfm.monetary < 5")
    assert 0 < len(best) < PEOPLE
    spent = [float(str(facts["spent"])) for facts in table.facts]
    assert min(spent[row] for row in best) > max(spent[row] for row in others)


def test_where_no_purchase_has_a_price_high_value_is_who_buys_most() -> None:
    records = []
    for number in range(60):
        bare = person(number)
        assert bare.facts is not None
        facts = {name: value for name, value in bare.facts.items() if name != "spent"}
        records.append((bytes([number]) * 32, type(bare)(**{**vars(bare), "facts": facts})))
    found = table_of(records, NOW)
    words, rows = by_preset(found, "high-value")
    assert words == "rfm.frequency >= 5"
    counts = [float(str(facts["count.purchase"])) for facts in found.facts]
    assert min(counts[row] for row in rows) == max(counts)


def test_presets_choose_who_spends_who_stays_away_and_who_is_unlike_the_others(table: PeopleTable) -> None:
    words, rows = by_preset(table, "high-value")
    assert words == "rfm.monetary >= 4 and rfm.frequency >= 4"
    assert len(rows) > 0
    _, away = by_preset(table, "at-risk")
    assert len(away) > 0
    assert all(float(str(table.facts[row]["recency_days"])) > 100 for row in away)
    records = [(bytes([number]) * 32, person(number)) for number in range(60)]
    strange = person(3)
    assert strange.facts is not None
    odd = {**strange.facts, "events": 100_000.0, "count.purchase": 90_000.0, "trait.breadth": 0.99}
    records[3] = (records[3][0], type(strange)(**{**vars(strange), "facts": odd}))
    made = table_of(records, NOW)
    found = by_preset(made, "unusual-behaviour")[1]
    assert len(found) == 3  # 5 % of 60
    assert 3 in found
    with pytest.raises(UsageError, match="expected a preset out of high-value, at-risk, unusual-behaviour, got 'best'"):
        by_preset(table, "best")


def test_without_tags_and_prices_clusters_are_told_by_behaviour_and_high_value_by_frequency() -> None:
    records = []
    for number in range(60):
        full = person(number)
        assert full.facts is not None
        kind = "cart" if number % 2 else "view"
        facts = {"events": 10.0, "count.purchase": float(number % 5), f"count.{kind}": 10.0 - number % 5}
        records.append((bytes([number]) * 32, type(full)(**{**vars(full), "tags": (), "facts": facts})))
    bare = table_of(records, NOW)
    told = {one.more[0] for one in by_clusters(bare, 2)}
    assert told == {"count.view (8.00, all 4.00)", "count.cart (8.00, all 4.00)"}
    words, rows = by_preset(bare, "high-value")
    assert words == "rfm.frequency >= 5"
    assert len(rows) == 12, "the fifth with the most purchases"


def test_clusters_put_like_people_together_and_say_how_they_differ(table: PeopleTable) -> None:
    first, second = by_clusters(table, 2)
    assert {len(first.rows), len(second.rows)} == {PEOPLE // 2}
    assert {first.more, second.more} == {("Drama", "War"), ("Comedy",)}
    with pytest.raises(UsageError, match="expected 2 to 120 clusters"):
        by_clusters(table, 121)


def test_groups_below_k_are_refused_and_k_has_a_floor(table: PeopleTable) -> None:
    rows = by_rule(table, "count.purchase >= 7")
    assert len(rows) < 20
    settings = {"name": "few", "made_by": "rule", "rule": "count.purchase >= 7", "now": NOW}
    with pytest.raises(SmallSegmentError, match="expected a segment of at least 20 people, got fewer") as caught:
        segment_of(table, rows, least=20, **settings)  # type: ignore[arg-type]
    assert str(len(rows)) not in str(caught.value)
    assert segment_of(table, rows, least=5, **settings).size == len(rows)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected at least 5 people as the smallest segment, got 4"):
        segment_of(table, rows, least=4, **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a name of small letters"):
        segment_of(table, rows, least=5, **{**settings, "name": "../few"})  # type: ignore[arg-type]


def test_a_segment_comes_back_and_nothing_of_it_is_readable(table: PeopleTable, home: Path) -> None:
    made = segment(table)
    assert vars(decode_segment(encode_segment(made)))["members"] == made.members
    with Vault.open(home) as vault:
        vault.put_segment(made, "test")
        (found,) = vault.segments("test")
        assert (found.name, found.members, found.rule) == (made.name, made.members, made.rule)
        assert found.centre == pytest.approx(made.centre)
        content = b"".join(path.read_bytes() for path in home.iterdir() if path.is_file())
        assert b"dramas" not in content
        assert b'"Drama" in tags' not in content
        names = vault.users_of(found.members, "test", "segment")
        assert names == sorted(f"p{number}" for number in range(0, PEOPLE, 2))
        vault.suppress("p0", "test")
        assert "p0" not in vault.users_of(found.members, "test", "segment")


def test_erasing_a_person_takes_them_out_and_dissolves_what_falls_below_k(table: PeopleTable, home: Path) -> None:
    with Vault.open(home) as vault:
        vault.put_segment(segment(table), "test")
        vault.put_segment(segment(table, "exactly", least=PEOPLE // 2), "test")
        erased = vault.erase("p0", "test")
        assert erased.segments == 2
        (left,) = vault.segments("test")
        assert (left.name, left.size) == ("dramas", PEOPLE // 2 - 1)
        assert vault.pseudonym("p0") not in left.members
        assert vault.segments_of("p2", "test") == ["dramas"]
        assert vault.erase("p1", "test").segments == 0


def test_segments_open_after_a_rotation_and_a_changed_one_is_found(table: PeopleTable, home: Path) -> None:
    import sqlite3

    with Vault.open(home) as vault:
        vault.put_segment(segment(table), "test")
    rotate(home, "test")
    with Vault.open(home) as vault:
        assert [one.name for one in vault.segments("test")] == ["dramas"]
    connection = sqlite3.connect(home / "profiles.sqlite")
    (sealed,) = connection.execute("SELECT sealed FROM segments").fetchone()
    connection.execute("UPDATE segments SET sealed = ?", (sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:],))
    connection.commit()
    connection.close()
    with Vault.open(home) as vault, pytest.raises(IntegrityError, match=r"segment [0-9a-f]{16}: expected what was"):
        vault.verify(home / "profile-audit.log")


def test_the_nearest_segment_is_the_one_whose_people_are_alike(table: PeopleTable) -> None:
    comedies = segment_of(
        table, by_rule(table, '"Comedy" in tags'), name="comedies", made_by="rule", rule="", least=20, now=NOW
    )
    index = StoredSegments([segment(table), comedies])
    (first, cosine), (second, other) = index.similar(person(2), 5)
    assert (first, second) == ("dramas", "comedies")
    assert 1 >= cosine > 0.9 > other
    assert index.similar(person(3), 1)[0][0] == "comedies"
    assert index.similar(person(3, model="model-2"), 5) == []


def test_likeness_finds_the_rest_of_a_kind_by_every_scoring(table: PeopleTable) -> None:
    wanted = {table.people[row] for row in by_rule(table, '"Drama" in tags')}
    rows = np.flatnonzero([person_ in wanted for person_ in table.people])
    seeds, rest = rows[:20], rows[20:]
    others = np.setdiff1d(np.arange(PEOPLE), seeds)
    people = described(table)
    for scoring in SCORINGS:
        scores = likeness(people, seeds.tolist(), scoring)
        found = lift(scores, rest, others, len(rest) / len(others)).found
        # By chance two in five; eight items each do not tell everybody, and which people are seeds is drawn by a key.
        assert found >= 0.65 * len(rest), scoring
        if scoring != "items":  # which in the half of them that is left tell too little to promise anything
            assert held_out_lift(people, seeds.tolist(), scoring, 0.5).value > 1.5
    alike = find_lookalikes(table, [table.people[row] for row in seeds], "blend", 0.2)
    assert set(alike.rows) <= set(rest)
    assert alike.seeds == 20
    with pytest.raises(UsageError, match="expected 10 to 119 people with profiles as seeds, got 9"):
        likeness(people, seeds[:9].tolist())
    with pytest.raises(UsageError, match="expected a scoring out of"):
        find_lookalikes(table, [], "magic", 0.1)


def test_lift_is_that_of_chance_for_chance_and_the_largest_for_the_truth() -> None:
    truth = np.zeros(1000)
    truth[:50] = 1
    wanted, everybody = np.arange(50), np.arange(1000)
    assert lift(truth, wanted, everybody, 0.1).value == pytest.approx(10)
    assert lift(-truth, wanted, everybody, 0.1).value == 0
    draws = [lift(np.random.default_rng(n).random(1000), wanted, everybody, 0.1).value for n in range(200)]
    assert np.mean(draws) == pytest.approx(1, abs=0.15)


def test_no_point_of_the_map_stands_for_fewer_than_k_people(table: PeopleTable) -> None:
    maps = projections(table, [segment(table)], least=7)
    assert [one.name for one in maps] == ["PCA", "t-SNE"]
    for one in maps:
        assert min(point.people for point in one.points) >= 7
        assert sum(point.people for point in one.points) + one.hidden == PEOPLE
        assert {point.segment for point in one.points} == {"dramas", ""}
        assert {point.tags for point in one.points if point.segment} == {("Drama", "War")}
    text = page(maps, [segment(table)], table.model, 7)
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<circle") == sum(len(one.points) for one in maps)
    with pytest.raises(SmallSegmentError, match="expected at least 300 people"):
        projections(table, [], least=100)


def test_tags_that_tell_people_apart_are_those_they_have_more_of(table: PeopleTable) -> None:
    assert telling_tags(table, by_rule(table, '"Comedy" in tags')) == ("Comedy",)
    assert telling_tags(table, range(PEOPLE)) == ()


def test_the_commands_make_list_show_find_draw_and_delete(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(one) for one in ("segment", *arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, out, _ = call("create", "dramas", "--rule", '"Drama" in tags', "--as-of", "2027-01-15", "--format", "json")
    assert code == 0
    assert json.loads(out)["segments"][0]["people"] == PEOPLE // 2
    assert call("create", "kinds", "--clusters", 2)[0] == 0
    assert call("create", "value", "--preset", "high-value", "--least", 5)[0] == 0
    code, _, err = call("create", "few", "--rule", "events > 125")
    assert (code, "expected a segment of at least 20 people" in err) == (3, True)
    code, _, err = call("create", "none", "--rule", "events > 1", "--preset", "at-risk")
    assert (code, "expected one of --rule, --preset and --clusters" in err) == (2, True)
    names = [one["name"] for one in json.loads(call("list", "--format", "json")[1])["segments"]]
    assert names == ["dramas", "kinds-1", "kinds-2", "value"]
    code, out, _ = call("show", "dramas", "--users")
    assert out.splitlines()[-PEOPLE // 2 :] == sorted(f"p{number}" for number in range(0, PEOPLE, 2))
    assert not any(f"p{number}" in call("show", "dramas")[1].split() for number in range(PEOPLE))
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("\n".join([*(f"p{number}" for number in range(0, 40, 2)), "nobody"]))
    code, out, _ = call("lookalike", seeds, "--share", 0.2, "--save", "alike", "--format", "json")
    found = json.loads(out)
    assert (code, found["seeds"], found["without_profile"], found["people"]) == (0, 20, 1, 20)
    assert found["lift"] > 1
    assert call("map", "--html", tmp_path / "map.html", "--least", 10)[0] == 0
    assert (tmp_path / "map.html").stat().st_mode & 0o077 == 0
    assert call("delete", "alike", "--yes")[0] == 0
    code, _, err = call("show", "alike")
    assert (code, "expected a segment of this node, got 'alike'" in err) == (2, True)
    log = (Path(os.environ["SILHOUETTE_HOME"]) / "profile-audit.log").read_text()
    assert " segment " in log
    assert " lookalike " not in log  # nobody was named
