"""The report of a run on the disk: JSON, and a page that opens without a network and without a script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from silhouette_client.ingest.folder import FOLDER
from silhouette_client.ingest.vault import write_whole
from silhouette_client.pages import templates


def page(document: Mapping[str, object]) -> str:
    """The page of a run's summary, as HTML."""
    environment = templates("silhouette_client.ingest")
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": lambda part, whole: f"{100 * part / whole:.2f} %" if whole else "–",
    }
    return environment.get_template("report.html").render(**document)


def write_report(home: Path, document: Mapping[str, object]) -> None:
    """Write `report.json` and `report.html` beside the records, each whole or not at all."""
    folder = home / FOLDER
    write_whole(folder / "report.json", json.dumps(document, indent=2, allow_nan=False).encode())
    write_whole(folder / "report.html", page(document).encode())
