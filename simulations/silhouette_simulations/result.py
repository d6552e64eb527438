"""The result of a finished run as one plain document, read back from its folder."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from silhouette_shared.errors import IntegrityError, UsageError


def read_result(folder: Path) -> dict[str, object]:
    """Rows, privacy, seconds and the report of a finished run.

    Raises:
        UsageError: If the run is not complete.
        IntegrityError: If a file of it is damaged.
    """
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if run["state"] != "complete":
            raise UsageError(
                f"{folder}: expected a complete run, got one that is {run['state']}; "
                f"finish it with `silhouette sim run --resume {folder}`"
            )
        privacy = json.loads((folder / "privacy.json").read_text(encoding="utf-8"))
        rows = plain_records(pd.read_csv(folder / "rows.csv"))
        attributes = plain_records(pd.read_csv(folder / "attributes.csv"))
        return {
            "name": run["name"],
            "seed": run["seed"],
            "digest": run["digest"],
            "note": run["note"],
            "rows": rows,
            "attributes": attributes,
            "privacy": {key: value for key, value in privacy.items() if key != "curve"},
            "seconds": run["seconds"],
            "folder": str(folder),
            "report": str(folder / "report.html"),
        }
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename}: expected a run folder, found none here") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder}: expected a whole run folder, got a damaged run.json, privacy.json, rows.csv or attributes.csv "
            f"({type(error).__name__}: {error}); run the plan again"
        ) from None


def plain_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as JSON records, missing values as None."""
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records
