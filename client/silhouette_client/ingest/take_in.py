"""Taking files in: examine all, then one after the other read, clean, leave out repetitions, write, commit.

Nothing is changed before every file was looked through. Each file is committed in one step, so a killed run leaves
whole files only, and the same command goes on where it was: files that are there already change nothing.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silhouette_client.ingest.cleaning import Bad, Block, Clean, Quality, clean, repeated
from silhouette_client.ingest.manifest import ColumnQuality, Part, Taken
from silhouette_client.ingest.mapping import TIME_COLUMNS, Mapping, SourceRule
from silhouette_client.ingest.reasons import CODES
from silhouette_client.ingest.records import Records, writing
from silhouette_client.ingest.sources import Piece, Source, blocks, examine, find, kind_of, parse, pieces
from silhouette_shared.errors import UsageError
from silhouette_shared.files import stamp

_LOG = logging.getLogger(__name__)

_BATCH_ROWS = 4_000_000
_PART_ROWS = 1_000_000
_AT_WORK = 4  # blocks: two in hand, two waiting
_FEW_ROWS = 20  # with fewer, a large share of bad rows says little


class Exclusions(Protocol):
    """Who may not come in or be used: people who were erased or suppressed."""

    def among(self, users: Sequence[str]) -> Collection[str]:
        """Those of the users who are excluded."""
        ...


class Nobody:
    """Excludes nobody."""

    def among(self, users: Sequence[str]) -> Collection[str]:
        """None of them."""
        del users
        return ()


@dataclass(frozen=True)
class Outcome:
    """What a run did: files taken in, and names of those that were there already."""

    taken: tuple[Taken, ...]
    known: tuple[str, ...]


@dataclass
class _Counts:
    """What is added up while a file is read."""

    rows: int = 0
    kept: int = 0
    repeated: int = 0
    ignored: int = 0
    blocked: int = 0
    late: int = 0
    unordered: int = 0
    last_time: int | None = None
    quality: dict[str, Quality] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)


def take_in(
    home: Path,
    mapping: Mapping,
    arguments: Sequence[str],
    *,
    now: int,
    exclusions: Exclusions | None = None,
    workers: int = 2,
    progress: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Take files, folders and databases into the node's people.

    Args:
        home: Of the node.
        mapping: How to read them.
        arguments: Paths and database URLs.
        now: UTC seconds; a later time than this and the mapping's clock skew is bad.
        exclusions: Whose rows are left out.
        workers: Threads.
        progress: Told a line at a time.

    Raises:
        UsageError: If a file cannot be read as the mapping says. Nothing of that file is taken in; and if it shows
            before the first is read (a wrong header, a damaged file, another encoding), nothing at all is changed.
        UnavailableError: If another process writes, or a database does not answer.
        IntegrityError: If what is there already is damaged.
    """
    jobs = _jobs(find(arguments), mapping)
    taken, known = [], []
    with writing(home) as records, ThreadPoolExecutor(workers) as pool:
        digests = list(pool.map(lambda job: examine(*job), jobs))
        for (source, rule), content in zip(jobs, digests, strict=True):
            if records.manifest.has((content, rule.table, rule.digest())):
                known.append(source.name)
                progress(f"{source.name}: known, nothing to do")
                continue
            work = _Reading(
                records, source, rule, content, now + mapping.clock_skew_seconds, exclusions or Nobody(), pool
            )
            one = work.run()
            records.commit(records.manifest.plus(one))
            taken.append(one)
            progress(f"{source.name}: {one.kept} of {one.rows} rows into {one.table}, {sum(one.bad.values())} bad")
        _set_consent(records, mapping)
    return Outcome(tuple(taken), tuple(known))


def _jobs(sources: Sequence[Source], mapping: Mapping) -> list[tuple[Source, SourceRule]]:
    jobs = []
    for source in sources:
        rules = mapping.rules_for(source.path.name if source.is_file else source.name)
        if not rules:
            patterns = ", ".join(rule.match for rule in mapping.source)
            raise UsageError(
                f"{source.name}: expected a name that matches one of {patterns}; add a [[source]] to the mapping"
            )
        for rule in rules:
            kind_of(source, rule)
            jobs.append((source, rule))
    return jobs


def _set_consent(records: Records, mapping: Mapping) -> None:
    # Last: a run that ends in a refusal loosens nothing.
    if records.manifest.consent != mapping.consent:
        records.commit(replace(records.manifest, consent=mapping.consent))


class _Reading:
    """One file on its way in."""

    def __init__(
        self,
        records: Records,
        source: Source,
        rule: SourceRule,
        content: str,
        latest: int,
        exclusions: Exclusions,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._records, self._source, self._rule, self._content = records, source, rule, content
        self._latest, self._exclusions, self._pool = latest, exclusions, pool
        before = records.manifest.without(content, rule.table)
        self._others = before.parts_of(rule.table)
        self._newest = before.newest(rule.table)
        self._names: dict[str, NDArray[np.uint64]] = {}
        self._own: list[NDArray[np.uint64]] = []
        self._parts: list[Future[Part]] = []
        self._counts = _Counts()

    def run(self) -> Taken:
        """Read all of it; what is written counts only when it is committed."""
        stamp = self._stamp()
        waiting: list[Clean] = []
        for one in self._cleaned():
            self._count(one)
            waiting.append(one)
            if sum(len(each.names) for each in waiting) >= _BATCH_ROWS:
                self._flush(waiting)
                waiting = []
        self._flush(waiting)
        parts = tuple(part.result() for part in self._parts)
        if self._stamp() != stamp:
            raise UsageError(
                f"{self._source.name}: expected a file that stays as it is, it was changed while it was read; "
                "give it again when it is finished"
            )
        self._refuse_nonsense()
        return self._taken(parts)

    def _stamp(self) -> tuple[int, ...]:
        return stamp(self._source.path) if self._source.is_file else ()

    def _cleaned(self) -> Iterator[Clean]:
        """Blocks in order, a few of them at work at a time."""
        kind = kind_of(self._source, self._rule)
        running: deque[Future[Clean]] = deque()
        if kind in ("csv", "jsonl"):
            work = (partial(self._parsed, piece, kind) for piece in pieces(self._source, self._rule))
        else:
            work = (partial(self._clean, block) for block in blocks(self._source, self._rule))
        for make in work:
            running.append(self._pool.submit(make))
            if len(running) >= _AT_WORK:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _parsed(self, piece: Piece, kind: str) -> Clean:
        return self._clean(parse(piece, kind, self._rule))

    def _clean(self, block: Block) -> Clean:
        return clean(block, self._rule, latest=self._latest)

    def _count(self, one: Clean) -> None:
        counts = self._counts
        counts.rows += one.rows
        counts.ignored += one.ignored
        for name, quality in one.quality.items():
            counts.quality[name] = counts.quality.get(name, Quality()).plus(quality)
        if len(one.bad):
            counts.bad.append(one.bad)

    def _flush(self, waiting: Sequence[Clean]) -> None:
        if not waiting:
            return
        table = pa.concat_tables([one.table for one in waiting]).unify_dictionaries()
        names = np.concatenate([one.names for one in waiting])
        allowed = self._allowed(table)
        if not allowed.all():
            self._counts.blocked += int(np.count_nonzero(~allowed))
            table, names = table.filter(pa.array(allowed)), names[allowed]
        again = repeated(names, self._known(table))
        if again.any():
            self._counts.repeated += int(np.count_nonzero(again))
            table, names = table.filter(pa.array(~again)), names[~again]
        self._own.append(names)
        self._counts.kept += len(names)
        self._count_times(table)
        for start in range(0, len(names), _PART_ROWS):
            rows = table.slice(start, _PART_ROWS).combine_chunks()
            self._parts.append(self._pool.submit(self._records.add_part, rows, names[start : start + _PART_ROWS]))

    def _allowed(self, table: pa.Table) -> NDArray[np.bool_]:
        allowed = np.ones(table.num_rows, np.bool_)
        for name in ("user", "other"):
            if name in table.column_names and table.num_rows:
                users = table.column(name).combine_chunks()
                distinct = pc.unique(users).dictionary.to_pylist()
                if out := sorted(self._exclusions.among(distinct)):
                    flags = pc.is_in(table.column(name).cast(pa.string()), value_set=pa.array(out, pa.string()))
                    allowed &= ~flags.to_numpy()
        return allowed

    def _known(self, table: pa.Table) -> NDArray[np.uint64]:
        """Identities of rows that are there already and may be equal to one of the table."""
        time = _time_column(table)
        parts = self._others
        if time is not None and table.num_rows:
            times = table.column(time)
            low, high = pc.min(times).as_py(), pc.max(times).as_py()
            parts = tuple(
                one
                for one in parts
                if one.earliest is not None and one.latest is not None and one.earliest <= high and one.latest >= low
            )
        for part in parts:
            if part.name not in self._names:
                self._names[part.name] = self._records.names_of(part)
        known = [*self._own, *(self._names[part.name] for part in parts)]
        return np.concatenate(known) if known else np.zeros(0, np.uint64)

    def _count_times(self, table: pa.Table) -> None:
        if self._rule.table != "events" or not table.num_rows:
            return
        times = table.column("timestamp").to_numpy()
        counts = self._counts
        if self._newest is not None:
            counts.late += int(np.count_nonzero(times < self._newest))
        counts.unordered += int(np.count_nonzero(np.diff(times) < 0))
        if counts.last_time is not None:
            counts.unordered += int(times[0] < counts.last_time)
        counts.last_time = int(times[-1])

    def _refuse_nonsense(self) -> None:
        """A file that is mostly bad was probably read by the wrong rule."""
        bad = sum(len(one) for one in self._counts.bad)
        if self._counts.rows >= _FEW_ROWS and bad > self._rule.largest_bad_share * self._counts.rows:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self._reasons().most_common(3))
            raise UsageError(
                f"{self._source.name}: expected at most {100 * self._rule.largest_bad_share:g} % bad rows, got {bad} "
                f"of {self._counts.rows}: {reasons}; correct the mapping, or raise largest_bad_share"
            )

    def _reasons(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for one in self._counts.bad:
            numbers, often = np.unique(one.codes, return_counts=True)
            total.update({str(CODES[number - 1]): int(count) for number, count in zip(numbers, often, strict=True)})
        return total

    def _taken(self, parts: tuple[Part, ...]) -> Taken:
        counts = self._counts
        quarantine = None
        if counts.bad:
            quarantine = self._records.add_quarantine(
                Bad(
                    np.concatenate([one.lines for one in counts.bad]),
                    np.concatenate([one.columns for one in counts.bad]),
                    np.concatenate([one.codes for one in counts.bad]),
                )
            )
        return Taken(
            name=self._source.name,
            content=self._content,
            table=self._rule.table,
            rule=self._rule.digest(),
            rows=counts.rows,
            kept=counts.kept,
            repeated=counts.repeated,
            ignored=counts.ignored,
            blocked=counts.blocked,
            late=counts.late,
            unordered=counts.unordered,
            bad=dict(self._reasons()),
            columns={
                name: ColumnQuality(rows=one.rows, missing=one.missing, bad=one.bad)
                for name, one in counts.quality.items()
            },
            parts=parts,
            quarantine=quarantine,
        )


def _time_column(table: pa.Table) -> str | None:
    return next((name for name in TIME_COLUMNS if name in table.column_names), None)
