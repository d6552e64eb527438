"""The profiles that a finished simulation run left at one partner, as records for the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from silhouette_client.profiles.record import ProfileRecord, Recommended, Trait, decode_field
from silhouette_shared.errors import IntegrityError, UsageError


def model_of_run(run: Path) -> str:
    """The model of a run: the first 16 hex digits of its SHA-256, which stands in its card.

    Raises:
        UsageError: If this is no finished run.
        IntegrityError: If the card is damaged.
    """
    path = run / "model" / "card.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["sha256"])[:16]
    except FileNotFoundError:
        raise UsageError(
            f"{run}: expected a finished run with a model, found no model/card.json; finish it with "
            "`silhouette sim run --resume`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(
            f"{path}: expected the card of a model, got a damaged file; run the simulation again"
        ) from None


def partner_of_run(run: Path, partner: str | None) -> Path:
    """The folder of one partner.

    Raises:
        UsageError: If it is not there, or several are and none was named.
    """
    folders = {path.parent.name: path.parent for path in sorted(run.glob("partners/*/profiles.parquet"))}
    if partner is None and len(folders) == 1:
        return next(iter(folders.values()))
    if partner is None or partner not in folders:
        known = ", ".join(folders) or "none"
        raise UsageError(f"{run}: expected --partner to be one of {known}, got {partner or 'none'}; name one")
    return folders[partner]


def records_of_run(run: Path, partner: str | None) -> Iterator[tuple[str, ProfileRecord]]:
    """User and record of everybody at a partner of a finished run.

    Raises:
        UsageError: As `partner_of_run`.
        IntegrityError: If a table is damaged.
    """
    model = model_of_run(run)
    folder = partner_of_run(run, partner)
    try:
        profiles = pd.read_parquet(folder / "profiles.parquet")
        lists = pd.read_parquet(folder / "recommendations.parquet").sort_values(["user", "position"], kind="stable")
        details = _details(folder)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{folder}: expected the tables of a partner, got {type(error).__name__}; run it again"
        ) from None
    weights = [str(name) for name in profiles.columns if str(name).startswith("weight_")]
    traits = [str(name).removesuffix("_confidence") for name in profiles.columns if str(name).endswith("_confidence")]
    recommended = {
        str(user): tuple(
            Recommended(str(item), str(title), float(score))
            for item, title, score in zip(part["item"], part["title"], part["score"], strict=True)
        )
        for user, part in lists.groupby("user", sort=False)
    }
    for row in profiles.to_dict("records"):
        user = str(row["user"])
        record = _record(row, model, weights, traits, recommended.get(user, ()))
        yield user, replace(record, **details.get(user, {}))


def _details(folder: Path) -> dict[str, dict[str, Any]]:
    """Facts, evidence and items by user; a run of an older version has none."""
    path = folder / "details.parquet"
    if not path.exists():
        return {}
    table = pd.read_parquet(path)
    names = [str(name) for name in table.columns if name != "user"]
    return {
        str(row["user"]): {name: decode_field(name, str(row[name]).encode("utf-8")) for name in names}
        for row in table.to_dict("records")
    }


def _record(
    row: dict[Any, Any], model: str, weights: list[str], traits: list[str], recommended: tuple[Recommended, ...]
) -> ProfileRecord:
    return ProfileRecord(
        model=model,
        vector=np.asarray(row["vector"], np.float32),
        weights={name.removeprefix("weight_"): float(row[name]) for name in weights},
        traits={name: Trait(str(row[name]), float(row[f"{name}_confidence"])) for name in traits},
        tags=tuple(str(tag) for tag in row["tags"]),
        recommendations=recommended,
        tastes=None if row.get("tastes") is None else np.asarray(row["tastes"], np.float32),
    )
