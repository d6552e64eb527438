"""Starts processes, watches them, starts again what dies or hangs, and ends them in order."""

import ctypes
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from silhouette_shared.errors import UnavailableError
from silhouette_shared.supervision.heartbeat import VARIABLE, read_beat
from silhouette_shared.supervision.logs import LogFile
from silhouette_shared.supervision.service import Port, Restarts, Service
from silhouette_shared.supervision.status import (
    ServiceStatus,
    Status,
    only_one,
    resident_bytes,
    write_status,
)

_LOG = logging.getLogger(__name__)

_LEAST_ROOM = 64 * 2**20  # bytes; logs, ledger and checkpoints need some
_LOOK_SECONDS = 0.1
_TELL_SECONDS = 2.0
_HEALTH_SECONDS = 10.0
_HEALTH_FAILURES = 3
_FREED_SECONDS = 3.0  # in which the processes of a supervisor that was killed are gone
_TIME_TO_START = 120.0  # for the first heartbeat of a process that imports torch on a busy machine
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in linux/prctl.h

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Watched:
    """One process and what is known of it."""

    service: Service
    log: LogFile
    beat: Path
    restarts: Restarts
    process: subprocess.Popen[bytes] | None = None
    since: float = field(default_factory=time.monotonic)
    next_start: float = 0.0
    reason: str = ""
    next_health: float = 0.0
    failed_health: int = 0
    well: bool = False  # since the start; a process that never was may still be starting

    @property
    def state(self) -> str:
        if self.process is None:
            return "waiting" if self.next_start else "stopped"
        return "running" if self.well else "starting"


class Supervisor:
    """Keeps services alive until it is asked to stop.

    Args:
        role: `coordinator` or `node`, for messages.
        folder: For status, heartbeats and the lock; made if missing.
        logs: Folder for the services' logs; made if missing.
        services: In the order of their start; they end in the other order.
        prepare: Called once, when it is certain that nobody else runs these services.
    """

    def __init__(
        self,
        role: str,
        folder: Path,
        logs: Path,
        services: Sequence[Service],
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._role, self._folder, self._prepare = role, folder, prepare
        for place in (folder, logs):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._watched = [
            _Watched(
                service=service,
                log=LogFile(logs / f"{service.name}.jsonl", service.name),
                beat=folder / f"{service.name}.beat",
                restarts=Restarts(longest=service.longest_pause),
            )
            for service in services
        ]
        self._stop = threading.Event()
        self._told = 0.0

    def request_stop(self) -> None:
        """End everything soon; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Keep the services alive until `request_stop`, then end them.

        Raises:
            UnavailableError: If another supervisor holds the folder, a port is taken or the disk is full; nothing was
                started.
        """
        with ExitStack() as logs, only_one(self._folder, self._role):
            for watched in self._watched:
                logs.callback(watched.log.close)
            _require_room(self._folder)
            _require_ports(port for watched in self._watched for port in watched.service.ports)
            self._prepare()
            try:
                for watched in self._watched:
                    self._start(watched)
                while not self._stop.wait(_LOOK_SECONDS):
                    for watched in self._watched:
                        self._look(watched)
                    self._tell()
            finally:
                self._end_all()

    def _start(self, watched: _Watched) -> None:
        service = watched.service
        watched.beat.unlink(missing_ok=True)
        environment = {**os.environ, **service.environment}
        if service.beats:
            environment[VARIABLE] = str(watched.beat)
        try:
            process = subprocess.Popen(
                service.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C reaches the supervisor alone, which ends all in order
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            self._ended(watched, f"could not be started: {error.strerror}", lasted=0.0)
            return
        threading.Thread(target=_drain, args=(process, watched.log), daemon=True).start()
        watched.process, watched.well = process, False
        watched.since = time.monotonic()
        watched.next_health, watched.failed_health = watched.since + 1.0, 0
        _LOG.info("%s started with process id %d", service.name, process.pid)

    def _look(self, watched: _Watched) -> None:
        now = time.monotonic()
        process = watched.process
        if process is None:
            if watched.next_start and now >= watched.next_start:
                self._start(watched)
            return
        code = process.poll()
        if code is not None:
            self._ended(watched, _reason(watched.service, code), lasted=now - watched.since)
            return
        hang = self._hangs(watched, now)
        if hang:
            _kill_group(process)
            process.wait()
            self._ended(watched, hang, lasted=now - watched.since)

    def _hangs(self, watched: _Watched, now: float) -> str:
        """Why this process counts as hanging; empty if it does not."""
        service = watched.service
        if service.beats:
            beat = read_beat(watched.beat)
            if beat is None:
                late = now - watched.since - _TIME_TO_START
                return f"gave no sign of life within {_TIME_TO_START:.0f} s of its start" if late > 0 else ""
            watched.well = True
            late = beat.overdue(now)
            return f"hung: a sign of life was expected {late:.0f} s ago" if late > 0 else ""
        if service.health is None:
            watched.well = True
            return ""
        if now < watched.next_health:
            return ""
        watched.next_health = now + (_HEALTH_SECONDS if watched.well else 1.0)
        if service.health():
            watched.well, watched.failed_health = True, 0
            return ""
        watched.failed_health += 1
        started_long_ago = now - watched.since > _TIME_TO_START
        if (watched.well and watched.failed_health >= _HEALTH_FAILURES) or (not watched.well and started_long_ago):
            return f"hung: {watched.failed_health} health checks in a row failed"
        return ""

    def _ended(self, watched: _Watched, reason: str, lasted: float) -> None:
        pause = watched.restarts.pause(lasted)
        now = time.monotonic()
        watched.process, watched.reason = None, reason
        watched.since, watched.next_start = now, now + pause
        _LOG.warning("%s %s; starting it again in %.1f s", watched.service.name, reason, pause)
        self._told = 0.0

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < _TELL_SECONDS:
            return
        self._told = now
        try:
            write_status(self._folder, self.status())
        except OSError as error:
            _LOG.error("the status could not be written: %s", error.strerror)

    def status(self) -> Status:
        """How everything is now."""
        now = time.monotonic()
        return Status(
            role=self._role,
            pid=os.getpid(),
            services=tuple(
                ServiceStatus(
                    name=watched.service.name,
                    state=watched.state,
                    pid=None if watched.process is None else watched.process.pid,
                    seconds=round(now - watched.since, 1),
                    restarts=watched.restarts.total,
                    reason=watched.reason,
                    memory=0 if watched.process is None else resident_bytes(watched.process.pid),
                )
                for watched in self._watched
            ),
        )

    def _end_all(self) -> None:
        for watched in reversed(self._watched):
            process = watched.process
            watched.next_start = 0.0
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(watched.service.grace_seconds)
            except subprocess.TimeoutExpired:
                _LOG.warning("%s did not end when asked, it is killed", watched.service.name)
            _kill_group(process)
            process.wait()
            watched.process = None
            _LOG.info("%s ended", watched.service.name)
        (self._folder / "status.json").unlink(missing_ok=True)


def _die_with_parent() -> None:
    """Between fork and exec: the kernel ends this process when the supervisor is gone, however it went."""
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)


def _drain(process: subprocess.Popen[bytes], log: LogFile) -> None:
    """Everything that a process writes, until it ends; never lets it wait for a full pipe."""
    stream = process.stdout
    if stream is None:
        return
    with stream:
        for line in stream:
            log.write(line.decode("utf-8", errors="replace"))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except PermissionError:  # what is left of the group is not ours to end
        process.kill()


def _reason(service: Service, code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    meaning = service.exits.get(code)
    return f"ended with code {code}" + (f": {meaning}" if meaning else "")


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _LEAST_ROOM:
        raise UnavailableError(
            f"{folder}: expected at least {_LEAST_ROOM >> 20} MiB of free disk, found {free >> 20}; free some and "
            "start again"
        )


def _require_ports(ports: Iterable[Port]) -> None:
    until = time.monotonic() + _FREED_SECONDS
    for port in ports:
        while (problem := _taken(port)) is not None and problem.errno == errno.EADDRINUSE and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        if problem is not None:
            taken = problem.errno == errno.EADDRINUSE
            raise UnavailableError(
                f"expected {port.host}:{port.number} to be free, "
                f"{'another program listens there' if taken else problem.strerror}; "
                f"end it, or change {port.setting}"
            )


def _taken(port: Port) -> OSError | None:
    """Why nobody can listen there now; None if one can."""
    with socket.socket(socket.AF_INET6 if ":" in port.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError as error:
            return error
    return None
