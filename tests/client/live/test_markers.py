"""Planted markers in what a serving node writes and sends: files, write-ahead logs, temporary files, log, packets."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.authority import Authority
from tests.profiled import Profiled

from silhouette_client.ingest.records import FOLDER
from silhouette_client.profiles.keys import KEYS_NAME, KeyFile, read_keyring
from silhouette_client.profiles.store import STORE_NAME
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving.client import ProfileClient
from silhouette_client.serving.service import NoProfileError

USER, TEXT, EVENT, ITEM = "marked-user-5e1b", "marked-text-77aa", "marked-id-c0de", "marked-item-04f2"
GRANTS = '[clients.shop]\nroles = ["tags", "vectors", "write", "erase"]\n'
SCRIPT = "from silhouette_shared.cli import main; raise SystemExit(main())"
ETH_P_ALL = 3


class Sniffer:
    """Every byte that passes the loopback interface while it listens; needs CAP_NET_RAW."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 25)
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._stop, self._seen = threading.Event(), bytearray()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Sniffer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        dropped = struct.unpack("II", self._socket.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
        self._socket.close()
        assert dropped == 0, "packets passed that were not looked at"

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                self._seen += self._socket.recv(1 << 17)
            except TimeoutError:
                continue

    def seen(self) -> bytes:
        self._stop.wait(0.5)  # what was sent is in the socket's queue
        return bytes(self._seen)


@contextmanager
def served(home: Path, tls: Path, temporary: Path, log: Path) -> Iterator[int]:
    """The command as a process; gives its port and ends it as an operator does."""
    temporary.mkdir(exist_ok=True)
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [
                *(sys.executable, "-c", SCRIPT, "profile", "serve", "--home", str(home)),
                *("--address", "localhost:0", "--tls", str(tls)),
            ],
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        ) as process,
    ):
        try:
            for _ in range(600):
                if b"answering" in log.read_bytes() or process.poll() is not None:
                    break
                threading.Event().wait(0.1)
            text = log.read_text(encoding="utf-8")
            assert " and port " in text, text
            yield int(text.rsplit(" and port ", 1)[1].split(";")[0].split()[0])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "AF_PACKET") or os.geteuid() != 0, reason="capturing packets needs root")
def test_planted_markers_are_in_no_packet_no_file_and_no_log_of_a_serving_node(tmp_path: Path) -> None:
    node = Profiled(tmp_path)
    node.promote(1)
    (node.home / "serving.toml").write_text(GRANTS, encoding="utf-8")
    Vault.open(node.home, make=KeyFile()).close()
    authority, tls = Authority("partner"), tmp_path / "tls"
    server, shop = authority.issue("localhost"), authority.issue("shop")
    tls.mkdir()
    for name, content in (
        ("server.pem", server.certificate),
        ("server.key", server.key),
        ("clients.pem", authority.pem),
    ):
        (tls / name).write_bytes(content)
    log, temporary = tmp_path / "service.log", tmp_path / "temporary"
    with Sniffer() as sniffer, served(node.home, tls, temporary, log) as port:
        address = f"localhost:{port}"
        with ProfileClient.over_tls(
            address, authority=authority.pem, certificate=shop.certificate, key=shop.key, timeout_seconds=60
        ) as client:
            events = [
                pb.Event(user=USER, item=f"i{k}", behaviour="review", timestamp=1_750_000_000 + k, id=f"{EVENT}-{k}")
                for k in range(1, 6)
            ]
            for event in events:
                event.text = TEXT
            assert client.push(events).profiles == 1
            unknown = pb.Event(user=USER, item=ITEM, behaviour="view", timestamp=1_750_000_009)
            assert client.push([unknown]).unknown_items == 1
            found = client.profile(USER)
            titles = [one.title for one in client.recommend(USER, 5).items]  # public, but whose they are is not
            vector = np.asarray(found.vector, dtype="<f4").tobytes()
            assert len(vector) == 4 * len(found.vector) > 0
            assert all(title.startswith("The title of item") for title in titles)
            keyring, _ = read_keyring(node.home / KEYS_NAME)
            keys = [keyring.person, keyring.audit, *keyring.wrapping.values()]
            personal = [*(word.encode() for word in (USER, TEXT, EVENT, ITEM)), vector, vector[:32]]
            wal = [node.home / f"{STORE_NAME}-wal", *(node.home / FOLDER).glob("*-wal")]
            assert sum(path.stat().st_size for path in wal) > 0, "looked at while it is in use"
            secret = [*personal, *keys, *(key.hex().encode() for key in keys)]
            assert found_in(node.home, tmp_path, secret) == []
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
                plain.sendto(b"marked-plain-0001", ("127.0.0.1", 9))
            packets = sniffer.seen()
            assert b"marked-plain-0001" in packets, "what is sent in clear is seen"
            assert port.to_bytes(2, "big") in packets
            assert [one for one in (*secret, *(title.encode() for title in titles)) if one in packets] == []
            client.erase(USER)
            with pytest.raises(NoProfileError):
                client.profile(USER)
            with pytest.raises(NoProfileError):
                client.recommend(USER)
            assert client.push(events).left_out == len(events)
            assert found_in(node.home, tmp_path, secret) == []
    words = log.read_bytes()
    assert [one for one in (*secret, *(title.encode() for title in titles)) if one in words] == []


def found_in(home: Path, folder: Path, secret: list[bytes]) -> list[Path]:
    """Files of the node and of its temporary folder in which one of these can be read."""
    found = []
    for path in [*home.rglob("*"), *(folder / "temporary").rglob("*"), folder / "service.log"]:
        if path.is_file():
            content = path.read_bytes()
            if any(one in content for one in secret):
                found.append(path)
    return found
