"""The map of a node's people as a page that opens without a network and without a script. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from silhouette_client.pages import templates
from silhouette_client.segments.map import Projection
from silhouette_client.segments.segment import Segment

_SIZE, _MARGIN = 640.0, 28.0
_SHADES = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")
_OTHER = "#9498a0"


def page(maps: Sequence[Projection], segments: Sequence[Segment], model: str, least: int) -> str:
    """The page, as HTML.

    Args:
        maps: One drawing each.
        segments: Whose names colour the points.
        model: Which made the profiles.
        least: k, said on the page.
    """
    environment = templates("silhouette_client.segments")
    shades = {one.name: _SHADES[place % len(_SHADES)] for place, one in enumerate(segments)}
    return environment.get_template("map.html").render(
        maps=[_drawing(one, shades) for one in maps],
        legend=[(one.name, shades[one.name], one.size, one.rule) for one in segments],
        other=_OTHER,
        model=model,
        least=least,
        size=_SIZE,
    )


def _drawing(projection: Projection, shades: dict[str, str]) -> dict[str, Any]:
    points = projection.points
    xs, ys = [point.x for point in points], [point.y for point in points]
    largest = max((point.people for point in points), default=1)

    def across(value: float, values: Sequence[float]) -> float:
        width = max(values) - min(values)
        return _MARGIN + (_SIZE - 2 * _MARGIN) * ((value - min(values)) / width if width else 0.5)

    return {
        "name": projection.name,
        "people": sum(point.people for point in points),
        "hidden": projection.hidden,
        "points": [
            {
                "x": round(across(point.x, xs), 1),
                "y": round(_SIZE - across(point.y, ys), 1),
                "r": round(4 + 14 * math.sqrt(point.people / largest), 1),
                "shade": shades.get(point.segment, _OTHER),
                "people": point.people,
                "segment": point.segment or "none",
                "tags": ", ".join(point.tags) or "none",
            }
            for point in points
        ],
    }
