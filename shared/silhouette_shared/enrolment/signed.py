"""Signed documents: one encoding for each content, and an Ed25519 signature over what it is and what it says.

A document is JSON with sorted keys and without spaces, so that equal contents have equal bytes and a digest of the
bytes names the content. Anything else is refused, also what only a lenient reader would take: a key that comes twice,
NaN, another spelling of the same number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from silhouette_shared.enrolment.refusals import ForgedDocumentError, MalformedError
from silhouette_shared.secagg.keys import Identity, UntrustedError, verify

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
"""Of every document: JSON has types, and an unknown key is an error."""

DOCUMENT_LIMIT = 4 * 2**20
"""Bytes of a document at most."""

FORM = 1
"""Number of the form of all documents; another one is another release."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_RESERVED = frozenset({"coordinator", "authority", "localhost"})

D = TypeVar("D")


def is_name(name: str) -> bool:
    """Whether a partner, a run or a consortium may be called so: it names folders, certificates and log lines.

    >>> is_name("north-1"), is_name("coordinator"), is_name("../north")
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None and name.lower() not in _RESERVED


NAME_RULE = "1 to 40 letters, digits, hyphens or underscores, beginning with a letter or a digit"


def canonical(content: Mapping[str, object]) -> bytes:
    r"""The one encoding of a content of plain JSON values.

    >>> canonical({"b": [1, 2.5], "a": "é"})
    b'{"a":"\\u00e9","b":[1,2.5]}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse(data: bytes, what: str) -> dict[str, Any]:
    """Read the one encoding of a content.

    Args:
        data: Bytes from outside.
        what: Names them in the error.

    Raises:
        MalformedError: For every other bytes.
    """
    if len(data) > DOCUMENT_LIMIT:
        raise MalformedError(f"{what}: expected at most {DOCUMENT_LIMIT} bytes, got {len(data)}; refuse it")
    try:
        found = json.loads(data.decode("ascii"), object_pairs_hook=_once)
        again = canonical(found) if isinstance(found, dict) else b""
    except (ValueError, RecursionError):
        raise MalformedError(f"{what}: expected a document of Silhouette, got other bytes; ask for it again") from None
    if again != data:
        raise MalformedError(f"{what}: expected the one encoding of its content, got another; ask for it again")
    return cast(dict[str, Any], found)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def build(kind: type[D], content: object, what: str) -> D:
    """A document's class from plain JSON values, every rule of the class checked.

    Raises:
        MalformedError: If a key is unknown or missing, or a value is not allowed; the first fault is named.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content, allow_nan=False))
    except (ValidationError, ValueError) as error:
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
        else:
            place, reason = "", "not plain JSON"
        raise MalformedError(f"{what}: {place}{': ' if place else ''}{reason}; ask for it again") from None


def content_of(document: object) -> dict[str, Any]:
    """A document's fields as plain JSON values."""
    return cast(dict[str, Any], json.loads(json.dumps(asdict(document), allow_nan=False)))  # type: ignore[call-overload]


def seal(kind: str, body: Mapping[str, object], identity: Identity) -> bytes:
    """A signed document.

    Args:
        kind: What it is; a signature of one kind is worth nothing for another.
        body: Plain JSON values.
        identity: Who signs.
    """
    signature = identity.sign(_label(kind), b"", canonical(body))
    return canonical({"kind": kind, "form": FORM, "body": body, "signature": signature.hex()})


def open_sealed(kind: str, data: bytes, public: bytes) -> dict[str, Any]:
    """The body of a signed document.

    Args:
        kind: What it has to be.
        data: Bytes from outside.
        public: Whose signature it has to bear, 32 bytes.

    Raises:
        MalformedError: If it is not such a document.
        ForgedDocumentError: If the signature is not that key's.
    """
    body, signature = _halves(kind, data)
    try:
        verify(public, signature, _label(kind), b"", canonical(body))
    except UntrustedError:
        raise ForgedDocumentError(
            f"{kind}: expected the signature of the key that is known here, got another; refuse it, and ask its sender "
            "by another channel"
        ) from None
    return body


def unverified(kind: str, data: bytes) -> dict[str, Any]:
    """The body of a signed document before its signer is known; the caller finds the key in it and opens it then."""
    return _halves(kind, data)[0]


def _halves(kind: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    document = parse(data, kind)
    if set(document) != {"kind", "form", "body", "signature"} or document["kind"] != kind:
        found = str(document.get("kind", "something else"))[:40]
        raise MalformedError(f"{kind}: expected a {kind}, got {found!r}; give the right file")
    if document["form"] != FORM or isinstance(document["form"], bool):
        raise MalformedError(f"{kind}: expected form {FORM}, got another; install the same release on both sides")
    body, signature = document["body"], document["signature"]
    if not isinstance(body, dict) or not isinstance(signature, str) or re.fullmatch("[0-9a-f]{128}", signature) is None:
        raise MalformedError(f"{kind}: expected a body and a signature, got something else; ask for it again")
    return body, bytes.fromhex(signature)


def digest(data: bytes) -> str:
    """SHA-256 of a document's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def _label(kind: str) -> bytes:
    return b"enrolment/" + kind.encode("ascii")
