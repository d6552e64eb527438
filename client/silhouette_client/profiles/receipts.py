"""Receipts of erasures on the disk, signed with the node's key where it has one."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from silhouette_client.audit.signing import write_result
from silhouette_client.profiles.rights import check, participation, receipt, sign
from silhouette_client.profiles.store import Erased
from silhouette_shared.errors import IntegrityError, UsageError

FOLDER = "receipts"
"""In a node's home; a file for each erased person, named by the HMAC."""

_IDENTITY = "identity.key"  # 32 bytes, as `node_folder.IDENTITY_FILE`; imported there, torch would come along


def ledger_overview(home: Path, now: datetime) -> dict[str, Any] | None:
    """What the node's ledger says of its runs; None where there is none.

    Raises:
        IntegrityError: If it is damaged.
    """
    from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain
    from silhouette_client.policy.overview import overview

    path = home / LEDGER_NAME
    if not path.exists():
        return None
    chain = read_chain(path)
    return overview(chain, chain.next_time(now).date())


def write_receipt(
    home: Path, person: bytes, erased: Erased, *, since: date | None, segments: int = 0
) -> dict[str, Any]:
    """Make, sign and keep the receipt of an erasure.

    Args:
        home: The node's.
        person: HMAC.
        erased: What went.
        since: Day of the person's first event; None counts all runs.
        segments: From how many the person was taken.

    Raises:
        UnavailableError: If it cannot be written.
    """
    now = datetime.now(UTC)
    document = receipt(
        person=person,
        erased=erased,
        segments=segments,
        runs=participation(ledger_overview(home, now), since),
        now=now,
    )
    key = home / _IDENTITY
    if key.exists():
        secret = key.read_bytes()
        if len(secret) != 32:
            raise IntegrityError(f"{key}: expected a signing key of 32 bytes, got another length; restore it")
        document = sign(document, Ed25519PrivateKey.from_private_bytes(secret))
    write_result(_path(home, person), json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return document


def read_receipt(home: Path, person: bytes) -> dict[str, Any]:
    """The receipt of a person's erasure; a signed one is checked.

    Raises:
        UsageError: If there is none.
        IntegrityError: If it was changed.
    """
    path = _path(home, person)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{home / FOLDER}: expected a receipt of this person, found none; `silhouette subject erase` makes it"
        ) from None
    except ValueError:
        raise IntegrityError(f"{path}: expected a receipt, got a damaged file; put it back from a backup") from None
    if not isinstance(document, dict) or document.get("person") != person.hex():
        raise IntegrityError(f"{path}: expected the receipt of this person, got another; put it back from a backup")
    if "signature" in document:
        check(document)
    return cast("dict[str, Any]", document)


def _path(home: Path, person: bytes) -> Path:
    return home / FOLDER / f"{person.hex()}.json"
