"""The report of a run as a plain document: what came, what was kept, what the node held before and holds now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from silhouette_client.ingest.manifest import reasons
from silhouette_client.ingest.take_in import Outcome

_HIDDEN = ("parts", "quarantine", "rule")


def summary(
    outcome: Outcome,
    *,
    before: Mapping[str, object],
    after: Mapping[str, object],
    coverage: Mapping[str, object] | None,
) -> dict[str, object]:
    """Plain JSON: counts, column quality, file names; nothing of a person.

    Args:
        outcome: Of the run.
        before: Counts of the node before it.
        after: Counts of the node after it.
        coverage: Of the catalogue, None if none was given.
    """
    files = [
        {name: value for name, value in asdict(one).items() if name not in _HIDDEN}
        | {"bad": dict(sorted(one.bad.items(), key=lambda entry: -entry[1]))}
        for one in outcome.taken
    ]
    return {
        "files": files,
        "known": list(outcome.known),
        "bad": reasons(outcome.taken),
        "before": dict(before),
        "after": dict(after),
        "coverage": None if coverage is None else dict(coverage),
    }
