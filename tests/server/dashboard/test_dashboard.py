"""The page: what it shows, what it refuses, and that a browser shows it without a network."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.server.registry.house import PRIVATE
from tests.server.registry.offices import enrolled, run_rounds, shown

from silhouette_server.dashboard.app import make_app
from silhouette_server.enrolment.office import Office
from silhouette_server.registry import RunState
from silhouette_server.registry.home import open_registry
from silhouette_shared.cli import main

HOSTS = ["testserver"]


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o700)
    found = enrolled(home)
    shown(found)
    return found


@pytest.fixture
def client(office: Office) -> Iterator[TestClient]:
    with open_registry(office, write=False) as registry, TestClient(make_app(office, registry, HOSTS)) as client:
        yield client


def words(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_the_first_page_shows_runs_rounds_partners_privacy_and_what_is_promoted(client: TestClient) -> None:
    page = words(client.get("/").text)
    assert "promoted: private-1:4 (number 1)" in page
    assert "24 of 40 begun" in page
    assert "without west" in page
    assert "no end yet" in page
    assert "west missing for 4 rounds 18 of 22 19 343" in page
    assert "north in every round 22 of 22 23 310" in page
    assert re.search(r"ε 6\.\d{3} of 8 promised, mode local", page)
    assert re.search(r"private-1:4 ε 9\.\d{3} with it", page)
    assert "open-1 failed 3 rounds in a row are void" in page
    assert "The coordinator is not started" in page


def test_the_page_draws_convergence_privacy_time_and_traffic_and_asks_for_nothing_else(client: TestClient) -> None:
    page = client.get("/").text
    assert page.count("<svg") == 4
    assert page.count("<polyline") == 5  # privacy has two lines: this run, and the runs before too
    assert re.findall(r"""(?:src|href)=["'](?!/)[^"']*""", page) == []
    assert "<script" not in page
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "prefers-color-scheme: dark" in page


def test_a_run_has_a_page_of_its_own_with_the_reason_of_every_void_round(client: TestClient) -> None:
    page = words(client.get("/runs/longer-1").text)
    assert "training 5: west, mask: no answer; 2 of 3 answered, the threshold is 3" in page
    answer = client.get("/runs/other")
    assert answer.status_code == 404
    assert "expected the name of a run" in answer.text


def test_every_answer_forbids_scripts_and_storing(client: TestClient) -> None:
    for path in ("/", "/runs/longer-1", "/metrics", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed_by_way_of_the_page(client: TestClient, method: str) -> None:
    for path in ("/", "/runs/longer-1", "/metrics"):
        assert client.request(method, path).status_code == 405


def test_another_host_name_is_refused_so_that_no_page_elsewhere_reads_this_one(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_the_numbers_are_those_of_the_registry_and_name_no_person(client: TestClient) -> None:
    answer = client.get("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert lines['silhouette_rounds_total{outcome="committed",run="longer-1"}'] == "22.0"
    assert lines['silhouette_rounds_total{outcome="void",run="longer-1"}'] == "1.0"
    assert lines['silhouette_partner_last_round{partner="west",run="longer-1"}'] == "19.0"
    assert lines['silhouette_epsilon_promised{run="longer-1"}'] == "8.0"
    assert 6 < float(lines['silhouette_epsilon_spent{run="longer-1"}']) < 8
    assert lines['silhouette_runs{state="failed"}'] == "1.0"
    labels = {name for line in lines for name in re.findall(r"(\w+)=", line)}
    assert labels == {"run", "outcome", "state", "partner", "direction"}


def test_the_page_follows_the_registry_while_it_is_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    office = enrolled(tmp_path)
    with open_registry(office, write=False) as registry, TestClient(make_app(office, registry, HOSTS)) as client:
        assert "No run yet" in client.get("/").text
        with open_registry(office, write=True) as writer:
            run = run_rounds(writer, PRIVATE, 2)
            assert "2 of 4 begun" in words(client.get("/").text)
            writer.set_state(run, RunState.stopped, "asked to stop")
        page = client.get("/").text
        assert "asked to stop" in page
        assert '<meta http-equiv="refresh" content="30">' in page


def test_a_registry_that_is_damaged_is_said_instead_of_shown(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    office = enrolled(tmp_path)
    with open_registry(office, write=False) as registry, TestClient(make_app(office, registry, HOSTS)) as client:
        (office.folder / "registry.sqlite").write_bytes(b"no database at all" * 1000)
        for path in ("/", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "expected a whole registry, got a damaged one" in answer.text
            assert answer.headers["cache-control"] == "no-store"


def test_a_taken_port_is_said_with_the_exit_code_for_it(
    office: Office, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = served.rstrip("/").rpartition(":")[2]
    assert main(["coordinator", "dashboard", "--home", str(office.folder.parent), "--port", port]) == 4
    assert "expected a free port to listen on" in capsys.readouterr().err


@pytest.fixture(scope="module")
def served(office: Office) -> Iterator[str]:
    """The address of the page, served by the command in a process of its own."""
    command = [sys.executable, "-c", "import sys; from silhouette_shared.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, "coordinator", "dashboard", "--home", str(office.folder.parent), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(300, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        yield address
    finally:
        timer.cancel()
        process.terminate()
        assert process.wait(60) in (0, -15)


def test_a_browser_shows_the_page_in_light_and_dark(served: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium; the other tests here read the page without one")
    kept = Path(os.environ.get("SILHOUETTE_TEST_SCREENSHOTS", tmp_path))  # CI keeps them
    kept.mkdir(parents=True, exist_ok=True)
    corners = {}
    for scheme, setting in (("light", "1"), ("dark", "0")):
        picture = kept / f"dashboard-{scheme}.png"
        finished = subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",  # where it is small, Chromium would crash at times
                "--hide-scrollbars",
                f"--user-data-dir={tmp_path / scheme}",
                f"--blink-settings=preferredColorScheme={setting}",
                "--window-size=1280,1500",
                f"--screenshot={picture}",
                "--enable-logging=stderr",
                served,
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        assert "Refused to" not in finished.stderr  # the page obeys its own content security policy
        corners[scheme] = corner(picture)
        assert picture.stat().st_size > 60_000  # far more than an empty page takes
    assert corners == {"light": "#fbfbf9", "dark": "#15171a"}


def corner(picture: Path) -> str:
    """Colour of a PNG's first pixel, of which the filters of the format leave the value as it is."""
    data, at, packed = picture.read_bytes(), 8, b""
    assert struct.unpack(">II", data[16:24]) == (1280, 1500)
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    return "#" + zlib.decompressobj().decompress(packed, 4)[1:4].hex()
