"""A record as plain JSON values and as lines for people. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from silhouette_client.profiles.definitions import TRAITS
from silhouette_client.profiles.record import ProfileRecord, RecentEvent, Recommended, TagEvidence

_DIMENSIONS = {
    "activity": "how much and how often the person does anything",
    "browsing": "what the person looks at",
    "purchases": "what the person takes or buys",
    "feedback": "what the person rates and how",
    "rhythm": "when the person is active",
    "demographics": "what the person declared",
    "interests": "which categories the person prefers",
    "content": "what the items' descriptions have in common",
    "social": "whom the person is linked with",
}

_GUESSES = {
    "conversion": "a purchase of what was looked at or put into a cart",
    "churn": "no event at all in the time that follows",
    "risk": "whether the history is unlike the others here; a reason to look, no accusation",
}

CLEAR = 0.6
"""A guess with a smaller chance is told as unclear: it is wrong nearly as often as it is right, or more often."""


def document(record: ProfileRecord) -> dict[str, Any]:
    """The fields that are there, as JSON values; numbers as they are stored."""
    found: dict[str, Any] = {"model": record.model}
    if record.weights is not None:
        found["weights"] = dict(sorted(record.weights.items(), key=lambda one: -one[1]))
    if record.traits is not None:
        found["traits"] = {k: {"value": t.value, "confidence": t.confidence} for k, t in record.traits.items()}
    if record.tags is not None:
        found["tags"] = list(record.tags)
    if record.recommendations is not None:
        found["recommendations"] = [vars(one) for one in record.recommendations]
    if record.vector is not None:
        found["vector"] = record.vector.tolist()
    if record.tastes is not None:
        found["tastes"] = record.tastes.tolist()
    if record.facts is not None:
        found["facts"] = dict(record.facts)
    if record.items is not None:
        found["items"] = list(record.items)
    if record.evidence is not None:
        found["evidence"] = {
            "tags": [{**vars(tag), "items": list(tag.items)} for tag in record.evidence.tags],
            "events": [vars(event) for event in record.evidence.events],
        }
    return found


def reasons(record: ProfileRecord) -> list[dict[str, Any]]:
    """What the profile rests on, the heaviest dimension first: name, share, what it means.

    Dimensions that the person's record could not fill have no weight and are left out.
    """
    weights = sorted(
        ((name, share) for name, share in (record.weights or {}).items() if share), key=lambda one: -one[1]
    )
    return [{"dimension": name, "share": share, "meaning": _DIMENSIONS.get(name, "")} for name, share in weights]


@dataclass(frozen=True)
class Guess:
    """What the model guesses of a person, in words."""

    name: str
    answer: str
    meaning: str


def guesses(record: ProfileRecord) -> list[Guess]:
    """The model's guesses; one that it gives a chance below `CLEAR` is called unclear."""
    return [
        Guess(
            name,
            f"{trait.value} ({trait.confidence:.0%})"
            if trait.confidence >= CLEAR
            else f"unclear; {trait.value} is likeliest ({trait.confidence:.0%})",
            _GUESSES.get(name, "guessed from the events alone"),
        )
        for name, trait in (record.traits or {}).items()
    ]


@dataclass(frozen=True)
class Score:
    """A trait that follows from the person's own events."""

    name: str
    value: float
    unit: str
    definition: str


def scores(record: ProfileRecord) -> list[Score]:
    """The traits that the record can tell, in the order of their definitions."""
    facts = record.facts or {}
    return [
        Score(one.name, facts[f"trait.{one.name}"], one.unit, one.definition)
        for one in TRAITS
        if f"trait.{one.name}" in facts
    ]


def history(record: ProfileRecord) -> str:
    """How many events of which kind from when to when, empty where it is not kept."""
    facts = record.facts or {}
    if "events" not in facts:
        return ""
    kinds = {name.removeprefix("count."): int(count) for name, count in facts.items() if name.startswith("count.")}
    told = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items(), key=lambda one: -one[1]))
    days = [_day(int(facts[name])) for name in ("first_event", "last_event") if name in facts]
    return f"{int(facts['events'])} events" + (f": {told}" if told else "") + (f"; {' to '.join(days)}" if days else "")


def lines(record: ProfileRecord) -> list[str]:
    """A profile to read."""
    out = [f"model    {record.model}"]
    if told := history(record):
        out.append(f"record   {told}")
    out += [f"rests on {one['share']:6.1%} {one['dimension']:<13}{one['meaning']}" for one in reasons(record)]
    out += [f"trait    {one.value:6.2f} {one.name:<17}{one.definition}" for one in scores(record)]
    out += [f"guess    {one.name}: {one.answer}; {one.meaning}" for one in guesses(record)]
    if record.tags:
        out.append(f"tags     {', '.join(record.tags)}")
    if record.evidence is not None:
        out += [f"because  {because(tag)}" for tag in record.evidence.tags]
    out += [
        f"item     {place:>2} {one.score:8.3f}  {called(one)}"
        for place, one in enumerate(record.recommendations or (), 1)
    ]
    return out


def called(item: Recommended) -> str:
    """Title and id of an item; the id alone where the catalogue has no title."""
    return f"{item.title} [{item.item}]" if item.title and item.title != item.item else item.item


def because(tag: TagEvidence) -> str:
    """The evidence of a tag in words."""
    shares = f"{tag.share:.0%} of the events, {tag.expected:.0%} of the items"
    return f"{tag.tag}: {shares} ({tag.confidence:.0%} sure); latest: {', '.join(tag.items)}"


def when(event: RecentEvent) -> str:
    """The day of an event, empty where there are no times."""
    if not event.timestamp:
        return ""
    return _day(event.timestamp)


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
