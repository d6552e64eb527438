"""Progress on standard error: bars where somebody watches, lines where a file does."""

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 5.0


class ConsoleProgress:
    """Shows each training; safe to be told from several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._labels: dict[str, tuple[str, int]] = {}
        self._last_line: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[quality]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "ConsoleProgress":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str, label: str, rounds: int) -> None:
        """A bar for a training."""
        with self._lock:
            self._labels[name] = (label, rounds)
            self._tasks[name] = self._bars.add_task(label, total=rounds, quality="")
        if not self._console.is_terminal:
            self.say(f"{label}: {rounds} rounds")

    def advance(self, name: str, round_number: int, ndcg: float | None) -> None:
        """One round further."""
        label, rounds = self._labels[name]
        with self._lock:
            self._bars.update(self._tasks[name], completed=round_number)
            if ndcg is not None:
                self._bars.update(self._tasks[name], quality=f"NDCG@10 {ndcg:.3f}")
            now = time.monotonic()
            due = now - self._last_line.get(name, 0.0) >= _SECONDS_BETWEEN_LINES
            if due or round_number == rounds:
                self._last_line[name] = now
        if not self._console.is_terminal and (due or round_number == rounds):
            quality = "" if ndcg is None else f", NDCG@10 {ndcg:.3f}"
            self.say(f"{label}: round {round_number} of {rounds}{quality}")

    def end(self, name: str) -> None:
        """The bar stays where it is."""
