"""What a person is told after an erasure: what went, which released models they took part in, and what that means.

No I/O. The receipt names the person by the HMAC of the store alone.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from silhouette_client.profiles.store import Erased
from silhouette_shared.errors import IntegrityError

_FORMAT = 1
_CONTEXT = b"silhouette erasure receipt 1\0"

NOT_REMOVED = (
    "Source tables, backups and what other systems copied are not under this program; erase the person there as well.",
    "Blocks that a disk or a snapshot keeps of overwritten files stay unreadable: their data key is gone.",
)


def participation(overview: Mapping[str, Any] | None, since: date | None) -> list[dict[str, Any]]:
    """The runs whose releases may hold the person's influence.

    Args:
        overview: The ledger's (`policy/overview.py`); None where the node has no ledger.
        since: Day of the person's first event; None counts every run.
    """
    found = []
    for run in (overview or {}).get("runs", ()):
        if since is not None and run["to"] is not None and date.fromisoformat(run["to"]) < since:
            continue
        found.append(
            {
                "run": run["run"],
                "plan_digest": run["plan_digest"],
                "releases": run["charges"],
                "from": run["from"],
                "to": run["to"],
                "epsilon": run["epsilon"]["pld"] if run["epsilon"]["pld"] is not None else run["spent"],
                "delta": cast("Mapping[str, Any]", overview)["limits"]["delta"],
            }
        )
    return found


def meaning(runs: Sequence[Mapping[str, Any]]) -> str:
    """The bound of the runs in words."""
    if not runs:
        return "No release of this node was charged since the person's first event, so no released model rests on them."
    listed = "; ".join(f"{run['run']}: e^{run['epsilon']:.2f}" for run in runs)
    return (
        "The released models keep what they learned; it cannot be taken out. Differential privacy bounds it: whatever "
        "somebody concludes from the releases of a run is at most this many times as likely as if the person had never "
        f"been there, but for a chance of delta ({listed}). The factors of several runs multiply. Epsilon is that of "
        "the whole run, also where the person came later."
    )


def receipt(
    *,
    person: bytes,
    erased: Erased,
    rows: Mapping[str, int],
    runs: Sequence[Mapping[str, Any]],
    now: datetime,
) -> dict[str, Any]:
    """The receipt of an erasure as plain JSON values, not signed yet."""
    return {
        "format": _FORMAT,
        "kind": "erasure",
        "person": person.hex(),
        "time": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "removed": {
            "fields": list(erased.fields),
            "data_key": erased.data_key,
            "segments": erased.segments,
            "model": erased.model,
            "rows": {table: count for table, count in rows.items() if count},
        },
        "not_removed": list(NOT_REMOVED),
        "kept": "an entry of the exclusion list and the entries of the audit log, which name the person as an HMAC",
        "blocked": "imports, profiles and training leave the person out until `silhouette subject unsuppress`",
        "took_part_in": [dict(run) for run in runs],
        "meaning": meaning(runs),
    }


def with_more(document: Mapping[str, Any], erased: Erased, rows: Mapping[str, int]) -> dict[str, Any]:
    """An earlier receipt with what a further erasure removed, not signed yet."""
    before = document["removed"]
    counted = {
        table: before.get("rows", {}).get(table, 0) + rows.get(table, 0)
        for table in sorted({*before.get("rows", {}), *rows})
    }
    removed = {
        "fields": list(erased.fields) or before["fields"],
        "data_key": erased.data_key or before["data_key"],
        "segments": erased.segments + before["segments"],
        "model": erased.model or before["model"],
        "rows": {table: count for table, count in counted.items() if count},
    }
    rest = {name: value for name, value in document.items() if name not in ("signature", "signer")}
    return {**rest, "removed": removed}


def sign(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The receipt with an Ed25519 signature and the public key in hex."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    unsigned = {**document, "signer": public.hex()}
    return {**unsigned, "signature": base64.b64encode(key.sign(_bytes(unsigned))).decode()}


def check(document: Mapping[str, Any]) -> str:
    """The signer of a signed receipt, in hex.

    Raises:
        IntegrityError: If it is not signed, or was changed.
    """
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    try:
        signer = str(document["signer"])
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
        key.verify(base64.b64decode(document["signature"], validate=True), _bytes(unsigned))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        raise IntegrityError("expected a receipt with the signature of its signer, got another or none") from None
    return signer


def _bytes(document: Mapping[str, Any]) -> bytes:
    return _CONTEXT + json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
