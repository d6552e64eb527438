"""A record as plain JSON values, as lines for people, and as a page. No I/O."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from typing import Any

from silhouette_client.profiles.record import Evidence, ProfileRecord, RecentEvent, Recommended, TagEvidence

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


_LEAST_SHARE = 0.0005  # 0.1 % in what is shown


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
    """What the profile rests on, the heaviest dimension first: name, share, what it means."""
    weights = sorted((record.weights or {}).items(), key=lambda one: -one[1])
    return [{"dimension": name, "share": share, "meaning": _DIMENSIONS.get(name, "")} for name, share in weights]


def told(record: ProfileRecord) -> list[dict[str, Any]]:
    """The reasons that say anything: a dimension that the person has nothing in weighs nothing."""
    return [one for one in reasons(record) if one["share"] >= _LEAST_SHARE]


def named(item: Recommended) -> str:
    """An item by title and id, or by its id where the catalogue has no title."""
    return f"{item.title} [{item.item}]" if item.title not in ("", item.item) else item.item


def lines(record: ProfileRecord) -> list[str]:
    """A profile to read; dimensions of which the person's record says nothing are left out."""
    out = [f"model    {record.model}"]
    out += [f"rests on {one['share']:6.1%} {one['dimension']:<13}{one['meaning']}" for one in told(record)]
    out += [f"trait    {name}: {trait.value} ({trait.confidence:.0%})" for name, trait in (record.traits or {}).items()]
    if record.tags:
        out.append(f"tags     {', '.join(record.tags)}")
    if record.evidence is not None:
        out += [f"because  {because(tag)}" for tag in record.evidence.tags]
    out += [
        f"item     {place:>2} {one.score:8.3f}  {named(one)}"
        for place, one in enumerate(record.recommendations or (), 1)
    ]
    return out


def because(tag: TagEvidence) -> str:
    """The evidence of a tag in words."""
    shares = f"{tag.share:.0%} of the events, {tag.expected:.0%} of the items"
    return f"{tag.tag}: {shares} ({tag.confidence:.0%} sure); latest: {', '.join(tag.items)}"


def when(event: RecentEvent) -> str:
    """The day of an event, empty where there are no times."""
    if not event.timestamp:
        return ""
    return datetime.fromtimestamp(event.timestamp, UTC).strftime("%Y-%m-%d")


def page(user: str, record: ProfileRecord) -> str:
    """A page that opens without a network: styles inside, no script, every value escaped."""
    bars = "".join(
        f"<tr><td>{_(one['dimension'])}</td><td><meter min=0 max=1 value={one['share']:.4f}></meter></td>"
        f"<td>{one['share']:.1%}</td><td>{_(one['meaning'])}</td></tr>"
        for one in told(record)
    )
    traits = "".join(
        f"<tr><td>{_(name)}</td><td>{_(trait.value)}</td><td>{trait.confidence:.0%}</td></tr>"
        for name, trait in (record.traits or {}).items()
    )
    evidence = record.evidence or Evidence((), ())
    reason = {tag.tag: because(tag) for tag in evidence.tags}
    tags = "".join(f"<li>{_(reason.get(tag, tag))}</li>" for tag in record.tags or ())
    largest = max((event.attention for event in evidence.events), default=0.0) or 1.0
    events = "".join(
        f"<tr><td>{_(when(event))}</td><td>{_(event.title)}</td><td>{_(event.behaviour)}</td>"
        f"<td><meter min=0 max=1 value={event.attention / largest:.4f}></meter></td><td>{event.attention:.1%}</td></tr>"
        for event in evidence.events
    )
    items = "".join(
        f"<tr><td>{place}</td><td>{_(one.title)}</td><td>{_(one.item)}</td><td>{one.score:.3f}</td></tr>"
        for place, one in enumerate(record.recommendations or (), 1)
    )
    return _PAGE.format(
        user=_(user), model=_(record.model), bars=bars, traits=traits, tags=tags, items=items, events=events
    )


def _(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Profile of {user}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;width:100%}}td{{padding:.25rem .5rem;border-bottom:1px solid #ddd}}
li{{background:#eef;border-radius:.5rem;padding:.2rem .8rem;margin:.3rem 0;list-style:none}}ul{{padding:0}}</style>
</head><body><h1>Profile of {user}</h1><p>Made by the model {model}. It stays at this node.</p>
<h2>What it rests on</h2><table>{bars}</table>
<h2>Traits, as the model guesses them</h2><table>{traits}</table>
<h2>Tags</h2><ul>{tags}</ul>
<h2>Latest events, and the part of the reader's attention each takes</h2><table>{events}</table>
<h2>Recommended</h2><table>{items}</table></body></html>
"""
