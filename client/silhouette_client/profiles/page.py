"""A person's profile as a page that opens without a network and without a script. No I/O."""

from __future__ import annotations

from silhouette_client.pages import templates
from silhouette_client.profiles.answers import because, called, guesses, history, reasons, scores, when
from silhouette_client.profiles.record import Evidence, ProfileRecord


def page(user: str, record: ProfileRecord) -> str:
    """The page, as HTML; every value is escaped.

    Args:
        user: The partner's identifier, which is the heading.
        record: Whose fields that are not there are left out.
    """
    environment = templates("silhouette_client.profiles")
    evidence = record.evidence or Evidence((), ())
    told = {tag.tag: because(tag).partition(": ")[2] for tag in evidence.tags}
    parts = reasons(record)
    return environment.get_template("profile.html").render(
        user=user,
        model=record.model,
        history=history(record),
        parts=parts,
        heaviest=max((one["share"] for one in parts), default=0.0) or 1.0,
        scores=scores(record),
        guesses=guesses(record),
        tags=[(tag, told.get(tag, "")) for tag in record.tags or ()],
        events=[(when(one), one) for one in evidence.events],
        largest=max((one.attention for one in evidence.events), default=0.0) or 1.0,
        items=[(called(one), one.score) for one in record.recommendations or ()],
    )
