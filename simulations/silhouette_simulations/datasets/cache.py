"""Where canonical tables lie on disk: <home>/data/<name>/.

A folder is filled under another name, flushed to disk, and renamed as a whole, with the manifest
written last. So a folder that has the final name is complete, and whoever is killed, or finds the
disk full, leaves nothing that is taken for a data set.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from silhouette_shared.catalogue import Catalogue
from silhouette_shared.errors import IntegrityError, UsageError

from .base import Dataset, Tables, Times
from .canonical import digest

LAYOUT: Final = 1
"""Number of the cache's layout; a folder of another layout is fetched again."""


def folder(home: Path, name: str) -> Path:
    """Return where the data set called `name` lies, whether or not it is there."""
    return home / "data" / name


def store(dataset: Dataset, home: Path) -> None:
    """Put `dataset` in the cache, replacing another one of that name.

    Raises:
        OSError: If the disk is full or may not be written; nothing is left behind.
    """
    target = folder(home, dataset.name)
    with scratch(target.parent, f".{dataset.name}-") as temporary:
        filled = temporary / dataset.name
        filled.mkdir()
        for name, frame in dataset.frames().items():
            _write_parquet(pa.Table.from_pandas(frame, preserve_index=False), filled, name)
        _write_parquet(_items_table(dataset.catalogue), filled, "items")
        manifest = {
            "layout": LAYOUT,
            "name": dataset.name,
            "digest": dataset.digest,
            "times": dataset.times,
            "attributes": {name: list(words) for name, words in dataset.attributes.items()},
            "categories": list(dataset.catalogue.categories),
            "tables": list(dataset.frames()),
        }
        with (filled / "manifest.json").open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync(filled)
        _move(filled, dataset, home, temporary)


def load(name: str, home: Path) -> Dataset:
    """Read a data set from the cache.

    Raises:
        UsageError: If it is not in the cache.
        IntegrityError: If a file is broken or the tables do not have the digest of the manifest.
    """
    place = folder(home, name)
    path = place / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"expected the data set {name} in {place}, got nothing; run `silhouette data get {name}`"
        ) from None
    except ValueError as error:
        raise IntegrityError(f"{path}:1: not a manifest ({error}); {_again(name)}") from error
    try:
        if manifest["layout"] != LAYOUT:
            raise ValueError(f"layout {manifest['layout']} is not {LAYOUT}")
        tables = _read(place, manifest)
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{place}: cannot be read ({error}); {_again(name)}") from error
    found = digest(tables)
    if found != manifest.get("digest"):
        raise IntegrityError(
            f"{place}: expected tables with SHA-256 {manifest.get('digest')}, got {found}; " + _again(name)
        )
    return Dataset(**{**vars(tables), "digest": found})


def _again(name: str) -> str:
    return f"run `silhouette data get {name}` again"


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Yield an empty folder inside `parent` that is gone afterwards, whatever happens.

    Folders above it are made if missing; those that would stay empty go away with it.

    What a killed process left behind is removed by the next one, once it is a day old, so that
    a folder in use by a neighbour is never touched.
    """
    made = [place for place in (parent, *parent.parents) if not place.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{prefix}*.partial"):
        if _age_seconds(old) > 86_400:
            shutil.rmtree(old, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # the first one that is not empty ends it
            for place in made:
                place.rmdir()


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:  # a neighbour has just removed it
        return 0.0


def _write_parquet(table: pa.Table, place: Path, name: str) -> None:
    with (place / f"{name}.parquet").open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(filled: Path, dataset: Dataset, home: Path, temporary: Path) -> None:
    """Rename the filled folder to its final name.

    A folder cannot be renamed onto one that is not empty. If that one holds the same whole data
    set, a neighbour was faster and nothing has to change, so that nobody who is reading it is
    disturbed. Otherwise it steps aside and goes away with the scratch folder.
    """
    target = folder(home, dataset.name)
    for attempt in range(100):
        try:
            filled.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if _holds(dataset, home):
                return
            # A neighbour may have moved it first; then the next attempt finds the place free.
            with suppress(FileNotFoundError):
                target.rename(temporary / f"previous-{attempt}")
        else:
            _sync(target.parent)
            return
    raise OSError(errno.EBUSY, "other processes keep replacing the folder", str(target))


def _holds(dataset: Dataset, home: Path) -> bool:
    try:
        return load(dataset.name, home).digest == dataset.digest
    except (UsageError, IntegrityError):
        return False


def _items_table(catalogue: Catalogue) -> pa.Table:
    membership = catalogue.category_matrix.astype(bool)
    return pa.table(
        {
            "item": pa.array(catalogue.items, pa.string()),
            "title": pa.array(catalogue.titles, pa.string()),
            "text": pa.array(catalogue.texts, pa.string()),
            "categories": pa.array([np.flatnonzero(row).tolist() for row in membership], pa.list_(pa.int32())),
            "content": pa.array(catalogue.content.tolist(), pa.list_(pa.float32())),
        }
    )


def _read(place: Path, manifest: dict[str, object]) -> Tables:
    names = cast("list[str]", manifest["tables"])
    frames: dict[str, pd.DataFrame] = {name: pq.read_table(place / f"{name}.parquet").to_pandas() for name in names}
    items = pq.read_table(place / "items.parquet").to_pydict()
    categories = tuple(cast("list[str]", manifest["categories"]))
    matrix = np.zeros((len(items["item"]), len(categories)), dtype=np.float32)
    for row, members in enumerate(items["categories"]):
        matrix[row, members] = 1.0
    width = len(items["content"][0]) if items["content"] else 0
    catalogue = Catalogue(
        items=tuple(items["item"]),
        titles=tuple(items["title"]),
        categories=categories,
        category_matrix=matrix,
        texts=tuple(items["text"]),
        content=np.asarray(items["content"], dtype=np.float32).reshape(len(matrix), width),
    )
    attributes = cast("dict[str, list[str]]", manifest["attributes"])
    return Tables(
        name=str(manifest["name"]),
        events=frames["events"],
        users=frames["users"],
        catalogue=catalogue,
        attributes={name: tuple(words) for name, words in attributes.items()},
        times=cast(Times, manifest["times"]),
        edges=frames.get("edges"),
        tags=frames.get("tags"),
        held_out=frames.get("held_out"),
    )
