"""Receipts of erasures on the disk, signed with the node's key where it has one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from silhouette_client.audit.signing import write_result
from silhouette_client.profiles.rights import check, participation, receipt, sign, with_more
from silhouette_client.profiles.store import Erased
from silhouette_shared.errors import IntegrityError, UsageError

FOLDER = "receipts"
"""In a node's home; a file for each erased person, named by the HMAC."""

_IDENTITY = "identity.key"  # 32 bytes, as `node_folder.IDENTITY_FILE`; imported there, torch would come along

_NODE = "node"  # an enrolled node keeps ledger and identity in this folder of its home


def ledger_overview(home: Path, now: datetime) -> dict[str, Any] | None:
    """What the node's ledger says of its runs; None where there is none.

    Raises:
        IntegrityError: If it is damaged.
    """
    from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain
    from silhouette_client.policy.overview import overview

    path = _own(home, LEDGER_NAME)
    if not path.exists():
        return None
    chain = read_chain(path)
    return overview(chain, chain.next_time(now).date())


def write_receipt(
    home: Path, person: bytes, erased: Erased, *, since: date | None, rows: Mapping[str, int]
) -> dict[str, Any]:
    """Make, sign and keep the receipt of an erasure.

    Where there is one already, because an erasure was killed or run again, what went now is added to what it says and
    the rest of it stands.

    Args:
        home: The node's.
        person: HMAC.
        erased: What went from the store.
        since: Day of the person's first event; None counts all runs.
        rows: Of the records, how many went from each table.

    Raises:
        IntegrityError: If ledger, key or an earlier receipt are damaged.
        UnavailableError: If it cannot be written.
    """
    if has_receipt(home, person):
        before = read_receipt(home, person)
        if not erased.data_key and not erased.segments and not any(rows.values()):
            return before
        document = with_more(before, erased, rows)
    else:
        now = datetime.now(UTC)
        document = receipt(
            person=person,
            erased=erased,
            rows=rows,
            runs=participation(ledger_overview(home, now), since),
            now=now,
        )
    key = _own(home, _IDENTITY)
    if key.exists():
        secret = key.read_bytes()
        if len(secret) != 32:
            raise IntegrityError(f"{key}: expected a signing key of 32 bytes, got another length; restore it")
        document = sign(document, Ed25519PrivateKey.from_private_bytes(secret))
    write_result(_path(home, person), json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return document


def has_receipt(home: Path, person: bytes) -> bool:
    """Whether this person was erased here before."""
    return _path(home, person).exists()


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


def _own(home: Path, name: str) -> Path:
    of_node = home / _NODE / name
    return of_node if of_node.exists() else home / name


def _path(home: Path, person: bytes) -> Path:
    return home / FOLDER / f"{person.hex()}.json"
