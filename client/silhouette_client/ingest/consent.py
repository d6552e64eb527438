"""Whose records may be used for a purpose. Calculation only."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from silhouette_client.ingest.mapping import ConsentRule


def consenting(table: pa.Table | None, purpose: str, rule: ConsentRule, present: Sequence[str]) -> set[str]:
    """Those of the people present whose records may be used for a purpose.

    Args:
        table: Consent, or None if there is none.
        purpose: Word of the consent table.
        rule: What the absence of a decision means: no ("table") or yes ("elsewhere").
        present: Ids of everybody.
    """
    decided: dict[str, bool] = {}
    if table is not None:
        own = table.filter(pc.equal(table.column("purpose").cast(pa.string()), purpose)).select(
            ["user", "granted", "time"]
        )
        frame = own.to_pandas(categories=[])
        frame["user"] = frame["user"].astype(str)
        # Of the latest decisions in one second a refusal comes last and counts.
        frame = frame.sort_values(["time", "granted"], ascending=[True, False], kind="stable")
        latest = frame.drop_duplicates("user", keep="last")
        decided = dict(zip(latest["user"], latest["granted"].astype(bool), strict=True))
    silent = rule == "elsewhere"
    return {user for user in present if decided.get(user, silent)}
