"""What became of recommendations, by the model that made them. Calculation only; the figures stay at the partner."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pandas as pd

from silhouette_client.ingest.pushed import Shown

WINDOW_DAYS = 7
_DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Response:
    """How people answered one model's recommendations.

    An item counts once a person, from when it was first recommended to them; it is taken if an event of that person
    with it follows within the window.

    Args:
        model: Which.
        answers: Lists of items that were given out.
        people: Who got one.
        responded: People who took something.
        offered: Items, each once a person.
        taken: Of these.
        items: Different items.
        coverage: Share of the catalogue's items that were recommended to somebody; None without a catalogue.
    """

    model: str
    answers: int
    people: int
    responded: int
    offered: int
    taken: int
    items: int
    coverage: float | None

    @property
    def rate(self) -> float:
        """Share of the items offered that were taken."""
        return self.taken / self.offered if self.offered else 0.0


def responses(
    shown: Iterable[Shown],
    events: pd.DataFrame,
    *,
    window_days: float = WINDOW_DAYS,
    behaviours: Collection[str] = (),
    catalogue: Collection[str] | None = None,
) -> list[Response]:
    """Response rate and coverage of every model, by name.

    Args:
        shown: What was recommended.
        events: With `user`, `item`, `behaviour`, and `timestamp` in UTC seconds.
        window_days: How long after it was recommended an item still counts as taken because of it.
        behaviours: What counts as taking; every kind of event if empty.
        catalogue: Item ids.
    """
    lines = [(one.model, one.user, item, one.time, number) for number, one in enumerate(shown) for item in one.items]
    offers = pd.DataFrame(lines, columns=["model", "user", "item", "shown", "answer"])
    if offers.empty:
        return []
    first = offers.groupby(["model", "user", "item"], as_index=False)["shown"].min()
    wanted = events if not behaviours else events[events["behaviour"].isin(list(behaviours))]
    own = wanted.loc[wanted["user"].isin(first["user"]), ["user", "item", "timestamp"]]
    both = first.merge(own.astype({"user": object, "item": object}), on=["user", "item"], how="left")
    after = both["timestamp"] - both["shown"]
    both["taken"] = (after >= 0) & (after <= window_days * _DAY_SECONDS)
    pairs = both.groupby(["model", "user", "item"], as_index=False)["taken"].any()
    known = None if catalogue is None else set(catalogue)
    found = []
    for model, part in pairs.groupby("model"):
        items = set(part["item"])
        found.append(
            Response(
                model=str(model),
                answers=int(offers.loc[offers["model"] == model, "answer"].nunique()),
                people=int(part["user"].nunique()),
                responded=int(part.loc[part["taken"], "user"].nunique()),
                offered=len(part),
                taken=int(part["taken"].sum()),
                items=len(items),
                coverage=None if not known else len(items & known) / len(known),
            )
        )
    return found
