"""Last.fm from HetRec 2011: how often people listened to artists, friends, dated tags."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd

from silhouette_shared.catalogue import Catalogue

from .base import DatasetInfo, Tables
from .files import read_file, read_texts
from .reading import Rows, parse

LASTFM_2K: Final = DatasetInfo(
    name="lastfm-2k",
    title="Last.fm 2K (HetRec 2011): listen counts of artists, friends, tags",
    licence="non-commercial use",
    home_page="https://grouplens.org/datasets/hetrec-2011/",
    times="none",
    files=(
        "user_artists.dat",
        "artists.dat",
        "tags.dat",
        "user_friends.dat",
        "user_taggedartists.dat",
        "item_text_llm_CoLaKG.json (optional)",
    ),
    sizes=(1_892, 17_632, 92_834),
    fetched=False,
)


def read_lastfm_2k(source: Path) -> Tables:
    """Read Last.fm 2K from a folder with the published files.

    A listen count is one `view` with the count as its value; there are no times. Users are
    those with listen counts, by id; there are no declared attributes and, because tags are
    people's data, no public categories. A tag dated before 1970 (four of them are, by half a
    century before the site began) gets time 0, unknown.

    Raises:
        UsageError: With file, line and reason.
    """
    listened = _table(source, "user_artists.dat", ("userID", "artistID", "weight"))
    artists = _table(source, "artists.dat", ("id", "name"))
    words = _table(source, "tags.dat", ("tagID", "tagValue"), encoding="latin-1")
    friends = _table(source, "user_friends.dat", ("userID", "friendID"))
    tagged = _table(source, "user_taggedartists.dat", ("userID", "artistID", "tagID", "day", "month", "year"))
    catalogue = _catalogue(artists, read_texts(source / "item_text_llm_CoLaKG.json"))
    people = listened.identifiers("userID")
    users = pd.DataFrame({"user": people.drop_duplicates().sort_values(key=_as_numbers)})
    listened.known("artistID", artists.identifiers("id"), artists.where)
    text = people.dtype
    events = pd.DataFrame(
        {
            "user": people,
            "item": listened.identifiers("artistID"),
            "behaviour": pd.Series(["view"], dtype=text).repeat(len(listened)).to_numpy(),
            "timestamp": np.zeros(len(listened), dtype=np.int64),
            "value": listened.numbers("weight", 1.0, 1e12, "a listen count"),
            "text": pd.Series([None], dtype=text).repeat(len(listened)).to_numpy(),
        }
    ).astype({"behaviour": text, "text": text})
    friends.identifiers("userID")
    friends.known("userID", people, listened.where)
    friends.known("friendID", people, listened.where)
    edges = pd.DataFrame(
        {
            "user": friends.identifiers("userID"),
            "other": friends.identifiers("friendID"),
            "weight": np.ones(len(friends)),
        }
    )
    return Tables(
        name=LASTFM_2K.name,
        events=events,
        users=users.reset_index(drop=True),
        catalogue=catalogue,
        attributes=MappingProxyType({}),
        times="none",
        edges=edges,
        tags=_tags(tagged, words, people, listened.where),
    )


def _table(source: Path, name: str, columns: tuple[str, ...], encoding: str = "utf-8") -> Rows:
    path = source / name
    return parse(read_file(path), str(path), columns, separator="\t", header=True, encoding=encoding)


def _as_numbers(ids: pd.Series) -> pd.Series:
    return ids.astype("int64")


def _catalogue(artists: Rows, texts: Mapping[str, str]) -> Catalogue:
    artists.unique("id")
    ids = artists.identifiers("id")
    order = np.argsort(ids.astype("int64").to_numpy(), kind="stable")
    titles = artists.text("name")
    artists.refuse_where((titles == "").to_numpy(), "name", "a name")
    return Catalogue(
        items=tuple(ids.iloc[order]),
        titles=tuple(titles.iloc[order]),
        categories=(),
        category_matrix=np.zeros((len(ids), 0), dtype=np.float32),
        texts=tuple(texts.get(item, "") for item in ids.iloc[order]),
        content=np.zeros((len(ids), 0), dtype=np.float32),
    )


def _tags(tagged: Rows, words: Rows, people: pd.Series, where: str) -> pd.DataFrame:
    words.unique("tagID")
    names = words.text("tagValue")
    words.refuse_where((names == "").to_numpy(), "tagValue", "a word")
    tagged.known("userID", people, where)
    tagged.known("tagID", words.identifiers("tagID"), words.where)
    dates = pd.DataFrame(
        {
            "year": tagged.integers("year", 1900, 2099, "a year"),
            "month": tagged.integers("month", 1, 12, "a month"),
            "day": tagged.integers("day", 1, 31, "a day"),
        }
    )
    moments = pd.to_datetime(dates, errors="coerce", utc=True)
    tagged.refuse_where(moments.isna().to_numpy(), "day", "a day that is in the month")
    seconds = moments.dt.as_unit("s").astype("int64").to_numpy()
    by_id = dict(zip(words.identifiers("tagID"), names, strict=True))
    return pd.DataFrame(
        {
            "user": tagged.identifiers("userID"),
            "tag": tagged.identifiers("tagID").map(by_id).astype(people.dtype),
            "weight": np.ones(len(tagged)),
            "time": np.maximum(seconds, 0),
        }
    )
