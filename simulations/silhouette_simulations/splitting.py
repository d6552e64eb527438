"""Which events are kept from training and asked for afterwards.

Every draw depends on the plan's seed and on the order of the table, never on how people are dealt to partners, so that
plans that differ in nothing but their partners ask for the same events.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from silhouette_shared.config import Evaluation
from silhouette_shared.errors import UsageError
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.datasets import Dataset

LEFT_OUT = {"test": 1, "validation": 2}
"""How many of a person's last events the split `last` holds out, by what is asked for."""


@dataclass(frozen=True)
class Split:
    """Events that are trained on and ranked from, and what is asked for."""

    known: pd.DataFrame  # columns of the events; with the split `random` in drawn order, else in the source's
    held_out: pd.DataFrame  # columns user, item; some people may have none


def hold_out(dataset: Dataset, events: pd.DataFrame, evaluation: Evaluation, seed: int) -> Split:
    """Split events as a plan says.

    - `last`: a person's last event, or for `validation` the second last; later ones are left out altogether.
    - `random`: a share of each person's events, rounded down.
    - `time`: what lies after the moment before which 1 - share of all events lie. Asked for is the first event after it
      on an item that the person did not have before. For `validation` there are two such moments, and what lies
      after the later one is left out.
    - `publisher`: what the publisher kept apart; for `validation` the last purchase of everybody who has two.

    Args:
        dataset: Tells whether there are times, and what the publisher kept apart.
        events: Those of the data set that the plan reads.
        evaluation: Split, share and target.
        seed: Of the draws.

    Raises:
        UsageError: If the data do not carry the split: a person with too few events, no times, nothing kept apart.
    """
    if evaluation.split == "last":
        return _last(dataset, events, LEFT_OUT[evaluation.target])
    if evaluation.split == "random":
        split = _random(events, evaluation.held_out_share, ReproducibleSource(seed).child("test").number())
        if evaluation.target == "validation":
            draw = ReproducibleSource(seed).child("validation").number()
            split = _random(split.known, evaluation.held_out_share, draw)
        return split
    if evaluation.split == "time":
        return _time(dataset, events, evaluation)
    return _publisher(dataset, events, evaluation)


def _last(dataset: Dataset, events: pd.DataFrame, left_out: int) -> Split:
    in_order = events.sort_values("timestamp", kind="stable")
    from_end = in_order.groupby("user", sort=False).cumcount(ascending=False).reindex(events.index)
    if int(events.groupby("user", sort=False).size().min()) <= left_out:
        raise UsageError(
            f"{dataset.name}: expected more than {left_out} events of every person, to hold "
            f"out the {_which(left_out)} event; some have fewer"
        )
    return Split(events[from_end >= left_out], events.loc[from_end == left_out - 1, ["user", "item"]])


def _which(left_out: int) -> str:
    return next(name for name, count in LEFT_OUT.items() if count == left_out)


def _random(events: pd.DataFrame, share: float, seed: int) -> Split:
    drawn = events.iloc[np.random.Generator(np.random.PCG64(seed)).permutation(len(events))]
    place = drawn.groupby("user", sort=False).cumcount()
    count = drawn.groupby("user", sort=False)["item"].transform("size")
    held = place < (count * share).astype(np.int64)
    return Split(drawn[~held], drawn.loc[held, ["user", "item"]].drop_duplicates())


def _time(dataset: Dataset, events: pd.DataFrame, evaluation: Evaluation) -> Split:
    if dataset.times != "utc":
        raise UsageError(
            f'{dataset.name}: expected times for evaluation.split = "time", got a data set without; use another split'
        )
    share = evaluation.held_out_share
    times = events["timestamp"]
    end = np.inf
    if evaluation.target == "validation":
        end = moment(times, share)
        share = min(2 * share, 0.9)
    cut = moment(times, share)
    known = events[times < cut]
    later = events[(times >= cut) & (times < end) & events["user"].isin(set(known["user"]))]
    later = later.sort_values("timestamp", kind="stable")[["user", "item"]]
    had = pd.MultiIndex.from_frame(known[["user", "item"]])
    new = later[~pd.MultiIndex.from_frame(later).isin(had)]
    return Split(known, new.drop_duplicates("user"))


def moment(times: pd.Series, share: float) -> int:
    """The second from which on `share` of the events lie, at least one of them before it."""
    cut = int(np.quantile(times.to_numpy(), 1 - share, method="higher"))
    return max(cut, int(times.min()) + 1)


def _publisher(dataset: Dataset, events: pd.DataFrame, evaluation: Evaluation) -> Split:
    if dataset.held_out is None:
        raise UsageError(
            f'{dataset.name}: expected events that the publisher kept apart for evaluation.split = "publisher", got '
            "none; use another split"
        )
    if evaluation.target == "test":
        held = dataset.held_out
        return Split(events, held[held["user"].isin(set(events["user"]))].reset_index(drop=True))
    bought = events[events["behaviour"] == "purchase"].sort_values("timestamp", kind="stable")
    per_person = bought.groupby("user", sort=False)
    last = bought[(per_person.cumcount(ascending=False) == 0) & (per_person["item"].transform("size") > 1)]
    pairs = pd.MultiIndex.from_frame(events[["user", "item"]])
    # Carts and views of what was bought would give it away.
    known = events[~pairs.isin(pd.MultiIndex.from_frame(last[["user", "item"]]))]
    return Split(known, last.loc[last["user"].isin(set(known["user"])), ["user", "item"]])
