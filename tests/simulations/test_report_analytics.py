"""The report shows what a run released of its people, with its noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.simulations.run_folders import write_run_folder

from silhouette_shared.errors import IntegrityError
from silhouette_simulations.report.analytics import read_analytics
from silhouette_simulations.report.page import render
from silhouette_simulations.report.reading import read_run

FIGURES = {
    "figures": [
        {
            "name": "lengths",
            "partners": 5,
            "cells": [{"name": f"from {low}", "people": float(low - 3), "noise": 4.5} for low in range(30)],
            "quantiles": [{"share": 0.5, "low": 12.0, "high": 20.0}, {"share": 0.9, "low": 1000.0, "high": None}],
        },
        {
            "name": "evaluation",
            "partners": 5,
            "cells": [{"name": name, "people": 10.0, "noise": 2.0} for name in ("hits", "ndcg", "people")],
            "hr_at_10": {"value": 0.125, "noise": 0.01},
            "ndcg_at_10": None,
        },
    ]
}


def test_the_page_shows_figures_their_noise_and_where_quantiles_lie(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run")
    (folder / "analytics.json").write_text(json.dumps(FIGURES))
    page = render(read_run(folder), ())
    for words in (
        "<h2>Released of the people</h2>",
        "<h3>Events of a person</h3>",
        '50 % have less than</th><td class="words">about 12 to below 20',
        "about 1000 or more",
        "deviation of 4.5 people in every cell. The 10 smaller cells are left out",
        '<th scope="row">HR@10</th><td>0.125 ± 0.010</td>',
    ):
        assert words in page
    assert "from 9<" not in page
    assert "NDCG@10</th><td>0" not in page, "noise left nobody to divide by"


def test_without_figures_the_page_has_no_such_part_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_run_folder(tmp_path / "run")
    assert read_analytics(folder) == ()
    assert "Released of the people" not in render(read_run(folder), ())
    for text in ("{", '{"figures": [{}]}', '{"figures": [{"name": "x", "cells": []}]}', "[]"):
        (folder / "analytics.json").write_text(text)
        with pytest.raises(IntegrityError, match=r"analytics\.json: expected figures, got a damaged file"):
            read_analytics(folder)
