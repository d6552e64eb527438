"""Where a run's histories come from: what the node took in, packed against the offered catalogue."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from silhouette_client.ingest.folder import FOLDER, manifest_of
from silhouette_shared.enrolment.refusals import CodedRefusalError
from silhouette_shared.errors import SilhouetteError, UsageError
from silhouette_shared.files import stamp
from silhouette_shared.model.histories import Histories

_LOG = logging.getLogger(__name__)


class PeopleSource(Protocol):
    """Gives a partner's people as a run needs them."""

    def histories(self, items: Mapping[str, int], attributes: Mapping[str, Sequence[str]]) -> Histories:
        """Everybody's history.

        Args:
            items: Number of each item of the catalogue, from 1.
            attributes: Classes of each declared attribute, in order.

        Raises:
            SilhouetteError: If there are none, or they do not fit.
        """
        ...


class TablesOnDisk:
    """`events.parquet` and `users.parquet` in a folder, as `silhouette_shared.schema` describes them.

    `people.json` beside them says with `{"times": "rank"}` that timestamps are ranks and no points in time.

    Args:
        folder: `<home>/node/people`.
        home: Whose erased and suppressed people are left out; nobody is, if None.
    """

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self._folder, self._home = folder, home

    def histories(self, items: Mapping[str, int], attributes: Mapping[str, Sequence[str]]) -> Histories:
        """Read and pack; UsageError if a table is missing, unreadable or does not fit the catalogue."""
        import pandas as pd

        from silhouette_client.ingest.packing import pack

        tables = {}
        for name in ("events", "users"):
            path = self._folder / f"{name}.parquet"
            try:
                tables[name] = pd.read_parquet(path)
            except FileNotFoundError:
                raise UsageError(f"{path}: expected this partner's {name}, found none; put them there") from None
            except (OSError, ValueError) as error:
                raise UsageError(f"{path}: expected a Parquet table: {type(error).__name__}; write it again") from None
        users = tables["users"]
        try:
            if self._home is not None:
                from silhouette_client.profiles.vault import excluded

                left_out = excluded(self._home)
                users = users[[not left_out(str(user)) for user in users["user"]]]
            return pack(tables["events"], users, items=items, attributes=attributes, has_times=self._has_times())
        except KeyError as error:
            raise UsageError(f"{self._folder}: expected the canonical columns, found no {error}; map them") from None

    def users(self) -> tuple[str, ...]:
        """Id of each person, in the order of the histories; errors as `histories`."""
        import pandas as pd

        path = self._folder / "users.parquet"
        try:
            return tuple(map(str, pd.read_parquet(path, columns=["user"])["user"]))
        except FileNotFoundError:
            raise UsageError(f"{path}: expected this partner's users, found none; put them there") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: expected a Parquet table: {type(error).__name__}; write it again") from None

    def _has_times(self) -> bool:
        path = self._folder / "people.json"
        if not path.exists():
            return True
        try:
            times = json.loads(path.read_text(encoding="utf-8"))["times"]
        except (ValueError, KeyError, TypeError):
            times = None
        if times not in ("utc", "rank", "none"):
            raise UsageError(f'{path}: expected {{"times": "utc"}}, rank or none, got something else; correct it')
        return bool(times == "utc")


class IngestedPeople:
    """What `silhouette node ingest` took in, of those who consented to training and were neither erased nor suppressed.

    Args:
        home: `<home>`, in which `node/` lies.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def histories(self, items: Mapping[str, int], attributes: Mapping[str, Sequence[str]]) -> Histories:
        """Read and pack; errors as `read_people` and `excluded` have them."""
        from silhouette_client.ingest.reading import people
        from silhouette_client.profiles.vault import excluded

        return people(self._home, items, attributes, "training", exclusions=excluded(self._home))


def stamp_of(home: Path) -> tuple[tuple[int, ...], ...]:
    """What changes when records are taken in or removed, or somebody is erased, suppressed or let in again.

    Whoever keeps people's tensors reads them again when it has changed. It needs no key.
    """
    from silhouette_client.profiles.vault import CHANGED_NAME

    return stamp(manifest_of(home / FOLDER)), stamp(home / CHANGED_NAME)


def people_in(home: Path, folder: Path) -> PeopleSource:
    """What was taken in by `silhouette node ingest`, else the canonical tables that lie in `folder` themselves."""
    return IngestedPeople(home) if manifest_of(folder).exists() else TablesOnDisk(folder, home)


def pack_for(
    source: PeopleSource, items: Mapping[str, int], attributes: Mapping[str, Sequence[str]], run: str
) -> Histories:
    """A source's histories; what does not fit is told to this partner alone.

    A count of events that do not fit would be a number about people, so the coordinator learns only that it is so.

    Raises:
        CodedRefusalError: Without a figure.
    """
    try:
        found = source.histories(items, attributes)
    except SilhouetteError as error:
        _LOG.error("run %s: the people of this node do not fit what was offered: %s", run, error)
        raise CodedRefusalError(
            "people_tables",
            "expected tables that fit the offered catalogue, this partner has none; its operator finds the reason in "
            "its log",
        ) from None
    if len(found) == 0:
        raise CodedRefusalError("people_tables", "expected people at this partner, there are none; it takes no part")
    return found
