"""A real nginx with the configuration of `server/deploy`, in front of a server that stands for the SuperLink."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.deployed import Homes, enrol, free_ports

from silhouette_server.gate_rules import CALLS
from silhouette_server.processes.holders import supernode_pem

CONFIGURATION = Path(__file__).parents[2] / "server/deploy/nginx.conf"
NGINX = shutil.which("nginx") or next((one for one in ("/usr/sbin/nginx",) if Path(one).exists()), None)

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here (Debian: apt-get install nginx-light)")


@dataclass
class Front:
    """nginx, what is behind it, and the partners' homes."""

    homes: Homes
    port: int
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def call(
        self, name: str | None, path: str = "/v1/fleet/get-run", *, method: str = "POST", key_of: str | None = None
    ) -> int:
        """Status of one request with a partner's certificate and, unless another's is named, its own key."""
        context = ssl.create_default_context(cafile=str(self.homes.office.folder / "authority.pem"))
        if name is not None:
            node = self.homes.node(name)
            context.load_cert_chain(node.certificate_path, node.client_key_path)
        connection = http.client.HTTPSConnection("localhost", self.port, context=context, timeout=60)
        headers = {"cookie": "a=b"}
        if (owner := key_of or name) is not None:
            headers["flwr-public-key"] = b64encode(self.public(owner)).decode()
        try:
            connection.request(method, path, body=b"hello", headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def public(self, name: str) -> bytes:
        return supernode_pem((self.homes.node(name).folder / "supernode.pub").read_text().strip())


def serial(pem: Path) -> str:
    """As nginx writes it."""
    from cryptography import x509

    number = x509.load_pem_x509_certificate(pem.read_bytes()).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex().upper()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("nginx")
    homes = enrol(folder / "homes", {"north": 30, "south": 20, "west": 10})
    office = homes.office.folder
    port, inner = free_ports(2)
    made = Front(homes, port)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            made.asked.append((self.command, self.path, self.headers.get("cookie")))
            self.send_response(200)
            self.send_header("content-length", "6")
            self.end_headers()
            self.wfile.write(b"answer")

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", inner), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(office / "internal.pem", office / "internal.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    process = _nginx(folder, made, inner)
    yield made
    process.terminate()
    process.wait(60)
    server.shutdown()
    server.server_close()


def _nginx(folder: Path, front: Front, inner: int) -> subprocess.Popen[bytes]:
    """The configuration as it is, with the paths and ports of this test."""
    assert NGINX is not None
    homes, partners = front.homes, folder / "partners.map"
    partners.write_text(
        "".join(
            f'"{serial(homes.node(name).certificate_path)}:{b64encode(front.public(name)).decode()}" 1;\n'
            for name in ("north", "south")  # west was not put into the map
        )
    )
    text = CONFIGURATION.read_text(encoding="utf-8")
    changes = {
        "/var/lib/silhouette/coordinator": str(homes.office.folder),
        "/etc/nginx/silhouette-partners.map": str(partners),
        "listen 9443 ssl": f"listen 127.0.0.1:{front.port} ssl",
        "https://127.0.0.1:9444": f"https://127.0.0.1:{inner}",
        "http {": "http {\n"
        + "".join(
            f"    {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"    access_log {folder}/access.log;\n",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    configuration = folder / "nginx.conf"
    configuration.write_text(f"daemon off;\nuser root;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\n{text}")
    words = [NGINX, "-c", str(configuration), "-p", str(folder)]
    tried = subprocess.run([*words, "-t"], capture_output=True, text=True, check=False, timeout=120)
    assert tried.returncode == 0, tried.stderr
    assert "warn" not in tried.stderr, tried.stderr
    process = subprocess.Popen(words)
    deadline = time.monotonic() + 120
    while True:
        try:
            front.call("north")
        except OSError:
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            front.asked.clear()
            return process


def test_the_ten_calls_of_a_supernode_pass_and_bring_no_cookie(front: Front) -> None:
    front.asked.clear()
    for path in sorted(CALLS):
        assert front.call("north", path) == 200
    assert front.asked == [("POST", path, None) for path in sorted(CALLS)]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-run/more",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/control/list-runs",
        "/openapi.json",
        "/",
    ],
)
def test_nothing_else_reaches_the_superlink(front: Front, path: str) -> None:
    front.asked.clear()
    assert front.call("north", path) == 404
    assert front.asked == []


def test_another_method_does_not(front: Front) -> None:
    front.asked.clear()
    for method in ("GET", "PUT", "DELETE"):
        assert front.call("north", method=method) == 404
    assert front.asked == []


def test_without_a_certificate_with_anothers_key_or_outside_the_map_nobody_passes(front: Front) -> None:
    front.asked.clear()
    assert front.call("north", key_of="south") == 401
    assert front.call("west") == 401
    try:
        status = front.call(None, key_of="north")
    except (ssl.SSLError, ConnectionError, http.client.HTTPException):
        status = 400  # the handshake was refused
    assert status == 400
    assert front.asked == []
