"""A tiny MovieLens 100K, invented, in the two dresses in which the real one comes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from silhouette_simulations.datasets.archives import Archive, Wheel
from silhouette_simulations.datasets.movielens import (
    GENRES_100K,
    PUBLISHER_MEMBERS,
    RECBOLE_MEMBERS,
)

_DATA = "1\t1\t5\t881250949\n2\t3\t4\t881250950\n1\t2\t3\t881250949\n3\t4\t1\t891717742\n3\t5\t2\t1\n"
_USERS = (("1", "24", "M", "technician"), ("2", "17", "F", "student"), ("3", "56", "M", "other"))

# (title with year as published, RecBole's title, RecBole's year, genre positions)
_ITEMS = (
    ("Made Up (1995)", "Made Up", "1995", (3, 4)),
    # White space after the year, as three of the real films have it.
    ("Shadow, The (Ombre, L') (1996) ", "Shadow, The (Ombre, L')", "1996", (7,)),
    # No year and no title, as the real film 267.
    ("unknown", "unkonwn", "unkonwn", (0,)),
    # Another bracket after the year, as the real film 1412.
    ("Part III (1995) (V)", "Part III (1995)", "V", (3,)),
    ("Misère é Á (1994)", "Misère é Á", "1994", (8, 10)),
)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


@dataclass(frozen=True)
class TinyMl100k:
    """Both archives, as bytes, and their members by short name."""

    publisher_files: Mapping[str, bytes]
    recbole_files: Mapping[str, bytes]

    @property
    def zip_bytes(self) -> bytes:
        return _zipped({PUBLISHER_MEMBERS[name]: d for name, d in self.publisher_files.items()})

    @property
    def wheel_bytes(self) -> bytes:
        return _zipped({RECBOLE_MEMBERS[name]: d for name, d in self.recbole_files.items()})

    def archive(self, url: str) -> Archive:
        data = self.zip_bytes
        return Archive(url=url, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    @property
    def wheel(self) -> Wheel:
        return Wheel(
            requirement="recbole==1.2.1",
            file_name="recbole-1.2.1-py3-none-any.whl",
            sha256=hashlib.sha256(self.wheel_bytes).hexdigest(),
        )


@pytest.fixture
def tiny_ml_100k() -> TinyMl100k:
    """Three people, five films, five events."""
    lines = [
        f"{number}|{title}|01-Jan-1995||http://example.org|"
        + "|".join("1" if flag in genres else "0" for flag in range(19))
        for number, (title, _, _, genres) in enumerate(_ITEMS, start=1)
    ]
    rows = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"] + [
        f"{number}\t{title}\t{year}\t{' '.join(GENRES_100K[genre] for genre in genres)}"
        for number, (_, title, year, genres) in enumerate(_ITEMS, start=1)
    ]
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    return TinyMl100k(
        publisher_files={
            "u.data": _DATA.encode(),
            "u.item": ("\n".join(lines) + "\n").encode("latin-1"),
            "u.user": "".join("|".join((*user, "00000")) + "\n" for user in _USERS).encode(),
        },
        recbole_files={
            "inter": ("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + _DATA).encode(),
            "item": ("\n".join(rows) + "\n").encode(),
            "user": (header + "".join("\t".join((*user, "00000")) + "\n" for user in _USERS)).encode(),
        },
    )


@pytest.fixture
def ml_1m_folder(tmp_path: Path) -> Path:
    """Two people, three films of which two are rated, in the layout of the reference data."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user_id,movie_id,rating,seq\n1,10,5,0\n1,2,4,1\n2,2,3,0\n")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    (folder / "movies.dat").write_bytes(
        "2::Été (1995)::Animation|Comedy\n3::Unseen (1996)::Drama\n10::Heat (1995)::Crime\n".encode("latin-1")
    )
    (folder / "item_text_llm_CoLaKG.json").write_text('{"10": "A  heist\\nfilm."}')
    return folder


@pytest.fixture
def lastfm_folder(tmp_path: Path) -> Path:
    """Two people, two artists, with the line ends of the published files."""
    folder = tmp_path / "lastfm-2k"
    folder.mkdir()
    (folder / "user_artists.dat").write_bytes(b"userID\tartistID\tweight\r\n10\t2\t300\r\n2\t1\t7\r\n2\t2\t5\r\n")
    (folder / "artists.dat").write_text(
        'id\tname\turl\tpictureURL\n2\tBjörk "B"\tx\ty\n1\tMoi\tx\t\n', encoding="utf-8"
    )
    (folder / "tags.dat").write_bytes(b"tagID\ttagValue\r\n1\tmetal\r\n2\tcaf\xe9\r\n")
    (folder / "user_friends.dat").write_bytes(b"userID\tfriendID\r\n2\t10\r\n10\t2\r\n")
    (folder / "user_taggedartists.dat").write_text(
        "userID\tartistID\ttagID\tday\tmonth\tyear\n2\t1\t2\t1\t4\t2009\n10\t9\t1\t1\t1\t1956\n"
    )
    return folder


@pytest.fixture
def taobao_folder(tmp_path: Path) -> Path:
    """Two people, three items; one of the items occurs only in the held-out purchases."""
    folder = tmp_path / "taobao"
    folder.mkdir()
    (folder / "train_interactions.csv").write_text(
        "user,item,behavior,timestamp\n0,3,buy,1511929781\n0,10,pv_of_bought,1511929781\n"
        "1,3,cart,1511931054\n1,3,fav,1511931055\n"
    )
    (folder / "test_buy.csv").write_text("user,item\n1,12\n")
    return folder
