"""What goes in is held once, in order, with every bad row named; a bad file changes nothing."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import threading
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.client.ingest.shop_files import MAPPING, events, ingest, mapping, quarantine, state, write

from silhouette_client.ingest import records, sources
from silhouette_client.ingest.describing import describe
from silhouette_client.ingest.records import open_records, writing
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_simulations.shop import MAPPING as SHOP_MAPPING
from silhouette_simulations.shop import write_shops


def test_planted_rows_and_no_others_are_in_the_quarantine_of_three_shops(home: Path, tmp_path: Path) -> None:
    planted = write_shops(tmp_path / "tables", 100_000, seed=3)
    outcome = ingest(home, tmp_path / "tables", rules=mapping(SHOP_MAPPING))
    found = quarantine(home)
    assert len(found) == len(planted) == len(set(found))
    assert set(found) == planted
    assert len({(column, reason) for _, _, column, reason in planted}) >= 20  # ten kinds, columns named by each shop
    assert sum(one.kept + one.repeated for one in outcome.taken) == 100_000 - len(planted)


def test_the_same_file_twice_changes_nothing_under_any_name(home: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "events-1.csv", "u1,a,view,10,", "u2,b,buy,11,", "u1,b,click,12,3.5")
    ingest(home, first)
    before = state(home)
    assert ingest(home, first).known == ("events-1.csv",)
    copy = tmp_path / "events-2.csv"
    copy.write_bytes(first.read_bytes())
    assert ingest(home, copy).taken == ()
    assert state(home) == before


def test_an_export_that_grows_adds_only_what_is_new(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events-1.csv", "u1,a,view,10,", "u1,b,view,20,"))
    rows = ("u1,a,view,10,", "u1,b,view,20,", "u1,c,view,30,", "u1,c,view,30,", "u2,a,view,5,")
    (one,) = ingest(home, write(tmp_path / "events-2.csv", *rows)).taken
    assert (one.rows, one.kept, one.repeated, one.late, one.unordered) == (5, 2, 3, 1, 1)
    assert [row[:2] for row in events(home)] == [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a")]


def test_a_corrected_mapping_takes_the_place_of_the_wrong_one(home: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "events.csv", "u1,a,kauf,10,", "u1,b,view,20,")
    ingest(home, file)
    assert len(events(home)) == 1
    right = mapping(MAPPING.replace('{ column = "how" }', '{ column = "how", values = { kauf = "purchase" } }'))
    ingest(home, file, rules=right)
    assert [row[2] for row in events(home)] == ["purchase", "view"]
    assert quarantine(home) == []
    assert len(list((home / "node/people/parts").iterdir())) == 1  # what was replaced is gone


def test_lines_are_those_of_the_file_whatever_stands_between(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes(
        b'\xef\xbb\xbfwho,"what",how,at,price\r\n'  # 1, with a byte order mark
        b'u1,"a\r\nb",view,10,\r\n'  # 2 and 3
        b"\r\n"  # 4
        b"u1,,view,10,\r\n"  # 5
        b'u1,"x, ""y""",view,11,\r\n'  # 6
        b"u1,x,view\r\n"  # 7
        b'u1,"\r\n\r\n",view,11,\r\n'  # 8 to 10
        b"u1,z,view,later,"  # 11
    )
    ingest(home, file)
    assert [row[1] for row in events(home)] == ["a\r\nb", 'x, "y"']
    expected = [(5, "what"), (7, ""), (8, "what"), (11, "at")]
    assert [(line, column) for _, line, column, _ in quarantine(home)] == expected


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(st.tuples(st.text('a"\n, ;ä', min_size=1, max_size=4), st.integers(1, 99)), max_size=25),
    data=st.data(),
)
def test_blocks_may_end_anywhere(
    rows: list[tuple[str, int]], data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import csv

    file = tmp_path / "events.csv"
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["who", "what", "how", "at", "price"])
        writer.writerows([item, item, "view", at, ""] for item, at in rows)
    monkeypatch.setattr(sources, "BLOCK_BYTES", data.draw(st.integers(1, 60)))
    source = sources.Source("events.csv", file)
    rule = mapping().source[0]
    parsed = [sources.parse(piece, "csv", rule) for piece in sources.pieces(source, rule)]
    found = [
        row
        for block in parsed
        for row in zip(*(block.table.column(n).to_pylist() for n in ("what", "at")), strict=True)
    ]
    lines = [int(line) for block in parsed for line in block.lines]
    assert found == [(item, str(at)) for item, at in rows]
    expected, line = [], 2
    for item, _ in rows:
        expected.append(line)
        line += 1 + 2 * item.count("\n")
    assert lines == expected


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = pa.table(
        {"who": ["u"] * 5000, "what": ["i"] * 5000, "how": ["view"] * 5000, "at": range(5000), "price": [1.0] * 5000}
    )
    pyarrow.parquet.write_table(whole, folder / "events-cut.parquet")
    cut = (folder / "events-cut.parquet").read_bytes()
    (folder / "events-cut.parquet").write_bytes(cut[: len(cut) // 2])
    (folder / "events-latin.csv").write_bytes("who,what,how,at,price\nJosé,a,view,1,\n".encode("latin-1"))
    (folder / "events-empty.csv").write_bytes(b"")
    (folder / "events.xlsx").write_bytes(b"PK")
    return {
        "header": (write(folder / "events-h.csv", "u,1", header="who,at"), "missing: what, how, price"),
        "encoding": (folder / "events-latin.csv", "expected text in utf-8, got other bytes near byte"),
        "quote": (write(folder / "events-q.csv", 'u1,"a,view,1,'), "expected the last quote to be closed"),
        "parquet": (folder / "events-cut.parquet", "expected a whole Parquet file"),
        "empty": (folder / "events-empty.csv", "expected the columns who, what, how, at, price, got none"),
        "suffix": (folder / "events.xlsx", "expected a suffix out of"),
        "twice": (write(folder / "events-t.csv", header="who,what,how,at,price,at"), "got one twice"),
        "name": (write(folder / "orders.csv"), r"expected a name that matches one of events\*"),
        "nothing": (folder / "events-none.csv", "expected a file, a folder or a database URL, found nothing"),
        "old Mac": (
            _bytes(folder / "events-mac.csv", b"who,what,how,at,price\ru,a,view,1,\r"),
            "in lines that end with LF or CR LF",
        ),
        "binary": (_bytes(folder / "events-b.csv", bytes(range(255, 0, -1)) * 90), "expected text in utf-8, got other"),
        "picture": (_bytes(folder / "events-p.parquet", b"\x89PNG" * 99), "expected a whole Parquet file"),
        "utf-16": (
            _bytes(folder / "events-u.csv", "who,what,how,at,price\nu,a,view,1,\n".encode("utf-16")),
            "set `encoding` in the mapping",
        ),
        "packed": (
            _bytes(folder / "events-z.csv", gzip.compress(b"who,what,how,at,price\nu,a,view,1,\n")),
            "expected text in utf-8, got other bytes",
        ),
        "folder": (_folder(folder / "events-f.csv"), r"events-f.csv: expected files of .csv, .*, found none"),
        "nonsense": (
            write(folder / "events-n.csv", *["u,a,wave,1,"] * 30),
            "expected at most 50 % bad rows, got 30 of 30",
        ),
    }


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _endless(path: Path) -> Path:
    """Ten gigabytes without a line break, which take no place on the disk."""
    with path.open("wb") as file:
        file.write(b"who,what,how,at,price\n")
        file.truncate(10 << 30)
    return path


KINDS = ("header", "encoding", "quote", "parquet", "empty", "suffix", "twice", "name", "nothing", "nonsense")
STRANGE = ("old Mac", "binary", "picture", "utf-16", "packed", "folder")


@pytest.mark.parametrize("kind", [*KINDS, *STRANGE])
def test_a_bad_file_is_refused_whole_and_changes_nothing(kind: str, home: Path, tmp_path: Path) -> None:
    good = write(tmp_path / "events-good.csv", "u1,a,view,10,")
    later = write(tmp_path / "events-later.csv", "u2,a,view,10,")
    ingest(home, good)
    before = state(home)
    path, message = bad_files(tmp_path)[kind]
    # Whatever can be seen by looking through the files keeps the good ones of the same command out too.
    given = [path, later] if kind == "nonsense" else [later, path]
    with pytest.raises(UsageError, match=message):
        ingest(home, *given)
    with writing(home):  # what a refused file left is removed by the next writer
        pass
    assert state(home) == before


def test_a_line_of_ten_gigabytes_is_refused_without_being_read_whole(home: Path, tmp_path: Path) -> None:
    path = _endless(tmp_path / "events-e.csv")
    rule = mapping().source[0]
    with pytest.raises(UsageError, match="expected records of less than 64 MiB, got a longer one"):
        for _ in sources.pieces(sources.Source("events-e.csv", path), rule):
            pass


def test_records_that_are_no_text_and_columns_that_are_mixed_go_to_the_quarantine(home: Path, tmp_path: Path) -> None:
    good = '{"who":"u","what":"a","how":"view","at":"%d"}'
    lines = [good % number for number in range(20)]
    lines += ['{"who":"\\ud800","what":"a","how":"view","at":"1"}', "[" * 100_000, '[{"who":"u"}]', "\x00\x01"]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, good % 99]), encoding="utf-8")
    rows = [f"u,b,view,{number}," for number in range(20)]
    ingest(home, tmp_path / "events.jsonl", write(tmp_path / "events.csv", *rows, "u,b", "u,b,view,99,,,", "\x00" * 99))
    bad = [(file, line) for file, _, line, _, _ in open_records(home).quarantine()]
    assert bad == [("events.jsonl", n) for n in (21, 22, 23, 24)] + [("events.csv", n) for n in (22, 23, 24)]
    assert len(events(home)) == 41


def test_a_folder_that_is_named_like_a_file_is_no_file_of_the_folder_around_it(home: Path, tmp_path: Path) -> None:
    exports = _folder(tmp_path / "exports")
    _folder(exports / "events.csv")
    write(exports / "events-2.csv", "u,a,view,1,")
    assert [one.name for one in ingest(home, exports).taken] == ["events-2.csv"]


def test_another_encoding_can_be_declared(home: Path, tmp_path: Path) -> None:
    path, _ = bad_files(tmp_path)["encoding"]
    ingest(home, path, rules=mapping(MAPPING.replace('match = "events*"', 'match = "events*"\nencoding = "latin-1"')))
    assert events(home)[0][0] == "José"


def test_every_kind_of_source_gives_the_same_events(home: Path, tmp_path: Path) -> None:
    rows = [("u1", "a", "view", 10, 1.5), ("u1", "b", "cart", 20, None), ("u2", "a", "zap", 30, 2.0)]
    names = ("who", "what", "how", "at", "price")
    write(tmp_path / "events.csv", *(",".join("" if cell is None else str(cell) for cell in row) for row in rows))
    lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, "[1]", "{", ""]))
    table = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    pyarrow.parquet.write_table(table, tmp_path / "events.parquet")
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE sales (who TEXT, what TEXT, how TEXT, at INTEGER, price REAL)")
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    sql = mapping(MAPPING.replace('match = "events*"', 'match = "sqlite:*"\nquery = "SELECT * FROM sales"'))
    expected = [("u1", "a", "view", 10, 1.5), ("u1", "b", "cart", 20, None)]
    for name in ("events.csv", "events.jsonl", "events.parquet"):
        ingest(home / name, tmp_path / name)
        assert events(home / name) == expected, name
        line = 4 if name == "events.csv" else 3
        assert quarantine(home / name)[0] == (name, line, "how", "word without a meaning in the mapping")
    assert quarantine(home / "events.jsonl")[1:] == [
        ("events.jsonl", 4, "", "not a JSON object"),
        ("events.jsonl", 5, "", "not a JSON object"),
    ]
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    ingest(home / "sql", url, rules=sql)
    assert events(home / "sql") == expected
    before = state(home / "sql")
    assert ingest(home / "sql", url, rules=sql).taken == ()
    assert state(home / "sql") == before
    wrong = mapping(MAPPING.replace('match = "events*"', 'match = "sqlite:*"\nquery = "SELECT * FROM secrets"'))
    with pytest.raises(UnavailableError, match="expected an answer of the database, got OperationalError") as caught:
        ingest(home / "sql", url, rules=wrong)
    assert "secrets" not in str(caught.value)


class Gone:
    """u1 was erased."""

    def among(self, users: Sequence[str]) -> Collection[str]:
        return {"u1"} & set(users)


def test_erased_people_do_not_come_back(home: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "events.csv", "u1,a,view,10,", "u2,a,view,10,")
    (one,) = ingest(home, file, exclusions=Gone()).taken
    assert (one.kept, one.blocked) == (1, 1)
    assert [row[0] for row in events(home)] == ["u2"]


def test_nothing_of_a_person_stands_in_a_file_in_clear(home: Path, tmp_path: Path) -> None:
    rows = [f"marker-user-{n},marker-item-{n % 7},view,{n},{n}" for n in range(500)]
    ingest(home, write(tmp_path / "events.csv", *rows, "marker-user-x,marker-item-x,marker-word,1,"))
    for name, content in state(home).items():
        assert b"marker" not in content, name
        assert name == "manifest.json" or b"PAR1" not in content, name
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home / "node/people").rglob("*") if path.is_file())


def test_a_flipped_byte_is_named_or_changes_nothing(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,", "u2,,view,10,"))
    expected = events(home), quarantine(home)
    folder = home / "node" / "people"
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock"):
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 40)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            try:
                assert (events(home), quarantine(home)) == expected
            except IntegrityError as error:
                assert str(folder) in str(error)  # noqa: PT017
            except UnavailableError as error:
                assert "newer Silhouette" in str(error)  # noqa: PT017
        path.write_bytes(content)
    assert (events(home), quarantine(home)) == expected
    (folder / "key").unlink()
    with pytest.raises(IntegrityError, match="expected the key of the people's records, found none"):
        open_records(home)
    with pytest.raises(IntegrityError, match="found none"), writing(home):
        pass


def test_two_writers_do_not_meet(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PATIENCE_SECONDS", 0.1)
    with writing(home), pytest.raises(UnavailableError, match="expected no other writer"):
        ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,"))


def test_a_writer_waits_for_one_that_has_little_to_write(home: Path, tmp_path: Path) -> None:
    with ExitStack() as other:
        other.enter_context(writing(home))
        threading.Timer(0.3, other.close).start()
        ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,"))
    assert len(events(home)) == 1


def test_a_writer_leaves_alone_what_another_process_writes_without_the_lock(home: Path, tmp_path: Path) -> None:
    ingest(home, write(tmp_path / "events.csv", "u1,a,view,10,"))
    folder = home / "node" / "people"
    kept, swept = folder / ".report.json.7.abcd", folder / ".manifest.json.7.abcd"
    for draft in (kept, swept):
        draft.write_text("half of a")
    with writing(home):
        assert kept.exists()
        assert not swept.exists()


def test_a_full_disk_is_said_and_nothing_is_lost(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    ingest(home, write(tmp_path / "events-1.csv", "u1,a,view,10,"))
    before = state(home)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ingest(home, write(tmp_path / "events-2.csv", "u2,a,view,10,"))
    assert state(home) == before
    ingest(home, tmp_path / "events-2.csv")
    assert len(events(home)) == 2


def test_a_description_counts(home: Path, tmp_path: Path) -> None:
    rows = ("u1,a,view,0,", "u1,b,view,1800,", "u1,b,cart,3601,", "u2,a,view,3601,", "u2,a,zap,1,")
    ingest(home, write(tmp_path / "events.csv", *rows))
    found = describe(home)
    assert (found["people"], found["items"], found["sessions"], found["quarantine"]) == (2, 2, 3, 1)
    assert found["behaviours"] == {"view": 3, "cart": 1}
    assert found["events_a_person"] == {"least": 1, "median": 2.0, "most": 3}
