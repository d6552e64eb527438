"""The ServerApp of a deployment: takes the runs of the registry one after the other and conducts their rounds.

It runs installed code alone, and it may be killed at any moment: the registry says which runs are to go on, its book
of rounds and the checkpoint at which round.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from flwr.app import Message

from silhouette_server.coordination.book import RoundBook, StopRequestedError
from silhouette_server.coordination.federation import CheckedStrategy
from silhouette_server.coordination.handing_out import HandingOut, Promoted
from silhouette_server.coordination.job import Beside
from silhouette_server.enrolment.office import Office
from silhouette_server.processes.holders import supernode_pem
from silhouette_server.runs import fewest_of, introduction_of, nodes_of, open_run, read_offer
from silhouette_server.superlink import Door, LineLostError, PollingGrid, Superlink
from silhouette_shared.errors import SilhouetteError, UnavailableError
from silhouette_shared.model.vector import Layout
from silhouette_shared.supervision import Heart
from silhouette_shared.wire import WireError
from silhouette_shared.wire.offers import ROSTER, RosterHeld, RosterNotice

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5  # between two looks for work
_PATIENCE = 300.0  # seconds without a sign of life that a step between two of them may take
_ROSTER_SECONDS = 30.0
_NEWS_SECONDS = 3.0  # between two looks for nodes that do not hold the promoted model
_AGAIN_SECONDS = 2.0  # after a failure of the SuperLink


class RunStore(Protocol):
    """What the conductor asks of the registry."""

    def next_run(self) -> str | None:
        """The oldest run that is to go on."""
        ...

    def started(self, run: str) -> None:
        """It goes on now."""
        ...

    def ended(self, run: str, state: str, reason: str) -> None:
        """It completed, stopped or failed."""
        ...

    def stop_requested(self, run: str) -> bool:
        """Whether somebody asked it to stop."""
        ...

    def book(self, run: str, layout: Layout, before: Callable[[], None]) -> RoundBook:
        """Where its rounds are committed; `before` is called before each begins."""
        ...

    def promoted(self) -> Promoted | None:
        """The promoted model as nodes get it; None before the first promotion."""
        ...

    def beside(self, run: str, layout: Layout) -> Beside | None:
        """The promoted model, to be evaluated beside the run's; None if it cannot be."""
        ...


class Conductor:
    """Conducts runs until it is asked to end.

    Args:
        office: The coordinator's keys and roster.
        door: To the SuperLink.
        store: Of runs.
        heart: Told that this process lives.
    """

    def __init__(self, office: Office, door: Door, store: RunStore, heart: Heart | None = None) -> None:
        self._office, self._door, self._store = office, door, store
        self._heart = heart or Heart(None)
        self._enrolled = b""
        self._handing_out = HandingOut(store.promoted)
        self._looked = -_NEWS_SECONDS

    @property
    def _runs(self) -> Path:
        return self._office.folder / "runs"

    def serve(self, stop: threading.Event) -> None:
        """Take one run after the other until `stop`."""
        self._stop = stop
        superlink = Superlink(self._door)
        try:
            while not stop.is_set():
                self._heart.beat()
                try:
                    self._keep_enrolled(superlink)
                    run = self._store.next_run()
                    if run is not None:
                        self._conduct(run, superlink)
                    else:
                        self._hand_out(superlink)
                except UnavailableError as error:
                    # The SuperLink is being started, or the disk is full: it is asked again until it is mended.
                    _LOG.warning("%s", error)
                    self._enrolled = b""
                    stop.wait(_AGAIN_SECONDS)
                stop.wait(_LOOK_SECONDS)
        finally:
            superlink.close()

    def _keep_enrolled(self, superlink: Superlink) -> None:
        """The SuperLink knows the keys of the roster's active members, and no others."""
        data = self._office.roster_bytes()
        if data == self._enrolled:
            return
        roster = self._office.roster()
        superlink.enrol({supernode_pem(member.supernode_public) for member in roster.active.values()})
        self._enrolled = data
        _LOG.info("the SuperLink knows the %d active members of roster %d", len(roster.active), roster.version)

    def _hand_out(self, superlink: Superlink) -> None:
        """The promoted model to whoever is connected and does not hold it; between runs."""
        if time.monotonic() - self._looked < _NEWS_SECONDS or not self._handing_out.number():
            return
        self._looked = time.monotonic()
        owners = {supernode_pem(one.supernode_public): name for name, one in self._office.roster().active.items()}
        there = {node: owners[key] for key, (node, online) in superlink.nodes().items() if online and key in owners}
        waiting = self._handing_out.waiting(there)
        if waiting:
            with superlink.line() as grid:
                grid.on_wait = self._still_here
                self._handing_out.tell(grid, waiting)

    def _still_here(self) -> None:
        self._heart.beat(_PATIENCE)
        if self._stop.is_set():
            raise UnavailableError("the coordinator ends; the promoted model goes out when it is back")

    def _conduct(self, run: str, superlink: Superlink) -> None:
        """One run to its end, to a stop, or to the end of this line to the nodes."""
        _LOG.info("run %s goes on", run)
        self._store.started(run)
        try:
            self._rounds(run, superlink)
        except _EndingError:
            _LOG.info("run %s goes on when the coordinator is back", run)
        except StopRequestedError as error:
            self._store.ended(run, "stopped", str(error))
        except LineLostError as error:
            _LOG.warning("run %s goes on with a new line to the nodes: %s", run, error)
            raise
        except UnavailableError as error:
            # Too few partners: resumable, and nothing here can bring them back.
            self._store.ended(run, "stopped", str(error))
            _LOG.error("run %s stopped: %s", run, error)
        except SilhouetteError as error:
            self._store.ended(run, "failed", f"{type(error).__name__}: {error}")
            _LOG.error("run %s failed: %s", run, error)
        except Exception as error:
            # Ended here, or the next process would take it up and fail again, and no other run would get its turn.
            self._store.ended(run, "failed", f"unexpected {type(error).__name__}; the log of serverapp says where")
            raise
        else:
            self._store.ended(run, "completed", "")
            _LOG.info("run %s is complete", run)

    def _rounds(self, run: str, superlink: Superlink) -> None:
        folder = self._runs / run
        job = open_run(self._office, folder)
        offer = read_offer(self._office, folder)
        roster_bytes, roster = self._office.roster_bytes(), self._office.roster()

        promoted = self._handing_out.number()

        def check_news() -> None:
            if self._office.roster_bytes() != roster_bytes:
                raise LineLostError("the roster has changed; the partners are told before the next round")
            if self._handing_out.number() != promoted:
                raise LineLostError("another model is promoted; the partners get it before the next round")

        book = self._store.book(run, job.layout, check_news)
        names = nodes_of(offer, roster, superlink.nodes())
        with superlink.line() as grid:
            grid.on_wait = self._watch(run, book)
            self._tell_roster(grid, names, roster_bytes)
            self._handing_out.tell(grid, {node: names[node] for node in names if node in set(grid.get_node_ids())})
            introduction = introduction_of(folder, names, fewest_of(job))
            conducted = replace(
                job, book=book, introduction=introduction, beside=lambda: self._store.beside(run, job.layout)
            )
            CheckedStrategy(conducted).start(grid)

    def _tell_roster(self, grid: PollingGrid, names: Mapping[int, str], roster: bytes) -> None:
        """The newest roster to whoever is connected: it is what peers learn a revocation from."""
        there = set(names) & set(grid.get_node_ids())
        notice = RosterNotice(roster).encode()
        messages = [Message(notice, dst_node_id=node, message_type=ROSTER) for node in sorted(there)]
        for reply in grid.send_and_receive(messages, timeout=_ROSTER_SECONDS):
            name = names[reply.metadata.src_node_id]
            if reply.has_error():
                _LOG.warning("%s was not told the roster: %s", name, reply.error.reason)
                continue
            try:
                held = RosterHeld.decode(reply.content)
            except WireError as error:
                _LOG.warning("%s did not say which roster it holds: %s", name, error)
                continue
            if held.refusal:
                _LOG.warning("%s keeps roster %d: %s", name, held.version, held.refusal)

    def _watch(self, run: str, book: RoundBook) -> Callable[[], None]:
        """A sign of life, a stop while no round is open, and the end of this process between two questions."""
        last = 0.0

        def watch() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < 1.0:
                return
            last = now
            self._heart.beat(_PATIENCE)
            if self._stop.is_set():
                raise _EndingError
            if self._store.stop_requested(run) and not book.unfinished():
                raise StopRequestedError("it was asked to stop; resume it with `silhouette run resume`")

        return watch


class _EndingError(BaseException):
    """This process is asked to end in the middle of a round; the round is void when it is back."""
