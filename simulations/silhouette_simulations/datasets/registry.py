"""Which data sets there are, and the one way to get them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_simulations.disk import require_space

from . import cache
from .base import Dataset, DatasetInfo, Tables
from .canonical import sealed
from .lastfm import LASTFM_2K, read_lastfm_2k
from .movielens import ML_1M, ML_100K, fetch_ml_100k, read_ml_1m, read_ml_100k
from .taobao import TAOBAO, read_taobao

Fetch = Callable[[Path, Callable[[str], None]], Tables]
"""Takes an empty scratch folder and where to tell progress."""

Read = Callable[[Path], Tables]

_INFOS: Final = (ML_100K, ML_1M, LASTFM_2K, TAOBAO)

_FETCH: Final[Mapping[str, Fetch]] = MappingProxyType({ML_100K.name: fetch_ml_100k})

_READ: Final[Mapping[str, Read]] = MappingProxyType(
    {
        ML_100K.name: read_ml_100k,
        ML_1M.name: read_ml_1m,
        LASTFM_2K.name: read_lastfm_2k,
        TAOBAO.name: read_taobao,
    }
)


def available() -> tuple[DatasetInfo, ...]:
    """Return what is known of every data set, in the order they are shown."""
    return _INFOS


def info(name: str) -> DatasetInfo:
    """Return what is known of one data set.

    Raises:
        UsageError: If there is no data set of that name.
    """
    for known in _INFOS:
        if known.name == name:
            return known
    names = ", ".join(known.name for known in _INFOS)
    raise UsageError(f"expected a data set out of {names}, got {name!r}")


def get(
    name: str,
    *,
    home: Path,
    source: Path | None = None,
    progress: Callable[[str], None] = lambda _message: None,
    fetchers: Mapping[str, Fetch] = _FETCH,
) -> Dataset:
    """Return a data set, from the cache if it is there, else fetched and put there.

    A folder given as `source` is always read, and replaces what the cache holds. Whatever goes
    wrong leaves the cache as it was.

    Args:
        name: As in `available`.
        home: Silhouette's home; the cache is `<home>/data/<name>`.
        source: A folder with the published files, or None to fetch.
        progress: Is told what happens.
        fetchers: How to fetch, by name.

    Raises:
        UsageError: If the name is unknown, the data set cannot be fetched without a folder, or
            a file is refused, with file, line and reason, or a checksum that differs, or the
            disk has too little room.
        UnavailableError: If it cannot be reached.
        OSError: If the disk becomes full.
    """
    known = info(name)
    if source is not None:
        require_space(home, _room(known, source), option="--home")
        dataset = sealed(_READ[name](source))
    else:
        try:
            return cache.load(name, home)
        except UsageError:
            pass
        except IntegrityError as error:
            progress(f"{error}")
        if name not in fetchers:
            raise UsageError(
                f"expected a folder with {', '.join(known.files)} ({known.licence}), got none; "
                f"run `silhouette data get {name} --from FOLDER`"
            )
        require_space(home, _room(known, None), option="--home")
        with cache.scratch(cache.folder(home, name).parent, f".{name}-fetch-") as scratch:
            dataset = sealed(fetchers[name](scratch, progress))
    found = (len(dataset.users), len(dataset.catalogue), len(dataset.events))
    if found != known.sizes:
        progress(
            "note: published are {:,} users, {:,} items, {:,} events; ".format(*known.sizes)
            + "this copy has {:,}, {:,}, {:,}".format(*found)
        )
    cache.store(dataset, home)
    return dataset


def _room(known: DatasetInfo, source: Path | None) -> int:
    """Bytes that getting a data set may take: what is read or fetched, and its tables, rather too much."""
    sizes = [] if source is None else [path.stat().st_size for path in source.glob("*") if path.is_file()]
    events = known.sizes[2] if source is None else 0
    return 2 * sum(sizes) + 200 * events + 1_000_000


def load(name: str, *, home: Path) -> Dataset:
    """Return a data set from the cache and nowhere else.

    Raises:
        UsageError: If the name is unknown or the data set is not there; it says how to get it.
        IntegrityError: If what is there is broken.
    """
    info(name)
    return cache.load(name, home)
