"""Processes that carry out the runs of a sweep, one run at a time each.

A worker is started when it is first needed and serves many runs, because loading torch takes seconds. One that dies
(out of memory, killed) costs its run and is replaced. Workers end with the process that started them, however that
one ended: a sweep that is killed leaves nobody working in its run folders.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from silhouette_shared.cli import is_full_disk
from silhouette_shared.closing import Closing
from silhouette_shared.config import Plan
from silhouette_shared.errors import (
    IntegrityError,
    RefusedError,
    SilhouetteError,
    UnavailableError,
    UsageError,
)
from silhouette_simulations.environment import environment
from silhouette_simulations.progress import Progress

_KINDS: Mapping[int, type[SilhouetteError]] = {
    kind.exit_code: kind for kind in (SilhouetteError, UsageError, RefusedError, UnavailableError, IntegrityError)
}


@dataclass(frozen=True)
class Task:
    """One run, as it is sent to a worker."""

    plan: Plan
    folder: Path
    home: Path
    device: str
    cores: int


class WorkerPool(Closing):
    """Worker processes, at most as many as there are callers of `run` at the same time.

    Args:
        cores: Of each worker.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, task: Task, progress: Progress) -> None:
        """Carry out a run in a worker and wait for its end.

        Raises:
            SilhouetteError: What the run raised, or UnavailableError if its worker died.
        """
        worker = self._take()
        try:
            worker.run(task, progress)
        except _WorkerDiedError as error:
            with self._lock:
                self._all.discard(worker)
            raise UnavailableError(f"the process of this run ended ({error}); it goes on with --resume") from None
        finally:
            if worker.alive:
                self._idle.put(worker)

    def close(self) -> None:
        """End every worker, also in the middle of a run."""
        with self._lock:
            self._closed = True
            workers = list(self._all)
        for worker in workers:
            worker.end()

    def _take(self) -> "_Worker":
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                if self._closed:
                    raise UnavailableError("the sweep was interrupted") from None
                worker = _Worker(self._cores)
                self._all.add(worker)
            return worker


class _WorkerDiedError(Exception):
    """A worker is gone; the text says how."""


class _Worker:
    def __init__(self, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(there,), daemon=True)
        with environment({"OMP_NUM_THREADS": str(cores)}):  # for the libraries that a worker loads
            self._process.start()
        there.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def run(self, task: Task, progress: Progress) -> None:
        try:
            self._here.send(task)
            while True:
                match self._here.recv():
                    case ("done",):
                        return
                    case ("failed", int(code), str(message)):
                        raise _KINDS.get(code, SilhouetteError)(message)
                    case ("say" | "begin" | "advance" | "end" as event, *arguments):
                        getattr(progress, event)(*arguments)
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            raise _WorkerDiedError(f"signal {-code}" if code < 0 else f"exit code {code}") from None

    def end(self) -> None:
        self._process.kill()
        self._process.join()


class _Sender:
    """Progress that tells the sweep; safe from several threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        self.send("say", text)

    def begin(self, name: str, label: str, rounds: int) -> None:
        self.send("begin", name, label, rounds)

    def advance(self, name: str, round_number: int, ndcg: float | None) -> None:
        self.send("advance", name, round_number, ndcg)

    def end(self, name: str) -> None:
        self.send("end", name)

    def send(self, *message: object) -> None:
        with self._lock:
            self._connection.send(message)


def _serve(connection: Connection) -> None:
    """What a worker process does."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - this is the target of a Process

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the sweep, which ends its workers
    from silhouette_shared.allocator import keep_freed_memory

    keep_freed_memory()
    sender = _Sender(connection)
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        try:
            _run(task, sender)
        except SilhouetteError as error:
            sender.send("failed", error.exit_code, str(error))
        except Exception as error:  # noqa: BLE001 - the worker goes on with the next run
            if is_full_disk(error):
                sender.send("failed", UnavailableError.exit_code, "the disk is full; free some")
            else:
                reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
                sender.send("failed", SilhouetteError.exit_code, reason)
        else:
            sender.send("done")


def _run(task: Task, progress: Progress) -> None:
    """The same as `silhouette sim run`, in a folder that exists."""
    import torch

    from silhouette_simulations import datasets
    from silhouette_simulations.run_folder import RunFolder
    from silhouette_simulations.runner import run
    from silhouette_simulations.training import Machine

    dataset = datasets.load(task.plan.data.dataset, home=task.home)
    machine = Machine(backend="process", device=torch.device(task.device), workers=task.cores)
    run(task.plan, dataset, RunFolder(task.folder), machine, progress)
