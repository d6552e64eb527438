"""The figures that a run released of its people, for the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from silhouette_shared.errors import IntegrityError

_TITLES = {
    "attributes": "Declared attributes",
    "behaviours": "Kinds of events, each person's shares",
    "lengths": "Events of a person",
    "pace": "Events on a day with any",
    "value": "Mean value of a person's events",
    "evaluation": "Federated evaluation of the final model",
}
_CELLS_SHOWN = 20


@dataclass(frozen=True)
class ShownFigure:
    """One figure on the page.

    Args:
        title: In words.
        cells: Name and people of the largest cells, in their order.
        left_out: How many smaller cells are not shown.
        noise: Standard deviation of every cell.
        quantiles: Share and bin in words.
        ratios: Name, value and noise of what is divided by the people.
    """

    title: str
    cells: tuple[tuple[str, float], ...]
    left_out: int
    noise: float
    quantiles: tuple[tuple[float, str], ...]
    ratios: tuple[tuple[str, float, float], ...]


def read_analytics(folder: Path) -> tuple[ShownFigure, ...]:
    """The figures of a run; none if it released none.

    Raises:
        IntegrityError: If the file is damaged.
    """
    path = folder / "analytics.json"
    if not path.exists():
        return ()
    try:
        return tuple(_shown(figure) for figure in json.loads(path.read_text(encoding="utf-8"))["figures"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: expected figures, got a damaged file ({error}); run the plan again") from None


def _shown(figure: dict[str, Any]) -> ShownFigure:
    cells = [(str(cell["name"]), float(cell["people"])) for cell in figure["cells"]]
    kept = {name for name, _ in sorted(cells, key=lambda cell: -cell[1])[:_CELLS_SHOWN]}
    ratios = [
        (label, float(found["value"]), float(found["noise"]))
        for key, label in (("hr_at_10", "HR@10"), ("ndcg_at_10", "NDCG@10"))
        if (found := figure.get(key)) is not None
    ]
    return ShownFigure(
        title=_TITLES[figure["name"]],
        cells=tuple(cell for cell in cells if cell[0] in kept),
        left_out=len(cells) - len(kept),
        noise=float(figure["cells"][0]["noise"]),
        quantiles=tuple((float(one["share"]), _bin(one)) for one in figure.get("quantiles", ())),
        ratios=tuple(ratios),
    )


def _bin(quantile: dict[str, Any]) -> str:
    low, high = quantile["low"], quantile["high"]
    return f"{low:.4g} or more" if high is None else f"{low:.4g} to below {high:.4g}"
