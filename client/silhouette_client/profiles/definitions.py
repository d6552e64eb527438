"""What the traits of a person mean, in words. Nothing here calculates, so that showing them waits for no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trait:
    """A trait and what its score means."""

    name: str
    definition: str
    unit: str


TRAITS = (
    Trait("intensity", "events a day, from the first to the last event, counted over at least one day", "events a day"),
    Trait("recency", "2^(-days since the last event / 30)", "share, 1 is now"),
    Trait(
        "breadth", "entropy of the categories of the events, over the logarithm of the number of categories", "0 to 1"
    ),
    Trait("loyalty", "share of the events, after the first, on an item that the person had touched before", "share"),
    Trait("novelty_seeking", "share of the events, after the first, in no category of the event before", "share"),
    Trait(
        "price_level", "mean logarithmic bucket of the values of the purchases, over the number of buckets", "0 to 1"
    ),
    Trait("return_rate", "returns over purchases, at most 1", "share"),
    Trait("evening_activity", "share of the events from 18 to 24 o'clock UTC", "share"),
    Trait("weekend_activity", "share of the events on a Saturday or Sunday, UTC", "share"),
)
"""Every trait, in the order of `trait_scores`."""
