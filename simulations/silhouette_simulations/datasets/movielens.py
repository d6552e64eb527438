"""MovieLens 100K and 1M.

MovieLens 100K comes in two archives that hold the same tables in different dress: the
publisher's zip, and the recommender library RecBole's wheel. Both are brought to the publisher's
own spelling, and then have the same digest. RecBole split the publisher's `title (year)` into
two columns at the last bracket and dropped white space around titles, so the way back is to put
them together again and to trim both; where the publisher has no year, it wrote `unkonwn` twice.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.errors import UnavailableError, UsageError
from silhouette_shared.schema import LAST_TIME

from .archives import Archive, Wheel, download, fetch_wheel, members, verified
from .base import DatasetInfo, Tables, Times
from .files import read_file, read_texts
from .reading import Rows, parse

PUBLISHER: Final = Archive(
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    size_bytes=4_924_029,
)
RECBOLE: Final = Wheel(
    requirement="recbole==1.2.1",
    file_name="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
)
PUBLISHER_MEMBERS: Final = MappingProxyType({name: f"ml-100k/{name}" for name in ("u.data", "u.item", "u.user")})
RECBOLE_MEMBERS: Final = MappingProxyType(
    {name: f"recbole/dataset_example/ml-100k/ml-100k.{name}" for name in ("inter", "item", "user")}
)

ML_100K: Final = DatasetInfo(
    name="ml-100k",
    title="MovieLens 100K: film ratings with age, gender and occupation",
    licence="research use, no redistribution (GroupLens)",
    home_page="https://grouplens.org/datasets/movielens/100k/",
    times="utc",
    files=("ml-100k.zip or " + RECBOLE.file_name,),
    sizes=(943, 1_682, 100_000),
    fetched=True,
)
ML_1M: Final = DatasetInfo(
    name="ml-1m",
    title="MovieLens 1M: film ratings with age, gender and occupation",
    licence="research use, no redistribution (GroupLens)",
    home_page="https://grouplens.org/datasets/movielens/1m/",
    times="rank",
    files=("interactions.csv", "users.dat", "movies.dat", "item_text_llm_CoLaKG.json (optional)"),
    sizes=(6_040, 3_706, 1_000_209),
    fetched=False,
)

GENRES_100K: Final = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""In the order of the flags in the publisher's u.item; 1M has all but `unknown`."""

_AGES: Final = MappingProxyType(
    {
        1: "under 18",
        18: "18-24",
        25: "25-34",
        35: "35-44",
        45: "45-49",
        50: "50-55",
        56: "56+",
    }
)
"""MovieLens 1M's bands by their code, which is each band's first year."""

AGES: Final = tuple(_AGES.values())
GENDERS: Final = ("F", "M")

OCCUPATIONS_100K: Final = (
    "administrator",
    "artist",
    "doctor",
    "educator",
    "engineer",
    "entertainment",
    "executive",
    "healthcare",
    "homemaker",
    "lawyer",
    "librarian",
    "marketing",
    "none",
    "other",
    "programmer",
    "retired",
    "salesman",
    "scientist",
    "student",
    "technician",
    "writer",
)
OCCUPATIONS_1M: Final = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
"""In the order of the publisher's codes, 0 to 20."""

_NO_TITLE: Final = "unkonwn"  # RecBole's spelling


def fetch_ml_100k(
    scratch: Path,
    progress: Callable[[str], None],
    *,
    publisher: Archive = PUBLISHER,
    wheel: Wheel = RECBOLE,
    connect_seconds: float = 5.0,
    pip: Sequence[str] | None = None,
) -> Tables:
    """Fetch MovieLens 100K: the publisher's archive, else RecBole's copy of it.

    Args:
        scratch: An empty folder that the caller removes.
        progress: Is told what is tried and what came of it.
        publisher: The archive tried first.
        wheel: The wheel tried next, with pip.
        connect_seconds: Longest wait for the publisher.
        pip: How to call pip; this interpreter's by default.

    Raises:
        UnavailableError: If neither can be reached.
        UsageError: If the wheel is not the one it should be. A wrong archive from the
            publisher is reported and the wheel is tried.
    """
    progress(f"fetching {publisher.url}")
    try:
        data = download(publisher, connect_seconds=connect_seconds, progress=progress)
        return from_publisher(members(data, PUBLISHER_MEMBERS, publisher.url), publisher.url)
    except (UnavailableError, UsageError) as error:
        refusal = str(error)
        progress(f"{refusal}")
    progress(f"fetching the copy inside {wheel.requirement} with pip (nothing is installed)")
    try:
        data = fetch_wheel(wheel, scratch) if pip is None else fetch_wheel(wheel, scratch, command=pip)
    except UnavailableError as error:
        raise UnavailableError(
            f"expected to fetch ml-100k, got: {refusal} | {error} | or put ml-100k.zip into a "
            "folder and run `silhouette data get ml-100k --from FOLDER`"
        ) from error
    return from_recbole(members(data, RECBOLE_MEMBERS, wheel.file_name), wheel.file_name)


def read_ml_100k(source: Path, *, publisher: Archive = PUBLISHER, wheel: Wheel = RECBOLE) -> Tables:
    """Read MovieLens 100K from a folder that holds one of the two archives, or from the archive.

    Raises:
        UsageError: If neither archive is there, or it is not the published one.
    """
    for name, sha256, names, read in (
        ("ml-100k.zip", publisher.sha256, PUBLISHER_MEMBERS, from_publisher),
        (wheel.file_name, wheel.sha256, RECBOLE_MEMBERS, from_recbole),
    ):
        path = source if source.name == name else source / name
        if path.is_file():
            data = verified(path.read_bytes(), sha256, str(path))
            return read(members(data, names, str(path)), str(path))
    raise UsageError(f"{source}: expected ml-100k.zip or {wheel.file_name} there, got neither")


def from_publisher(files: Mapping[str, bytes], where: str) -> Tables:
    """Make canonical tables of the publisher's u.data, u.item and u.user.

    Release date and address of a film are left out: RecBole's copy lacks them.

    Raises:
        UsageError: With file, line and reason.
    """
    flags = [f"flag{number}" for number in range(len(GENRES_100K))]
    item = parse(
        files["u.item"],
        f"{where}/u.item",
        ("item", "title", "_date", "_video_date", "_address", *flags),
        separator="|",
        encoding="latin-1",
    )
    matrix = np.stack([item.integers(flag, 0, 1, "a flag") for flag in flags], axis=1)
    return _ml_100k(
        parse(
            files["u.data"],
            f"{where}/u.data",
            ("user", "item", "rating", "timestamp"),
            separator="\t",
        ),
        parse(
            files["u.user"],
            f"{where}/u.user",
            ("user", "age", "gender", "occupation", "_zip"),
            separator="|",
            encoding="latin-1",
        ),
        item,
        item.text("title").tolist(),
        matrix.astype(np.float32),
    )


def from_recbole(files: Mapping[str, bytes], where: str) -> Tables:
    """Make canonical tables of RecBole's copy; equal to those of the publisher's files.

    Raises:
        UsageError: With file, line and reason.
    """
    names = {
        "user_id:token": "user",
        "item_id:token": "item",
        "rating:float": "rating",
        "timestamp:float": "timestamp",
        "age:token": "age",
        "gender:token": "gender",
        "occupation:token": "occupation",
    }
    item = parse(
        files["item"],
        f"{where}/ml-100k.item",
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
        separator="\t",
        header=True,
    )
    titles = [
        "unknown" if year == _NO_TITLE else f"{title} ({year})"
        for title, year in zip(item.text("movie_title:token_seq"), item.text("release_year:token"), strict=True)
    ]
    genres = [words.split() for words in item.text("class:token_seq")]
    return _ml_100k(
        _renamed(
            parse(
                files["inter"],
                f"{where}/ml-100k.inter",
                ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
                separator="\t",
                header=True,
            ),
            names,
        ),
        _renamed(
            parse(
                files["user"],
                f"{where}/ml-100k.user",
                ("user_id:token", "age:token", "gender:token", "occupation:token"),
                separator="\t",
                header=True,
            ),
            names,
        ),
        _renamed(item, names),
        titles,
        _membership(item, genres, GENRES_100K),
    )


def _renamed(rows: Rows, names: Mapping[str, str]) -> Rows:
    columns = {names.get(name, name): values for name, values in rows.columns.items()}
    return Rows(rows.where, rows.first_line, columns)


def _ml_100k(data: Rows, user: Rows, item: Rows, titles: Sequence[str], matrix: NDArray[np.float32]) -> Tables:
    ages = user.integers("age", 0, 130, "an age in years")
    bands = np.searchsorted(np.array(list(_AGES)), np.maximum(ages, 1), side="right") - 1
    users = pd.DataFrame(
        {
            "user": user.identifiers("user"),
            "gender": user.mapped("gender", {word: word for word in GENDERS}),
            "age": pd.Series([AGES[band] for band in bands], dtype=user.text("age").dtype),
            "occupation": user.mapped("occupation", {word: word for word in OCCUPATIONS_100K}),
        }
    )
    return _movielens(
        ML_100K.name,
        "utc",
        data,
        data.integers("timestamp", 1, LAST_TIME, "a time in UTC seconds"),
        user,
        users,
        item,
        _catalogue(item, titles, GENRES_100K, matrix),
        OCCUPATIONS_100K,
    )


def _movielens(
    name: str,
    times: Times,
    data: Rows,
    timestamps: NDArray[np.int64],
    user: Rows,
    users: pd.DataFrame,
    item: Rows,
    catalogue: Catalogue,
    occupations: tuple[str, ...],
) -> Tables:
    ratings = data.numbers("rating", 1.0, 5.0, "a rating")
    events = pd.DataFrame(
        {
            "user": data.identifiers("user"),
            "item": data.identifiers("item"),
            "behaviour": _constant("rate", data),
            "timestamp": timestamps,
            "value": ratings,
            "text": _constant(None, data),
        }
    )
    user.unique("user")
    data.known("user", users["user"], user.where)
    data.known("item", pd.Series(catalogue.items), item.where)
    silent = ~users["user"].isin(events["user"].unique()).to_numpy()
    user.refuse_where(silent, "user", f"a user with events in {data.where}", "one without")
    return Tables(
        name=name,
        events=events,
        users=users,
        catalogue=catalogue,
        attributes=MappingProxyType({"gender": GENDERS, "age": AGES, "occupation": occupations}),
        times=times,
    )


def _constant(value: str | None, rows: Rows) -> pd.Series:
    dtype = rows.text(next(iter(rows.columns))).dtype
    return pd.Series([value], dtype=dtype).repeat(len(rows)).reset_index(drop=True)


def _membership(rows: Rows, members_of: Sequence[Sequence[str]], genres: Sequence[str]) -> NDArray[np.float32]:
    position = {genre: number for number, genre in enumerate(genres)}
    matrix = np.zeros((len(members_of), len(genres)), dtype=np.float32)
    for row, words in enumerate(members_of):
        for word in words:
            if word not in position:
                rows.refuse(row, f"expected a genre out of {', '.join(genres)}, got {word!r}")
            matrix[row, position[word]] = 1.0
    return matrix


def _catalogue(
    rows: Rows,
    titles: Sequence[str],
    genres: Sequence[str],
    matrix: NDArray[np.float32],
    texts: Mapping[str, str] | None = None,
    keep: pd.Series | None = None,
) -> Catalogue:
    """Number the films by id; `texts` replaces a film's own words, `keep` leaves films out."""
    rows.unique("item")
    items = rows.identifiers("item")
    numbers = items.astype("int64").to_numpy()
    kept = np.ones(len(items), dtype=bool)
    if keep is not None:
        kept = items.isin(keep.unique()).to_numpy()
    order = np.argsort(numbers, kind="stable")
    order = order[kept[order]]
    empty = np.array([not title for title in titles])
    if empty.any():
        rows.refuse(int(empty.argmax()), "expected a title, got an empty one")
    by_name = np.argsort(np.array(genres), kind="stable")
    described = texts or {}
    own = [
        f"{title}. {', '.join(genre for genre, on in zip(genres, flags, strict=True) if on)}"
        for title, flags in zip(titles, matrix, strict=True)
    ]
    return Catalogue(
        items=tuple(items.iloc[order]),
        titles=tuple(titles[row] for row in order),
        categories=tuple(sorted(genres)),
        category_matrix=np.ascontiguousarray(matrix[order][:, by_name]),
        texts=tuple(described.get(items.iloc[row], own[row]) for row in order),
        content=np.zeros((len(order), 0), dtype=np.float32),
    )


def read_ml_1m(source: Path) -> Tables:
    """Read MovieLens 1M from a folder: interactions.csv (with the rank `seq`), users, movies.

    The catalogue holds the films that were rated at least once, as published figures do. An
    item's text is the one of item_text_llm_CoLaKG.json where that file has one, else its title
    and genres.

    Raises:
        UsageError: With file, line and reason.
    """
    data = parse(
        read_file(source / "interactions.csv"),
        str(source / "interactions.csv"),
        ("user_id", "movie_id", "rating", "seq"),
        separator=",",
        header=True,
    )
    data = _renamed(data, {"user_id": "user", "movie_id": "item"})
    user = parse(
        read_file(source / "users.dat"),
        str(source / "users.dat"),
        ("user", "gender", "age", "occupation", "_zip"),
        separator="::",
        encoding="latin-1",
    )
    item = parse(
        read_file(source / "movies.dat"),
        str(source / "movies.dat"),
        ("item", "title", "genres"),
        separator="::",
        encoding="latin-1",
    )
    genres = GENRES_100K[1:]
    members_of = [words.split("|") for words in item.text("genres")]
    ranks = data.integers("seq", 0, 10**9, "a rank inside the user")
    expected = data.identifiers("user").groupby(data.identifiers("user"), sort=False).cumcount()
    wrong = ranks != expected.to_numpy()
    data.refuse_where(wrong, "seq", "the ranks of every user to run 0, 1, 2, … in file order")
    data.known("item", item.identifiers("item"), item.where)
    codes = {str(number): word for number, word in enumerate(OCCUPATIONS_1M)}
    users = pd.DataFrame(
        {
            "user": user.identifiers("user"),
            "gender": user.mapped("gender", {word: word for word in GENDERS}),
            "age": user.mapped("age", {str(code): word for code, word in _AGES.items()}),
            "occupation": user.mapped("occupation", codes),
        }
    )
    catalogue = _catalogue(
        item,
        item.text("title").tolist(),
        genres,
        _membership(item, members_of, genres),
        texts=read_texts(source / "item_text_llm_CoLaKG.json"),
        keep=data.identifiers("item"),
    )
    return _movielens(ML_1M.name, "rank", data, ranks, user, users, item, catalogue, OCCUPATIONS_1M)
