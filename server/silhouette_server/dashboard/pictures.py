"""The charts of a run, drawn here as inline SVG in the manner of the simulation's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from silhouette_server.dashboard.view import Detail
from silhouette_shared.figures import Line, Reference, line_chart

WIDTH = 290
"""Pixels."""


@dataclass(frozen=True)
class Picture:
    """A chart and what it shows."""

    title: str
    svg: Markup


def pictures(detail: Detail) -> tuple[Picture, ...]:
    """The charts of a run for which there is something to draw."""
    promised = detail.row.promised
    reference = None if promised is None else Reference(f"promised {promised:g}", promised)
    spent = [Line("spent", "this run", detail.spent), Line("composed", "runs before too", detail.composed)]
    drawn = (
        _chart("Convergence", "L2 norm", [Line("update", "mean update", detail.update_norms)]),
        _chart("Privacy", "epsilon", spent, reference),
        _chart("Time", "seconds", [Line("seconds", "a round", detail.seconds)]),
        _chart("Traffic", "megabytes", [Line("traffic", "all partners, both ways", detail.megabytes)]),
    )
    return tuple(one for one in drawn if one is not None)


def _chart(title: str, unit: str, lines: Sequence[Line], reference: Reference | None = None) -> Picture | None:
    there = [line for line in lines if line.points]
    if not there or max(value for line in there for _, value in line.points) <= 0:
        return None
    svg = line_chart(there, title=title, x_label="round", y_label=unit, width=WIDTH, reference=reference)
    return Picture(title, Markup(svg))  # noqa: S704 - built as an XML tree, labels escaped
