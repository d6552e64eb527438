from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silhouette_server.gate_rules import CALLS, MAX_BODY_BYTES, Holder, check_request, passed_on

KEY = b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n"
HOLDER = Holder("north", KEY, active=True)
HEADERS = {"content-length": "5", "flwr-public-key": b64encode(KEY).decode()}
PULL = "/v1/fleet/pull-messages"


def status(**changes: object) -> int | None:
    asked = {"holder": HOLDER, "method": "POST", "path": PULL, "headers": HEADERS, **changes}
    refusal = check_request(**asked)  # type: ignore[arg-type]
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("path", sorted(CALLS))
def test_the_calls_of_a_supernode_pass(path: str) -> None:
    assert status(path=path) is None


@given(st.text() | st.sampled_from(sorted(CALLS)).flatmap(lambda path: st.text(min_size=1).map(lambda end: path + end)))
def test_no_other_path_passes(path: str) -> None:
    assert path in CALLS or status(path=path) == 404


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/docs",
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/runtime/pull-messages",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/pull-messages?x=/v1/control/list-runs",
        "//v1/fleet/pull-messages",
        "/V1/fleet/pull-messages",
        "http://127.0.0.1/v1/fleet/pull-messages",
    ],
)
def test_what_is_not_a_supernodes_call_is_nowhere(path: str) -> None:
    assert status(path=path) == 404


def test_only_post_passes() -> None:
    assert [status(method=method) for method in ("GET", "PUT", "CONNECT", "post", "POST")] == [404, 404, 404, 404, None]


def test_a_certificate_on_no_roster_or_a_revoked_one_is_refused() -> None:
    assert status(holder=None) == 401
    assert status(holder=Holder("north", KEY, active=False)) == 401


@pytest.mark.parametrize("key", ["", "%%%", b64encode(KEY + b"x").decode(), b64encode(KEY.strip()).decode()])
def test_another_key_than_the_enrolled_one_is_refused(key: str) -> None:
    assert status(headers={**HEADERS, "flwr-public-key": key}) == 403


def test_a_body_without_a_length_or_with_too_much_is_refused() -> None:
    assert status(headers={"flwr-public-key": HEADERS["flwr-public-key"]}) == 411
    assert status(headers={**HEADERS, "transfer-encoding": "chunked"}) == 411
    assert status(headers={**HEADERS, "content-length": "-1"}) == 411
    assert status(headers={**HEADERS, "content-length": str(MAX_BODY_BYTES + 1)}) == 413
    assert status(headers={**HEADERS, "content-length": str(MAX_BODY_BYTES)}) is None


def test_only_flowers_headers_and_the_type_go_through() -> None:
    headers = {"host": "x", "cookie": "y", "authorization": "z", "content-type": "a", "flwr-signature": "b"}
    assert passed_on(headers) == {"content-type": "a", "flwr-signature": "b"}
