"""Real processes that die, hang and end, and what the supervisor makes of it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from silhouette_shared.errors import UnavailableError
from silhouette_shared.supervision import Port, Service, Status, Supervisor, read_status
from silhouette_shared.supervision import supervisor as module
from silhouette_shared.supervision.service import Restarts
from silhouette_shared.supervision.status import LOCK, document, lines

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
BEAT_ONCE = (
    sys.executable,
    "-c",
    "import json, os, time\n"
    "open(os.environ['SILHOUETTE_HEARTBEAT'], 'w').write(json.dumps({'at': time.monotonic(), 'patience': 0.3}))\n"
    "time.sleep(60)",
)


@contextmanager
def running(folder: Path, *services: Service) -> Iterator[Supervisor]:
    supervisor = Supervisor("node", folder / "work", folder / "logs", services)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.request_stop()
        thread.join(60)
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def pid_of(supervisor: Supervisor, name: str) -> int | None:
    return next(service.pid for service in supervisor.status().services if service.name == name)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def logged(folder: Path, name: str) -> list[dict[str, object]]:
    whole = (folder / "logs" / f"{name}.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole]


def said(folder: Path, name: str) -> list[object]:
    return [line["message"] for line in logged(folder, name)]


def test_a_killed_process_is_started_again_with_its_reason_in_the_status(tmp_path: Path) -> None:
    with running(tmp_path, Service(name="gate", command=SLEEP)) as supervisor:
        wait_for(lambda: supervisor.status().healthy and said(tmp_path, "gate") == ["up"])
        first = pid_of(supervisor, "gate")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: pid_of(supervisor, "gate") not in (None, first))
        (status,) = supervisor.status().services
        assert status.restarts == 1
        assert status.reason == "was ended by signal 9 (SIGKILL)"
        wait_for(lambda: said(tmp_path, "gate") == ["up", "up"])


def test_a_process_without_a_sign_of_life_is_killed_and_started_again(tmp_path: Path) -> None:
    with running(tmp_path, Service(name="agent", command=BEAT_ONCE, beats=True)) as supervisor:
        wait_for(lambda: supervisor.status().services[0].restarts >= 1)
        assert "hung: a sign of life was expected" in supervisor.status().services[0].reason


def test_a_process_whose_health_checks_fail_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HEALTH_SECONDS", 0.05)
    answers = iter([True, True])
    service = Service(name="superlink", command=SLEEP, health=lambda: next(answers, False))
    with running(tmp_path, service) as supervisor:
        wait_for(lambda: supervisor.status().services[0].restarts >= 1)
        assert supervisor.status().services[0].reason == "hung: 3 health checks in a row failed"


def test_what_an_exit_code_means_is_in_the_status(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit(49)")
    with running(tmp_path, Service(name="supernode", command=command, exits={49: "still connected"})) as supervisor:
        wait_for(lambda: supervisor.status().services[0].restarts >= 1)
        assert supervisor.status().services[0].reason == "ended with code 49: still connected"


def test_a_program_that_is_not_there_is_tried_again_and_spoils_no_other(tmp_path: Path) -> None:
    missing = Service(name="superlink", command=(str(tmp_path / "nothing"),))
    with running(tmp_path, missing, Service(name="gate", command=SLEEP)) as supervisor:
        wait_for(lambda: pid_of(supervisor, "gate") is not None)
        assert "could not be started: No such file" in supervisor.status().services[0].reason
        assert not supervisor.status().healthy


def test_everything_ends_when_asked_and_a_process_that_does_not_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    deaf = Service(name="deaf", command=(sys.executable, "-c", stubborn), grace_seconds=0.3)
    with running(tmp_path, Service(name="gate", command=SLEEP), deaf) as supervisor:
        wait_for(lambda: (tmp_path / "logs/deaf.jsonl").exists() and bool(logged(tmp_path, "deaf")))
        pids = [pid_of(supervisor, name) for name in ("gate", "deaf")]
    assert all(pid is not None and is_gone(pid) for pid in pids)
    assert read_status(tmp_path / "work") is None


def test_a_killed_supervisor_takes_its_processes_along(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from silhouette_shared.supervision import Service, Supervisor\n"
        f"Supervisor('node', Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), [Service(name='gate', "
        "command=(sys.executable, '-c', 'import time; time.sleep(60)'))]).run()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    found: list[Status] = []

    def told() -> bool:
        status = read_status(tmp_path)
        if status is not None and status.healthy:
            found.append(status)
        return bool(found)

    wait_for(told)
    pid = found[0].services[0].pid
    assert pid is not None
    assert not is_gone(pid)
    process.kill()
    process.wait()
    wait_for(lambda: is_gone(pid))
    assert read_status(tmp_path) is None


def test_a_second_supervisor_of_the_same_home_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, Service(name="gate", command=SLEEP)) as supervisor:
        wait_for(lambda: supervisor.status().healthy)
        second = Supervisor("node", tmp_path / "work", tmp_path / "logs", [])
        with pytest.raises(UnavailableError, match="expected no other `silhouette node start` for this home"):
            second.run()


def test_a_supervisor_starts_while_somebody_asks_for_its_status(tmp_path: Path) -> None:
    """Asking takes the lock for a moment, and may be interrupted in it."""
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / LOCK).open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, [asking, fcntl.LOCK_UN]).start()
        with running(tmp_path, Service(name="gate", command=SLEEP)) as supervisor:
            wait_for(lambda: supervisor.status().healthy)


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        service = Service(name="gate", command=SLEEP, ports=(Port("127.0.0.1", number, "`port` in config.toml"),))
        with pytest.raises(
            UnavailableError,
            match=f"expected 127.0.0.1:{number} to be free, another program listens there; end it, or change `port`",
        ):
            Supervisor("node", tmp_path, tmp_path, [service]).run()
    assert not (tmp_path / "gate.jsonl").read_text()


def test_a_port_that_is_freed_soon_is_waited_for(tmp_path: Path) -> None:
    """As after a kill of the supervisor before: its processes end a moment later."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = Port("127.0.0.1", taken.getsockname()[1], "`port` in config.toml")
        threading.Timer(0.3, taken.close).start()
        with running(tmp_path, Service(name="gate", command=SLEEP, ports=(port,))) as supervisor:
            wait_for(lambda: supervisor.status().healthy)


def test_a_full_disk_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_ROOM", 2**62)
    with pytest.raises(UnavailableError, match=r"MiB of free disk, found .*; free some and start again"):
        Supervisor("node", tmp_path, tmp_path, [Service(name="gate", command=SLEEP)]).run()


def test_pauses_double_up_to_the_longest_and_begin_again_after_a_steady_run() -> None:
    restarts = Restarts(longest=3.0)
    assert [restarts.pause(1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert restarts.pause(31.0) == 0.5
    assert restarts.total == 6


def test_the_status_of_a_home_where_nothing_runs_says_so(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    assert document(None) == []
    assert lines(None) == ["  not running"]
