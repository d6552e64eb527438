"""What passes the gate: decided from a certificate's holder and the head of a request alone."""

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass

FLEET = "/v1/fleet/"

CALLS = frozenset(
    FLEET + call
    for call in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "get-fab",
        "push-object",
        "pull-object",
        "confirm-message-received",
    )
)
"""All that a SuperNode with a key of its own calls. Registering is the coordinator's, on loopback."""

PULL = FLEET + "pull-messages"

ACTIVATE = FLEET + "activate-node"

HEARTBEAT = FLEET + "send-node-heartbeat"

KEY_HEADER = "flwr-public-key"

PASSED_ON = frozenset({"content-type", "accept", "user-agent"})
"""Headers that go through, besides those that begin with `flwr-`."""

MAX_BODY_BYTES = 16 * 2**20  # Flower cuts arrays into 5 MiB


@dataclass(frozen=True)
class Holder:
    """Whom a certificate belongs to."""

    name: str
    supernode_public: bytes  # PEM, as Flower sends it
    active: bool


@dataclass(frozen=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    reason: str


def check_request(holder: Holder | None, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
    """None if the request may go on to the SuperLink.

    A partner's certificate opens the way for the SuperNode that was enrolled with it and for no other: the SuperLink
    checks that the key in the header signed the request and belongs to the node that is named in it.

    Args:
        holder: Of the client certificate; None if it is on no roster.
        method: Of the request.
        path: Of the request, without anything taken out.
        headers: Names in lower case.
    """
    if path not in CALLS or method != "POST":
        return Refusal(404, "no such place")
    if holder is None:
        return Refusal(401, "the certificate is on no roster")
    if not holder.active:
        return Refusal(401, "the certificate is revoked")
    if "transfer-encoding" in headers or not headers.get("content-length", "").isdigit():
        return Refusal(411, "expected a length")
    if int(headers["content-length"]) > MAX_BODY_BYTES:
        return Refusal(413, "too long")
    try:
        key = b64decode(headers.get(KEY_HEADER, ""), validate=True)
    except (NotBase64, ValueError):
        key = b""
    if key != holder.supernode_public:
        return Refusal(403, "the key in the request is not the one enrolled with the certificate")
    return None


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go through the gate, in either direction."""
    return {name: value for name, value in headers.items() if name in PASSED_ON or name.startswith("flwr-")}
