"""What a data set is once it has been read, whatever it was read from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from silhouette_shared.catalogue import Catalogue

Times = Literal["utc", "rank", "none"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """The canonical tables of a data set, checked by `canonical.check`.

    Attributes:
        name: The data set's name, as in `silhouette data get NAME`.
        events: Columns of `schema.EVENTS`, in the source's order, which is stable.
        users: Column `user`, then one nullable text column per declared attribute.
        catalogue: The public items.
        attributes: Declared attribute -> its public classes in order.
        times: `utc`: seconds; `rank`: position inside the user; `none`: all zero.
        edges: Columns of `schema.EDGES`, or None.
        tags: Columns of `schema.TAGS`, or None.
        held_out: Columns user, item: purchases kept apart by the publisher, or None.
    """

    name: str
    events: pd.DataFrame
    users: pd.DataFrame
    catalogue: Catalogue
    attributes: Mapping[str, tuple[str, ...]]
    times: Times
    edges: pd.DataFrame | None = None
    tags: pd.DataFrame | None = None
    held_out: pd.DataFrame | None = None

    def frames(self) -> dict[str, pd.DataFrame]:
        """Return the tables that are present, by name, in a fixed order."""
        present = {
            "events": self.events,
            "users": self.users,
            "edges": self.edges,
            "tags": self.tags,
            "held_out": self.held_out,
        }
        return {name: frame for name, frame in present.items() if frame is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(Tables):
    """Checked tables together with the SHA-256 (hexadecimal) over all of them."""

    digest: str


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set before it is fetched.

    `files` are the names expected in a `--from` folder; `sizes` are the published numbers of
    users, items and events. `fetched` says whether it can be had without a folder.
    """

    name: str
    title: str
    licence: str
    home_page: str
    times: Times
    files: tuple[str, ...]
    sizes: tuple[int, int, int]
    fetched: bool
