"""Canonical tables to packed histories: the last place where a person has an id."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from silhouette_client.ingest.text import text_vectors
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import UNKNOWN, Histories, value_buckets
from silhouette_shared.schema import BEHAVIOURS


def pack(
    events: pd.DataFrame,
    users: pd.DataFrame,
    *,
    items: Mapping[str, int],
    attributes: Mapping[str, Sequence[str]],
    has_times: bool,
    text_width: int = 0,
) -> Histories:
    """Pack the events of `users`, one person after the other in the order of that table.

    Events of a person are ordered by time, and stably: events of the same second keep the order of the table,
    because an unstable sort changes which event is a person's last.

    Args:
        events: Canonical events; people who are not in `users` are left out.
        users: Canonical users with the declared attributes as columns.
        items: Number of each item of the catalogue, from 1.
        attributes: Classes of each declared attribute, in order.
        has_times: Whether timestamps are points in time rather than ranks.
        text_width: Columns of the vectors of what people wrote; 0 reads no texts.

    Raises:
        UsageError: If a person has no events, or an item or class is unknown.
    """
    row_of = {user: row for row, user in enumerate(users["user"])}
    own = events[events["user"].isin(row_of)]
    people = own["user"].map(row_of).to_numpy(dtype=np.int64)
    timestamps = own["timestamp"].to_numpy(dtype=np.int64)
    order = np.lexsort((timestamps, people))  # stable, the last key counts most
    counts = np.bincount(people, minlength=len(users))
    if len(users) and counts.min() == 0:
        raise UsageError(
            f"expected events of every person, got {int((counts == 0).sum())} people without any; "
            "remove them from the users"
        )
    numbers = own["item"].map(items)
    if numbers.isna().any():
        raise UsageError(
            f"expected items of the catalogue, got {int(numbers.isna().sum())} events of others; "
            "add the items or remove the events"
        )
    behaviours = own["behaviour"].map({name: i for i, name in enumerate(BEHAVIOURS, start=1)})
    if behaviours.isna().any():
        raise UsageError(f"expected behaviours out of {', '.join(BEHAVIOURS)}, got others")
    values = torch.from_numpy(own["value"].to_numpy(dtype=np.float64)[order])
    return Histories(
        items=torch.from_numpy(numbers.to_numpy(dtype=np.int64)[order]),
        behaviours=torch.from_numpy(behaviours.to_numpy(dtype=np.int64)[order]),
        values=value_buckets(values),
        timestamps=torch.from_numpy(timestamps[order]),
        offsets=torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int64)),
        attributes=_attributes(users, attributes),
        has_times=has_times,
        texts=_texts(own, order, text_width),
    )


def _texts(events: pd.DataFrame, order: np.ndarray, width: int) -> torch.Tensor | None:
    if width == 0:
        return None
    written = events["text"].iloc[order]
    return torch.from_numpy(text_vectors([None if pd.isna(text) else str(text) for text in written], width))


def _attributes(users: pd.DataFrame, attributes: Mapping[str, Sequence[str]]) -> torch.Tensor:
    columns = []
    for name, classes in attributes.items():
        if name not in users:
            raise UsageError(f"expected a column {name} in the users, got none")
        numbers = users[name].map({value: i for i, value in enumerate(classes, start=1)})
        unknown = numbers.isna() & users[name].notna()
        if unknown.any():
            raise UsageError(
                f"expected {name} out of {len(classes)} classes, got {int(unknown.sum())} people with another"
            )
        columns.append(numbers.fillna(UNKNOWN).to_numpy(dtype=np.int64))
    if not columns:
        return torch.zeros((len(users), 0), dtype=torch.int64)
    return torch.from_numpy(np.stack(columns, axis=1))
