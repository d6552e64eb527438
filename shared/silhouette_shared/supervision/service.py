"""What a supervisor keeps alive, and when it tries again: calculation alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
STEADY_AFTER = 30.0


OUR_EXITS: Mapping[int, str] = {
    1: "unexpected, its log says where",
    2: "something is missing or wrong, its log says what",
    3: "refused, its log says why",
    4: "something it needs is not available, its log says what",
    5: "something is damaged, its log says what",
}
"""What our own programs end with."""


@dataclass(frozen=True)
class Port:
    """A TCP port that a service listens on."""

    host: str
    number: int
    setting: str  # what to change if it is taken, as in `gate.port in config.toml`


@dataclass(frozen=True)
class Service:
    """One process.

    Attributes:
        name: In logs and status.
        command: Program and arguments.
        environment: Added to the supervisor's.
        ports: What it listens on; a taken one is refused before anything starts.
        beats: Whether it writes a heartbeat file; one that is silent for longer than it said is killed.
        health: Says whether it is well, within seconds, for programs that write no heartbeat file.
        grace_seconds: Between the request to end and the kill.
        longest_pause: Between two starts.
        exits: What a code means, for the log and the status.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    beats: bool = False
    health: Callable[[], bool] | None = None
    grace_seconds: float = 10.0
    longest_pause: float = LONGEST_PAUSE
    exits: Mapping[int, str] = field(default_factory=dict)


@dataclass
class Restarts:
    """How long to wait before a process is started again: twice as long each time, from the start after a steady run.

    >>> restarts = Restarts()
    >>> [restarts.pause(lasted=1.0) for _ in range(4)]
    [0.5, 1.0, 2.0, 4.0]
    >>> restarts.pause(lasted=60.0)
    0.5
    """

    longest: float = LONGEST_PAUSE
    in_a_row: int = 0
    total: int = 0

    def pause(self, lasted: float) -> float:
        """Seconds to wait after a process that lasted so long has ended."""
        if lasted >= STEADY_AFTER:
            self.in_a_row = 0
        seconds = min(self.longest, FIRST_PAUSE * 2.0 ** min(self.in_a_row, 16))
        self.in_a_row += 1
        self.total += 1
        return seconds
