"""The service over a real socket and real mutual TLS: roles, refusals, limits, and that it lives on."""

from __future__ import annotations

import socket as sockets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.authority import Authority, Signed
from tests.client.serving.generate import FOLDER, NAMES, generate
from tests.client.serving.raw_http2 import RawClient, message
from tests.profiles import profile

from silhouette_client.profiles.audit_log import LOG_NAME, read_log
from silhouette_client.profiles.keys import KEYS_NAME, KeyFile, read_keyring
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving import profile_pb2_grpc as pb_grpc
from silhouette_client.serving.access import Access, Grant
from silhouette_client.serving.client import ProfileClient
from silhouette_client.serving.grpc_server import SERVICE, Tls, serving
from silhouette_client.serving.service import METHODS, Event, NoProfileError, PushOutcome, Role, Service
from silhouette_shared.errors import RefusedError, UnavailableError, UsageError

REQUESTS: dict[str, Any] = {
    "GetProfile": pb.GetProfileRequest(user="anna"),
    "BatchGetProfiles": pb.BatchGetProfilesRequest(users=["anna", "nobody"]),
    "Recommend": pb.RecommendRequest(user="anna"),
    "Explain": pb.ExplainRequest(user="anna"),
    "SimilarSegments": pb.SimilarSegmentsRequest(user="anna"),
    "PushEvents": pb.PushEventsRequest(events=[pb.Event(user="anna", item="i")]),
    "Erase": pb.EraseRequest(user="somebody"),
    "Verify": pb.VerifyRequest(),
}
NEEDS_MORE = {"SimilarSegments", "PushEvents"}  # granted, they say that this node has no segments and no model


@dataclass
class House:
    home: Path
    socket: Path
    port: int
    authority: Authority

    def client(self, who: Signed, timeout: float = 60) -> ProfileClient:
        return ProfileClient.over_tls(
            f"localhost:{self.port}",
            authority=self.authority.pem,
            certificate=who.certificate,
            key=who.key,
            timeout_seconds=timeout,
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("node")
    authority = Authority("partner")
    server = authority.issue("localhost")
    access = Access(
        {
            **{str(role): Grant(roles=frozenset({role})) for role in Role},
            "none": Grant(),
            "slow": Grant(roles=frozenset({Role.tags}), requests_per_second=2),
            "local": Grant(roles=frozenset({Role.tags, Role.vectors})),
        }
    )
    with Vault.open(home, make=KeyFile()) as vault:
        plain = replace(profile(3), tastes=None)  # of a node that has not learnt any
        vault.put_many([("anna", profile(1)), ("ben", profile(2)), ("cleo", plain)], "test", "build")
        with serving(
            Service(vault),
            vault,
            log=home / LOG_NAME,
            access=access,
            socket=home / "p.sock",
            address="localhost:0",
            tls=Tls(server.certificate, server.key, authority.pem),
        ) as port:
            yield House(home, home / "p.sock", port, authority)


def test_the_committed_code_is_what_the_proto_gives(tmp_path: Path) -> None:
    generate(tmp_path)
    for name in NAMES:
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), f"run {generate.__module__}"


def test_every_method_of_the_proto_needs_a_role() -> None:
    methods = pb.DESCRIPTOR.services_by_name["ProfileService"].methods_by_name
    assert set(methods) == set(METHODS) == set(REQUESTS)
    assert all(METHODS.values())


@pytest.mark.parametrize("role", [*Role, "none", "stranger", "local"])
def test_every_role_tries_every_method_and_only_the_granted_ones_answer(house: House, role: str) -> None:
    with house.client(house.authority.issue(str(role))) as client:
        for method, request in REQUESTS.items():
            granted = role in METHODS[method]  # a certificate called local is not the socket
            if granted and method not in NEEDS_MORE:
                assert client.call(method, request) is not None
                continue
            with pytest.raises(RefusedError) as caught:
                client.call(method, request)
            wanted = "at this node" if granted else f"expected a role that holds {method}, got none"
            assert wanted in str(caught.value)


def test_tags_see_no_vector_and_no_tastes_and_vectors_no_tags(house: House) -> None:
    with house.client(house.authority.issue("tags")) as client:
        found = client.profile("anna")
        assert list(found.tags) == ["Drama", "Tag 1"]
        assert found.traits["gender"].value == "F"
        assert not found.vector
        assert not found.tastes
        model, items = found.model, client.recommend("anna", 3, without=["item-1-0"]).items
        assert (model, [one.item for one in items]) == ("model-1", ["item-1-1", "item-1-2", "item-1-3"])
        parts = client.explain("anna").parts
        assert [(one.dimension, one.share) for one in parts] == [("browsing", 0.75), ("rhythm", 0.25)]
    with house.client(house.authority.issue("vectors")) as client:
        found = client.profile("anna")
        assert list(found.vector) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert np.array_equal(found.tastes, np.linspace(-1, 1, 6, dtype=np.float32))
        assert not found.tags
        assert not found.traits
        first, second = client.profiles(["ben", "nobody"])
        assert first is not None
        assert next(iter(first.vector)) == 2
        assert next(iter(first.tastes)) == -2
        assert second is None


def test_tastes_that_were_not_learnt_are_absent(house: House) -> None:
    with house.client(house.authority.issue("vectors")) as client:
        found = client.profile("cleo")
        assert (len(found.vector), len(found.tastes)) == (8, 0)


def test_the_fields_of_a_profile_keep_their_numbers() -> None:
    numbers = {field.name: field.number for field in pb.Profile.DESCRIPTOR.fields}
    assert numbers == {"model": 1, "weights": 2, "traits": 3, "tags": 4, "vector": 5, "tastes": 6}


def test_the_socket_is_for_its_user_and_says_who_in_the_log(house: House) -> None:
    assert house.socket.stat().st_mode & 0o777 == 0o600
    with ProfileClient.on_socket(house.socket) as client:
        assert client.profile("anna").vector
        with pytest.raises(NoProfileError):
            client.profile("nobody")
        with pytest.raises(RefusedError, match="expected a role that holds Erase"):
            client.call("Erase", pb.EraseRequest(user="anna"))
        with pytest.raises(UsageError, match="expected a user of 1 to 256 characters, got 0"):
            client.profile("")
        with pytest.raises(UsageError, match="expected at most 100 users, got 101"):
            client.profiles(["u"] * 101)
        with pytest.raises(UsageError, match="expected at most 1000 items"):
            client.recommend("anna", 2000)
    keyring, _ = read_keyring(house.home / KEYS_NAME)
    entries = list(read_log(house.home / LOG_NAME, keyring.audit))
    local = [(e.access.method, e.access.outcome, e.access.person) for e in entries if e.access.who == "client:local"]
    assert ("GetProfile", "granted", keyring.pseudonym("anna")) in local
    assert ("Erase", "denied", b"") in local
    assert b"anna" not in (house.home / LOG_NAME).read_bytes()


def test_no_certificate_another_authority_and_an_expired_one_are_refused(house: House) -> None:
    other = Authority("other").issue("tags")
    expired = house.authority.issue("tags", days=-1)
    for who in (other, expired):
        with house.client(who, timeout=30) as client, pytest.raises(UnavailableError, match="UNAVAILABLE"):
            client.profile("anna")
    bare = grpc.secure_channel(f"localhost:{house.port}", grpc.ssl_channel_credentials(house.authority.pem))
    plain = grpc.insecure_channel(f"localhost:{house.port}")
    for channel in (bare, plain):
        with ProfileClient(channel, 30) as client, pytest.raises(UnavailableError):
            client.profile("anna")
    alive(house)


def test_a_quota_refuses_what_is_too_much_and_grants_again(house: House) -> None:
    with house.client(house.authority.issue("slow")) as client:
        outcomes: list[bool] = []
        while all(outcomes) and len(outcomes) < 100:  # at once; a slow machine asks more than twice a second in the end
            try:
                client.profile("anna")
                outcomes.append(True)
            except RefusedError as error:
                outcomes.append("expected at most 2 requests a second" not in str(error))
        assert outcomes[0] is True
        assert outcomes[-1] is False
        threading.Event().wait(1.0)
        assert client.profile("anna").model == "model-1"


def test_an_oversized_request_is_refused_and_the_service_lives(house: House) -> None:
    with ProfileClient.on_socket(house.socket) as client, pytest.raises(RefusedError, match="larger than max"):
        client.profile("x" * (2 << 20))
    alive(house)


def test_many_streams_at_once_are_answered_or_refused_and_the_service_lives(house: House) -> None:
    with grpc.insecure_channel(f"unix:{house.socket}") as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/GetProfile",
            request_serializer=pb.GetProfileRequest.SerializeToString,
            response_deserializer=pb.Profile.FromString,
        )
        calls = [ask.future(REQUESTS["GetProfile"], timeout=300) for _ in range(1000)]
        codes = {call.code() for call in calls}
    # UNAVAILABLE is how a client shows HTTP/2's REFUSED_STREAM: more streams than the connection may have
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    assert grpc.StatusCode.OK in codes
    alive(house)


def test_a_request_that_claims_two_gigabytes_is_refused_before_it_is_read(house: House) -> None:
    with RawClient(house.socket) as client:
        client.open(1)
        client.send(1, message(2**31 - 1, bytes(1000)))
        assert client.wait_for_end(1) < 10_000
    alive(house)


def hold_open(house: House, connections: int, streams: int, *, patience: float = 0.0) -> None:
    """Open so many streams that say half of a request and then nothing, and ask beside them.

    While they all come at once others may be told to try again, for so many seconds.
    """
    with ExitStack() as stack:
        for _ in range(connections):
            client = stack.enter_context(RawClient(house.socket))
            for number in range(streams):
                client.open(2 * number + 1)
                client.send(2 * number + 1, message(6, b"\x0a"))
        wait_until_alive(house, patience)
        begun = time.monotonic()
        alive(house)
        with house.client(house.authority.issue("tags")) as other:
            assert other.profile("anna").model == "model-1"
        assert time.monotonic() - begun < 60
    wait_until_alive(house, patience)
    alive(house)


def wait_until_alive(house: House, patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(UnavailableError):
            alive(house)
            break
        time.sleep(0.2)


def test_slow_clients_hold_up_nobody(house: House) -> None:
    hold_open(house, connections=4, streams=120)


@pytest.mark.slow
def test_ten_thousand_open_streams_hold_up_nobody(house: House) -> None:
    hold_open(house, connections=84, streams=120, patience=180)


def test_a_deadline_ends_a_long_request_and_the_service_lives(tmp_path: Path) -> None:
    gate, gone_on = threading.Event(), threading.Event()

    class Slow(Service):
        def push(self, events: Any, who: str) -> Any:
            gate.wait(60)
            gone_on.set()
            return PushOutcome(0, 0, 0, 0, 0, 0)

    access = Access({"local": Grant(roles=frozenset({Role.write, Role.tags}))})
    with (
        Vault.open(tmp_path, make=KeyFile()) as vault,
        serving(Slow(vault), vault, log=tmp_path / LOG_NAME, access=access, socket=tmp_path / "s"),
        ProfileClient.on_socket(tmp_path / "s", 1) as hasty,
        ProfileClient.on_socket(tmp_path / "s", 30) as client,
    ):
        with pytest.raises(UnavailableError, match="DEADLINE_EXCEEDED"):
            hasty.push([pb.Event(user="anna")])
        with pytest.raises(NoProfileError):  # an answer, while the other still waits
            client.profile("anna")
        assert not gone_on.is_set()
        gate.set()


def test_more_long_requests_than_fit_are_refused(tmp_path: Path) -> None:
    gate = threading.Event()

    class Waiting(Service):
        def push(self, events: Any, who: str) -> Any:
            gate.wait(120)
            return PushOutcome(0, 0, 0, 0, 0, 0)

    access = Access({"local": Grant(roles=frozenset({Role.write, Role.tags}))})
    with (
        Vault.open(tmp_path, make=KeyFile()) as vault,
        serving(Waiting(vault), vault, log=tmp_path / LOG_NAME, access=access, socket=tmp_path / "s"),
        grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel,
    ):
        push = pb_grpc.ProfileServiceStub(channel).PushEvents
        calls = [push.future(pb.PushEventsRequest(), timeout=120) for _ in range(80)]
        end = time.monotonic() + 100
        while sum(call.done() for call in calls) < 16 and time.monotonic() < end:
            time.sleep(0.05)
        refused = [call for call in calls if call.done()]
        gate.set()
        assert {call.code() for call in calls if call not in refused} == {grpc.StatusCode.OK}
        assert [call.code() for call in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 16
        assert "at most 64 long requests" in (refused[0].details() or "")


def test_clients_that_send_nothing_or_rubbish_hold_up_nobody(house: House) -> None:
    silent = [sockets.create_connection(("localhost", house.port)) for _ in range(50)]
    with sockets.socket(sockets.AF_UNIX) as rubbish:
        rubbish.connect(str(house.socket))
        rubbish.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(5000))
        alive(house)
        with house.client(house.authority.issue("tags")) as client:
            assert client.profile("anna").model == "model-1"
    for connection in silent:
        connection.close()


def test_health_answers_and_reflection_does_not(house: House) -> None:
    with grpc.insecure_channel(f"unix:{house.socket}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        call = channel.stream_stream(method)(iter([b""]), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_answers_where_it_was_asked_for(tmp_path: Path) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with (
        Vault.open(tmp_path, make=KeyFile()) as vault,
        serving(
            Service(vault), vault, log=tmp_path / LOG_NAME, access=Access({}), socket=tmp_path / "s", reflection=True
        ),
        grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=60
        )
        assert SERVICE in {one.name for one in answer.list_services_response.service}


def test_an_unexpected_failure_says_nothing_of_a_person(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Service):
        def explain(self, user: str, who: str) -> Any:
            raise RuntimeError(f"secret about {user}")

    access = Access({"local": Grant(roles=frozenset({Role.tags}))})
    with (
        Vault.open(tmp_path, make=KeyFile()) as vault,
        serving(Broken(vault), vault, log=tmp_path / LOG_NAME, access=access, socket=tmp_path / "s"),
        ProfileClient.on_socket(tmp_path / "s") as client,
    ):
        with pytest.raises(Exception, match="something unexpected happened") as caught:
            client.explain("anna")
        assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text
    assert "anna" not in caplog.text
    assert "Explain: unexpected RuntimeError" in caplog.text


def test_pushed_events_and_segments_go_to_whoever_knows_them() -> None:
    class Fake:
        def push(self, events: Any, who: str) -> PushOutcome:
            return PushOutcome(len(events), 0, 0, 0, 0, 1)

        def note_shown(self, user: str, model: str, items: Any) -> None:
            self.shown = (user, model, items)

        def similar(self, record: Any, count: int) -> list[tuple[str, float]]:
            return [("night owls", 0.9)][:count]

        def get(self, *_: Any) -> Any:
            return profile(1)

        get_many = erase = get

    updater = Fake()
    forgotten: list[str] = []
    service = Service(Fake(), updater, Fake(), forget=forgotten.append)
    assert service.push([Event("anna", "i", "view", 1, 0.0)], "app").accepted == 1
    model, items = service.recommend("anna", "app", 2)
    assert updater.shown == ("anna", model, [one.item for one in items])
    service.erase("anna", "app")
    assert forgotten == ["anna"]
    assert service.similar_segments("anna", "app") == [("night owls", 0.9)]
    with pytest.raises(UsageError, match="expected at most 1000 events"):
        service.push([Event("anna", "i", "view", 1, 0.0)] * 1001, "app")


def test_a_socket_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="expected a socket, found none"):
        ProfileClient.on_socket(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match="find out who put it there"):
        ProfileClient.on_socket(tmp_path / "file")
    with sockets.socket(sockets.AF_UNIX) as open_to_all:
        open_to_all.bind(str(tmp_path / "wide"))
        (tmp_path / "wide").chmod(0o666)
        with pytest.raises(RefusedError, match="mode 600"):
            ProfileClient.on_socket(tmp_path / "wide")


def test_a_socket_that_another_user_put_in_the_services_place_is_not_asked_and_the_service_answers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority("partner")
    server, who = authority.issue("localhost"), authority.issue("shop")
    with (
        Vault.open(tmp_path, make=KeyFile()) as vault,
        serving(
            Service(vault),
            vault,
            log=tmp_path / LOG_NAME,
            access=Access({"shop": Grant(roles=frozenset({Role.tags}))}),
            socket=tmp_path / "p.sock",
            address="localhost:0",
            tls=Tls(server.certificate, server.key, authority.pem),
        ) as port,
        sockets.socket(sockets.AF_UNIX) as theirs,
    ):
        (tmp_path / "p.sock").unlink()
        theirs.bind(str(tmp_path / "p.sock"))
        (tmp_path / "p.sock").chmod(0o600)
        theirs.listen()
        theirs.setblocking(False)
        monkeypatch.setattr("silhouette_client.serving.client.os.getuid", lambda: 12345)  # so it is another user's
        with pytest.raises(RefusedError, match="expected a socket of this user alone"):
            ProfileClient.on_socket(tmp_path / "p.sock")
        with pytest.raises(BlockingIOError):
            theirs.accept()  # nobody has called
        house = House(tmp_path, tmp_path / "p.sock", port, authority)
        with house.client(who) as client, pytest.raises(NoProfileError):
            client.profile("anna")


def test_a_second_service_on_a_socket_is_refused_and_a_dead_ones_socket_is_taken(house: House, tmp_path: Path) -> None:
    access = Access({})
    with Vault.open(tmp_path, make=KeyFile()) as vault:
        service = Service(vault)
        with (
            pytest.raises(UnavailableError, match="found one that answers; stop it first"),
            serving(service, vault, log=tmp_path / LOG_NAME, access=access, socket=house.socket),
        ):
            pass
        assert house.socket.exists()
        (tmp_path / "file").write_text("kept")
        with (
            pytest.raises(UsageError, match="found another file"),
            serving(service, vault, log=tmp_path / LOG_NAME, access=access, socket=tmp_path / "file"),
        ):
            pass
        assert (tmp_path / "file").read_text() == "kept"
        with sockets.socket(sockets.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "dead"))
        with (
            serving(service, vault, log=tmp_path / LOG_NAME, access=access, socket=tmp_path / "dead"),
            ProfileClient.on_socket(tmp_path / "dead") as client,
            pytest.raises(RefusedError, match="got none"),
        ):
            client.profile("anna")
        for address, message in ((None, "got neither; give one"), ("localhost:0", "with an address, got none")):
            with (
                pytest.raises(UsageError, match=message),
                serving(service, vault, log=tmp_path / LOG_NAME, access=access, address=address),
            ):
                pass


def test_the_socket_of_a_service_too_busy_to_let_anybody_in_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "busy"
    with Vault.open(tmp_path, make=KeyFile()) as vault, ExitStack() as waiting:
        busy = waiting.enter_context(sockets.socket(sockets.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        with suppress(BlockingIOError):
            while True:  # until one more would have to wait
                one = waiting.enter_context(sockets.socket(sockets.AF_UNIX))
                one.setblocking(False)
                one.connect(str(path))
        with (
            pytest.raises(UnavailableError, match="found one that answers; stop it first"),
            serving(Service(vault), vault, log=tmp_path / LOG_NAME, access=Access({}), socket=path),
        ):
            pass
        assert path.exists()


def alive(house: House) -> None:
    with ProfileClient.on_socket(house.socket, 60) as client:
        assert client.profile("anna").model == "model-1"
