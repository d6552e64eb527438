"""The folder `<home>/node/people`: a key, a manifest, and sealed parts that never change.

A part counts only when the manifest names it, and the manifest is replaced in one step. So whatever is killed at
whatever moment, the folder holds what it held before or what it was to hold after; a part that nobody names is removed
by the next writer. One process writes at a time; the next one waits for a moment. A reader needs no lock; one that
meets the removal of a part reads again (`reading`).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from silhouette_client.ingest.cleaning import Bad
from silhouette_client.ingest.folder import FOLDER, manifest_of
from silhouette_client.ingest.manifest import FORMAT, Manifest, Part
from silhouette_client.ingest.mapping import TIME_COLUMNS
from silhouette_client.ingest.reasons import CODES
from silhouette_client.ingest.vault import Vault, open_key, write_whole
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.files import lock_alone, stamp

_T = TypeVar("_T")
_MOST_READINGS = 20  # a reading takes longer than a commit, so more than one again is rare

IDENTITY = "identity"
"""Column of a part that names each row; see `identity.py`."""

_PATIENCE_SECONDS = 4.0
"""How long a writer waits for another: to put in what was pushed takes less, to take in a large file far longer; and an
erasure at a running service, which holds up pushes meanwhile, is answered before its application gives up."""


class Records:
    """A node's people, on the disk. Made by `open_records`."""

    def __init__(self, folder: Path, vault: Vault, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._vault = vault

    def add_part(self, table: pa.Table, names: NDArray[np.uint64]) -> Part:
        """Write rows as a part; it counts when a manifest with it is committed."""
        table = table.append_column(IDENTITY, pa.array(names))
        texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
        time = next((name for name in TIME_COLUMNS if name in table.column_names), None)
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(
            table,
            sink,
            compression="zstd",
            compression_level=1,
            use_dictionary=texts,
            column_encoding={time: "DELTA_BINARY_PACKED"} if time else None,
            write_statistics=False,
        )
        name = self._vault.put(sink.getvalue().to_pybytes())
        if time is None or not table.num_rows:
            return Part(name=name, rows=table.num_rows)
        times = table.column(time).to_numpy()
        return Part(name=name, rows=table.num_rows, earliest=int(times.min()), latest=int(times.max()))

    def add_quarantine(self, bad: Bad) -> str:
        """Write bad rows (line, column, reason); they count when a manifest with them is committed."""
        table = pa.table(
            {
                "line": pa.array(bad.lines, pa.int64()),
                "column": pa.array(bad.columns.tolist(), pa.string()),
                "reason": pa.array(bad.codes, pa.int8()),
            }
        )
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(table, sink, compression="zstd")
        return self._vault.put(sink.getvalue().to_pybytes())

    def commit(self, manifest: Manifest) -> None:
        """Make this the state of the folder, in one step, and remove what nobody needs any more."""
        _write_manifest(self.folder, self._vault, manifest)
        self.manifest = manifest
        self.tidy()

    def tidy(self) -> None:
        """Remove parts that the manifest does not name."""
        self._vault.keep_only(self.manifest.sealed_files())

    def read(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> pa.Table | None:
        """The rows of parts, one after the other; a column that a part lacks is null there. None without parts.

        Raises:
            IntegrityError: If a part is missing or damaged.
        """
        tables = []
        for part in parts:
            content = pa.BufferReader(self._vault.get(part.name))
            with pyarrow.parquet.ParquetFile(content) as file:
                own = file.schema_arrow.names
                tables.append(file.read(columns=None if columns is None else [name for name in columns if name in own]))
        if not tables:
            return None
        return pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """All rows of a canonical table in the order in which they came, or None if there are none."""
        return self.read(self.manifest.parts_of(name), columns)

    def names_of(self, part: Part) -> NDArray[np.uint64]:
        """The identities of a part's rows."""
        table = self.read([part], [IDENTITY])
        return np.zeros(0, np.uint64) if table is None else np.asarray(table.column(IDENTITY).to_numpy(), np.uint64)

    def quarantine(self) -> Iterator[tuple[str, str, int, str, str]]:
        """Bad rows of all files: file, table, line, column ("" for the whole row), reason."""
        for one in self.manifest.files:
            if one.quarantine is None:
                continue
            content = pyarrow.parquet.read_table(io.BytesIO(self._vault.get(one.quarantine)))
            for row in content.to_pylist():
                yield one.name, one.table, row["line"], row["column"], str(CODES[row["reason"] - 1])


def open_records(home: Path) -> Records:
    """The people of a node, for reading; none if nothing was ever taken in.

    Raises:
        IntegrityError: If the manifest or the key is damaged or missing.
    """
    folder = home / FOLDER
    if not manifest_of(folder).exists():
        return Records(folder, Vault(folder / "parts", bytes(32)), Manifest())
    vault = Vault(folder / "parts", open_key(folder / "key", may_make=False))
    return Records(folder, vault, _read_manifest(folder, vault))


def reading(home: Path, read: Callable[[Records], _T]) -> _T:
    """Read what a node holds, opened for it, and again where another process replaced the parts meanwhile.

    Args:
        home: Of the node.
        read: Reads all it needs.

    Raises:
        IntegrityError: As `open_records` and `read` do, of records that stayed as they were.
    """
    for _ in range(_MOST_READINGS):
        before = stamp(manifest_of(home / FOLDER))
        try:
            return read(open_records(home))
        except IntegrityError:
            if stamp(manifest_of(home / FOLDER)) == before:
                raise
    return read(open_records(home))


@contextmanager
def writing(home: Path, patience: float | None = None) -> Iterator[Records]:
    """The people of a node, for writing; everything that a killed writer left is removed first.

    Args:
        home: Of the node.
        patience: Seconds to wait for another writer; None waits as long as one takes that puts in what was pushed.

    Raises:
        UnavailableError: If another process writes for longer.
        IntegrityError: If the manifest or the key is damaged or missing.
    """
    folder = home / FOLDER
    (folder / "parts").mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not lock_alone(lock, _PATIENCE_SECONDS if patience is None else patience):
            raise UnavailableError(f"{folder}: expected no other writer, found one; wait until it has ended")
        started = manifest_of(folder).exists()
        vault = Vault(folder / "parts", open_key(folder / "key", may_make=not started))
        records = Records(folder, vault, _read_manifest(folder, vault) if started else Manifest())
        for name in (manifest_of(folder).name, "key"):  # the report's drafts are written without the lock
            for left in folder.glob(f".{name}.*.*"):
                left.unlink()
        records.tidy()
        yield records
    finally:
        os.close(lock)


def _write_manifest(folder: Path, vault: Vault, manifest: Manifest) -> None:
    content = json.dumps(asdict(manifest), sort_keys=True)
    document = {"format": FORMAT, "seal": vault.seal_of(content.encode()), "manifest": content}
    write_whole(manifest_of(folder), json.dumps(document).encode())


def _read_manifest(folder: Path, vault: Vault) -> Manifest:
    path = manifest_of(folder)
    try:
        document = json.loads(path.read_bytes())
        number, content, seal = document["format"], document["manifest"], document["seal"]
        if number != FORMAT:
            raise UnavailableError(
                f"{path}: expected format {FORMAT}, got {number}; a newer Silhouette wrote it, install that one"
            )
        if not vault.check_seal(content.encode(), seal):
            raise ValueError("the seal does not fit")
        return TypeAdapter(Manifest).validate_json(content)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise IntegrityError(
            f"{path}: expected the manifest that was written, got another or another key "
            f"({type(error).__name__}); restore it"
        ) from None
