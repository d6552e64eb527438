"""The page of a map and of a profile, as a browser without a network shows them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.profiles import profile

from silhouette_client.profiles.page import page as profile_page
from silhouette_client.segments.map import Point, Projection
from silhouette_client.segments.page import page as map_page

CHROMIUM = Path("/usr/bin/chromium")

POINTS = tuple(Point(x=float(n), y=float(n * n % 7), people=20 + n, segment="", tags=("Drama",)) for n in range(12))


def test_everything_on_a_page_is_escaped() -> None:
    points = (Point(x=0.0, y=0.0, people=20, segment="", tags=("<script>alert(1)</script>",)),)
    text = map_page([Projection("PCA", points, 0)], [], "model-1", 20)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_page_says_how_many_people_are_not_shown() -> None:
    text = map_page([Projection("PCA", POINTS, 17)], [], "model-1", 20)
    assert "17 people are in groups that are too small to be shown" in text
    assert "too small" not in map_page([Projection("PCA", POINTS, 0)], [], "model-1", 20)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_shows_both_pages_without_asking_anybody(tmp_path: Path) -> None:
    pages = {
        "map": map_page([Projection("PCA", POINTS, 0), Projection("t-SNE", POINTS, 0)], [], "model-1", 20),
        "profile": profile_page("anna", profile(1)),
    }
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    shown = {}
    for name, text in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        shot = tmp_path / f"{name}.png"
        finished = subprocess.run(
            [
                str(CHROMIUM),
                *options,
                f"--user-data-dir={tmp_path / 'browser'}",
                "--window-size=1200,1200",
                f"--screenshot={shot}",
                "--dump-dom",
                path.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        shown[name] = finished.stdout
        assert shot.read_bytes().startswith(b"\x89PNG")
        assert shot.stat().st_size > 20_000  # an empty page is a few kilobytes
    assert shown["map"].count("<circle") == 2 * len(POINTS)
    assert "Seen 1" in shown["profile"]
    assert "50% of the events, 25% of the items" in shown["profile"]
