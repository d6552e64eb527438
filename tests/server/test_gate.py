"""The gate over real TLS sockets, in front of a server that stands for the SuperLink."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.deployed import Homes, enrol, free_ports

from silhouette_client.connector import Connector
from silhouette_client.processes.services import gateway_of, places_of, prepare
from silhouette_server.gate import Gate, GateFiles, GateLimits
from silhouette_server.processes.holders import RosterHolders, supernode_pem
from silhouette_server.processes.services import places_of as coordinator_places

LIMITS = GateLimits(
    connections_each=3,
    head_bytes=4096,
    head_seconds=60.0,
    idle_seconds=60.0,
    body_seconds=60.0,
    hold_seconds=60.0,
    ask_seconds=0.1,
    ask_idle_seconds=0.5,
    busy_seconds=60.0,
    start_seconds=0.6,
    overlap_seconds=0.3,
)
# Where a test waits for a limit; everywhere else a slow machine must not meet one.
HASTY = replace(LIMITS, head_seconds=0.5, body_seconds=0.5)
BRIEF = replace(LIMITS, hold_seconds=2.0)
PULL = "/v1/fleet/pull-messages"


@dataclass
class Behind:
    """What stands behind the gate: it keeps what it is asked and answers what a test says."""

    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answer: Callable[[str], tuple[int, bytes]] = lambda path: (200, b"answer")


@dataclass(frozen=True)
class House:
    """A gate with what is behind it."""

    homes: Homes
    port: int
    behind: Behind

    def context(self, name: str | None) -> ssl.SSLContext:
        """A partner's side of TLS; without a name nobody's."""
        context = ssl.create_default_context(cafile=str(self.homes.office.folder / "authority.pem"))
        if name is not None:
            node = self.homes.node(name)
            context.load_cert_chain(node.certificate_path, node.client_key_path)
        return context

    def connection(self, name: str | None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("localhost", self.port, context=self.context(name), timeout=60)

    def headers(self, name: str) -> dict[str, str]:
        public = (self.homes.node(name).folder / "supernode.pub").read_text().strip()
        return {"flwr-public-key": b64encode(supernode_pem(public)).decode(), "content-type": "application/protobuf"}

    def call(
        self,
        name: str,
        path: str = "/v1/fleet/get-run",
        *,
        method: str = "POST",
        key_of: str | None = None,
        body: bytes = b"hello",
        connection: http.client.HTTPSConnection | None = None,
    ) -> tuple[int, bytes]:
        used = connection or self.connection(name)
        used.request(method, path, body=body, headers=self.headers(key_of or name))
        answer = used.getresponse()
        content = answer.read()
        if connection is None:
            used.close()
        return answer.status, content

    def raw(self, name: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("localhost", self.port), timeout=60)
        return self.context(name).wrap_socket(plain, server_hostname="localhost")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return enrol(tmp_path_factory.mktemp("homes"), {"north": 30, "south": 20, "west": 10})


def serve(coroutine: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a listener in a thread; returns what ends it."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine())

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            for left in asyncio.all_tasks(loop):
                left.cancel()
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        assert not thread.is_alive()

    return stop


def ask(connection: http.client.HTTPSConnection) -> int:
    connection.request("POST", PULL, body=b"")
    return connection.getresponse().status


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("nobody listens")


@pytest.fixture
def house(homes: Homes, request: pytest.FixtureRequest) -> Iterator[House]:
    """With `LIMITS`, unless the test names others."""
    behind, folder = Behind(), homes.office.folder

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            behind.asked.append((self.command, self.path, headers, body))
            status, content = behind.answer(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.send_header("set-cookie", "secret")
            self.send_header("flwr-told", "yes")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    inner = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inner.load_cert_chain(folder / "internal.pem", folder / "internal.key")
    server.socket = inner.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (port,) = free_ports(1)
    files = GateFiles(folder / "server.pem", folder / "server.key", folder / "authority.pem", folder / "authority.pem")
    limits = getattr(request, "param", LIMITS)
    gate = Gate(files, f"127.0.0.1:{server.server_address[1]}", RosterHolders(homes.office), limits)
    stop = serve(lambda: gate.serve("127.0.0.1", port))
    wait_for_port(port)
    yield House(homes, port, behind)
    stop()
    server.shutdown()
    server.server_close()


def test_a_call_of_an_enrolled_supernode_goes_through_with_its_body_and_flowers_headers_alone(house: House) -> None:
    assert house.call("north", body=b"x" * 300_000) == (200, b"answer")
    ((method, path, headers, body),) = house.behind.asked
    assert (method, path, body) == ("POST", "/v1/fleet/get-run", b"x" * 300_000)
    assert headers["flwr-public-key"] == house.headers("north")["flwr-public-key"]
    connection = house.connection("north")
    connection.request(
        "POST", "/v1/fleet/get-run", b"", {**house.headers("north"), "cookie": "c", "x-forwarded-for": "1"}
    )
    answer = connection.getresponse()
    assert {name.lower() for name in answer.headers} == {"content-length", "date", "flwr-told"}
    answer.read()
    connection.close()
    assert not {"cookie", "x-forwarded-for"} & set(house.behind.asked[1][2])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/health",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_no_control_call_no_task_call_and_no_other_reaches_the_superlink(house: House, path: str, method: str) -> None:
    assert house.call("north", path, method=method)[0] == 404
    assert house.behind.asked == []


def test_without_a_certificate_there_is_no_session(house: House) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        ask(house.connection(None))
    assert house.behind.asked == []


def test_a_certificate_of_another_authority_opens_no_session(house: House, tmp_path: Path) -> None:
    other = enrol(tmp_path, {"north": 30})
    context = house.context(None)
    node = other.node("north")
    context.load_cert_chain(node.certificate_path, node.client_key_path)
    connection = http.client.HTTPSConnection("localhost", house.port, context=context, timeout=60)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        ask(connection)
    assert house.behind.asked == []


def test_a_partner_cannot_use_anothers_node(house: House) -> None:
    status, reason = house.call("north", key_of="south")
    assert (status, house.behind.asked) == (403, [])
    assert b"not the one enrolled" in reason


def test_a_revoked_partner_is_refused_at_its_next_call_on_the_same_connection(house: House) -> None:
    connection = house.connection("west")
    assert house.call("west", connection=connection)[0] == 200
    house.homes.office.revoke("west")
    assert house.call("west", connection=connection) == (401, b"the certificate is revoked")
    assert house.call("north")[0] == 200


def test_a_roster_that_cannot_be_read_lets_nobody_in(house: House) -> None:
    path = house.homes.office.folder / "roster.json"
    kept = path.read_bytes()
    assert house.call("north")[0] == 200
    try:
        path.write_bytes(kept.replace(b"active", b"aktive", 1))
        assert house.call("north")[0] == 401
    finally:
        path.write_bytes(kept)
    assert house.call("north")[0] == 200


@pytest.mark.parametrize("house", [HASTY], indirect=True)
def test_a_head_that_is_too_long_or_too_slow_ends_the_connection(house: House) -> None:
    with house.raw("north") as long:
        long.sendall(b"POST / HTTP/1.1\r\nx: " + b"a" * 8000)
        assert long.recv(100) == b""
    with house.raw("north") as slow:
        started = time.monotonic()
        slow.sendall(b"POST / HT")
        assert slow.recv(100) == b""
        assert 0.3 < time.monotonic() - started < LIMITS.idle_seconds / 2


@pytest.mark.parametrize("house", [HASTY], indirect=True)
def test_a_body_that_does_not_come_ends_the_connection(house: House) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in house.headers("north").items())
    with house.raw("north") as slow:
        slow.sendall(f"POST {PULL} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n{head}\r\nabc".encode())
        assert slow.recv(100) == b""
    assert house.behind.asked == []


def test_a_partner_has_a_bounded_number_of_connections(house: House) -> None:
    held = [house.connection("north") for _ in range(LIMITS.connections_each)]
    # Each has been counted once it was answered.
    assert [house.call("north", connection=one)[0] for one in held] == [200] * len(held)
    with pytest.raises(OSError):  # reset or ended, as the moment has it; let in, it would be answered
        house.call("north")
    assert house.call("south")[0] == 200
    for one in held:
        one.close()


def test_a_question_for_messages_is_held_until_there_is_one(house: House) -> None:
    answers = iter([b"", b"", b"message"])
    house.behind.answer = lambda path: (200, next(answers))
    started = time.monotonic()
    assert house.call("north", PULL) == (200, b"message")
    assert 0.15 < time.monotonic() - started < LIMITS.hold_seconds
    assert len(house.behind.asked) == 3


@pytest.mark.parametrize("house", [BRIEF], indirect=True)
def test_a_supernode_at_work_is_asked_for_more_often_than_an_idle_one(house: House) -> None:
    house.behind.answer = lambda path: (200, b"")
    house.call("north", PULL)
    idle = len(house.behind.asked)
    house.call("north", "/v1/fleet/push-messages")
    house.call("north", PULL)
    assert idle <= 4  # at once, and every half of a second while it is held
    assert len(house.behind.asked) - 1 - idle > idle


@pytest.mark.parametrize("house", [BRIEF], indirect=True)
def test_a_held_question_is_answered_when_its_time_is_up(house: House) -> None:
    house.behind.answer = lambda path: (200, b"")
    assert house.call("north", PULL) == (200, b"")


def test_no_message_is_fetched_for_somebody_who_is_gone(house: House) -> None:
    house.behind.answer = lambda path: (200, b"")
    connection = house.connection("north")
    connection.request("POST", PULL, body=b"", headers=house.headers("north"))
    until = time.monotonic() + LIMITS.hold_seconds / 2
    while not house.behind.asked and time.monotonic() < until:
        time.sleep(0.02)
    connection.close()
    asked = 0
    while asked != (asked := len(house.behind.asked)):  # far from the end of what it is held for
        assert time.monotonic() < until, "somebody who is gone is asked for"
        time.sleep(3 * LIMITS.ask_idle_seconds)
    assert asked >= 1


def test_errors_of_the_superlink_come_through(house: House) -> None:
    house.behind.answer = lambda path: (412, b"no such run")
    assert house.call("north", "/v1/fleet/get-run") == (412, b"no such run")


def test_a_supernode_waits_while_the_one_before_it_counts_as_connected(house: House) -> None:
    answers = iter([(412, b""), (200, b"in")])
    house.behind.answer = lambda path: next(answers)
    assert house.call("north", "/v1/fleet/activate-node") == (200, b"in")


NOTICED = "a second SuperNode with the key of south asks to be let in while the first one lives"


def test_a_second_supernode_with_a_copied_key_is_kept_out_and_noticed_while_the_first_one_lives(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.behind.answer = lambda path: (412, b"") if path.endswith("activate-node") else (200, b"")
    assert house.call("south", "/v1/fleet/activate-node")[0] == 503  # it asks again
    assert NOTICED not in caplog.text
    assert house.call("south", "/v1/fleet/send-node-heartbeat")[0] == 200  # the first one
    assert house.call("south", "/v1/fleet/activate-node")[0] == 503
    assert NOTICED in caplog.text


def test_a_supernode_that_nobody_else_speaks_for_waits_without_an_alarm(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    """After a kill, or before the SuperLink knows the roster, however long that takes."""
    house.behind.answer = lambda path: (412, b"") if path.endswith("activate-node") else (200, b"")
    assert house.call("south", "/v1/fleet/send-node-heartbeat")[0] == 200  # of the one that is killed now
    for _ in range(3):
        assert house.call("south", "/v1/fleet/activate-node")[0] == 503
    assert house.call("north", "/v1/fleet/send-node-heartbeat")[0] == 200  # somebody else
    assert house.call("south", "/v1/fleet/activate-node")[0] == 503
    assert "while the first one lives" not in caplog.text


def test_a_superlink_that_is_away_is_a_503_which_makes_a_supernode_try_again(homes: Homes) -> None:
    folder = homes.office.folder
    port, nobody = free_ports(2)
    files = GateFiles(folder / "server.pem", folder / "server.key", folder / "authority.pem", folder / "authority.pem")
    gate = Gate(files, f"127.0.0.1:{nobody}", RosterHolders(homes.office), LIMITS)
    stop = serve(lambda: gate.serve("127.0.0.1", port))
    wait_for_port(port)
    try:
        started = time.monotonic()
        assert House(homes, port, Behind()).call("north")[0] == 503
        assert time.monotonic() - started > 0.3  # it was given time to start
    finally:
        stop()


def test_the_connector_brings_a_supernodes_call_to_the_gate_and_says_503_while_the_gate_is_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("silhouette_client.connector._TRY_SECONDS", 0.3)
    node = house.homes.node("north")
    places = places_of(node)
    prepare(node, places)
    near, nobody = free_ports(2)
    inner = ssl.create_default_context(cafile=str(places.certificate))
    for gate_port, expected in ((house.port, 200), (nobody, 503)):
        gateway = gateway_of(node)
        connector = Connector(type(gateway)(**{**vars(gateway), "port": gate_port}), places.certificate, places.key)
        stop = serve(lambda made=connector: made.serve("127.0.0.1", near))  # type: ignore[misc]
        wait_for_port(near)
        connection = http.client.HTTPSConnection("127.0.0.1", near, context=inner, timeout=60)
        connection.request("POST", "/v1/fleet/get-run", body=b"y" * 100_000, headers=house.headers("north"))
        assert connection.getresponse().status == expected
        connection.close()
        stop()
    assert [len(body) for *_, body in house.behind.asked] == [100_000]


@pytest.mark.parametrize(
    ("off", "said"),
    [(3600, "60 minutes ahead of the coordinator's"), (-3660, "60 minutes behind the coordinator's"), (60, "")],
)
def test_a_clock_an_hour_off_is_said_where_it_can_be_set(
    house: House, caplog: pytest.LogCaptureFixture, off: int, said: str
) -> None:
    node = house.homes.node("north")
    places = places_of(node)
    prepare(node, places)
    (near,) = free_ports(1)

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=off + 5)

    gateway = replace(gateway_of(node), port=house.port)
    connector = Connector(gateway, places.certificate, places.key, clock)
    with caplog.at_level("ERROR"):
        stop = serve(lambda: connector.serve("127.0.0.1", near))
        until = time.monotonic() + (60.0 if said else 1.0)
        while "clock" not in caplog.text and time.monotonic() < until:
            time.sleep(0.05)
        stop()
    assert said in caplog.text
    assert ("set the clock" in caplog.text) is bool(said)
    assert house.behind.asked == []


def test_the_gate_listens_where_the_settings_say(homes: Homes) -> None:
    places = coordinator_places(homes.office)
    assert places.listen == "127.0.0.1"
    assert places.superlink != places.port == homes.office.settings.gate.port
