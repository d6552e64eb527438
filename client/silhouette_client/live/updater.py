"""A push from first to last: checked, written down, into the history, through the encoder, into the store.

What was acknowledged is on the disk and in every answer. The order is: journal, profile, acknowledgement. A kill in
between leaves events whose profile did not follow; the next start, or the same push sent again, makes it follow.

Records, model and exclusion list change beside this; what was written since they were last seen unchanged is made
again once they are read (`settle`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from silhouette_client.ingest.absorb import absorb_if_free, rows_of
from silhouette_client.ingest.columns import LONGEST
from silhouette_client.ingest.identity import identities
from silhouette_client.ingest.pushed import Added, Journal, Pushed, Shown
from silhouette_client.ingest.removal import remove_people
from silhouette_client.ingest.take_in import Exclusions
from silhouette_client.live.people import LivePeople, joined
from silhouette_client.offers.people import stamp_of
from silhouette_client.profiles.building import made_records, sources_of
from silhouette_client.profiles.choices import CHOICES_NAME, read_choices
from silhouette_client.profiles.node_model import NodeModel
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.serving.service import Event, PushOutcome
from silhouette_shared.errors import UsageError
from silhouette_shared.files import stamp
from silhouette_shared.model.histories import Histories
from silhouette_shared.schema import BEHAVIOURS, FIRST_TIME, LAST_TIME

_LOG = logging.getLogger(__name__)

_LONGEST_TEXT = 4096
_CLOCK_SKEW_SECONDS = 86_400
_MOST_SHOWN = 20_000  # recommendations that wait for the disk; older ones go first
_REBUILT_AT_ONCE = 500


class Profiles(Protocol):
    """What the updater needs of a vault."""

    def put_many(
        self,
        records: Iterable[tuple[str, ProfileRecord]],
        who: str,
        method: str,
        sources: Mapping[str, bytes] | None = None,
        parts: bytes = b"",
    ) -> tuple[int, int]:
        """As `Vault.put_many`."""
        ...

    def left_out(self, users: Collection[str]) -> set[str]:
        """As `Vault.left_out`."""
        ...

    def excluded(self) -> Exclusions:
        """As `Vault.excluded`."""
        ...


class LiveUpdater:
    """Takes pushed events and keeps profiles with them. Use `open`; safe between threads.

    Args:
        home: Of the node.
        vault: Where profiles go.
        model: Makes them.
        journal: Opened.
        people: Everybody's histories.
        read: Stamps of what they were read from.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        vault: Profiles,
        model: NodeModel,
        journal: Journal,
        people: LivePeople,
        read: tuple[tuple[int, ...], ...],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._vault, self._model, self._journal, self._clock = home, vault, model, journal, clock
        self._people = people
        self._stamp = read
        self._count = read_choices(home).count
        self._lock = threading.RLock()
        self._since: list[tuple[str, int, Pushed]] | None = None  # what came while histories are read anew
        self._shown: list[Shown] = []
        self._applied: list[int] = []
        self._behind: set[str] = set()  # whose profile may be of the model or the records before
        self._lately: dict[str, int] = {}  # whose profile was written at which turn, since `settle`
        self._turn = 0
        self._forgotten: set[str] = set()  # while histories are read anew
        self._shown_lock = threading.Lock()

    @classmethod
    def open(
        cls, home: Path, vault: Profiles, model: NodeModel, *, clock: Callable[[], float] = time.time
    ) -> LiveUpdater:
        """Read everybody's history, and let profiles follow that a kill held up.

        Raises:
            SilhouetteError: If records, journal or store cannot be used.
        """
        journal = Journal.open(home)
        try:
            people, read = _load(home, vault, model)
            updater = cls(home, vault, model, journal, people, read, clock)
            updater._recover()
            journal.forget_old(int(clock()))
        except BaseException:
            journal.close()
            raise
        return updater

    def close(self) -> None:
        """Write down what waits, and close."""
        self.flush()
        self._journal.close()

    def push(self, events: Sequence[Event], who: str) -> PushOutcome:
        """Take events; when this returns they are on the disk and in the answers.

        Raises:
            UsageError: If one is wrong; then none was taken. The message has its number and no value.
            UnavailableError: If disk or store fail; send the same again.
        """
        now = int(self._clock())
        for number, event in enumerate(events):
            _check(number, event, now)
        out = self._vault.left_out({event.user for event in events})
        kept = [(event.id, _canonical(event)) for event in events if event.user not in out]
        with self._lock:
            return self._take(kept, len(events), who)

    def note_shown(self, user: str, model: str, items: Sequence[str]) -> None:
        """Remember what was recommended; on the disk within a second or two (`flush`)."""
        with self._shown_lock:
            self._shown.append(Shown(user, model, int(self._clock()), tuple(items)))
            del self._shown[:-_MOST_SHOWN]

    def flush(self) -> None:
        """Write down what was recommended, and which events a profile followed, since the last time."""
        with self._lock:
            applied, self._applied = self._applied, []
        self._journal.set_applied(applied)
        self._catch_up()
        with self._shown_lock:
            waiting, self._shown = self._shown, []
        out = self._vault.left_out({one.user for one in waiting})
        kept = [one for one in waiting if one.user not in out]
        numbers = self._journal.show(kept)
        if late := self._vault.left_out({one.user for one in kept}):
            self._journal.take_back(
                shown=[number for number, one in zip(numbers, kept, strict=True) if one.user in late]
            )

    def forget(self, user: str) -> dict[str, int]:
        """Remove a person's events from the records, the journal and this memory; says what went."""
        with self._lock:
            self._behind.discard(user)
            self._lately.pop(user, None)
            with self._shown_lock:
                self._shown = [one for one in self._shown if one.user != user]
            removed = remove_people(self._home, {user})
            self._people.forget(user)
            if self._since is not None:
                self._since = [one for one in self._since if one[0] != user]
                self._forgotten.add(user)  # what is read just now may hold them
        return removed

    def refresh(self, model: NodeModel | None = None) -> bool:
        """Read the histories again if records or exclusion list changed, or for another model; says whether they were.

        Whoever had an event since they were last seen unchanged gets a profile anew at the next `flush`: what was
        pushed was added to the history before, and a build may have written theirs before that.

        Args:
            model: Makes profiles from now on; the one before if None.

        Raises:
            SilhouetteError: If records or journal cannot be used; model and histories stay as they are.
        """
        chosen = self._model if model is None else model
        with self._lock:
            if chosen is self._model and _stamps(self._home) == self._stamp:
                return False
            self._since = []
        try:
            people, read = _load(self._home, self._vault, chosen)  # without the lock: pushes go on
            count = read_choices(self._home).count
            with self._lock:
                for user in self._forgotten:
                    people.forget(user)
                for user, identity, event in self._since or ():
                    if not people.knows(identity):
                        if people.may_use(user) and people.in_catalogue(event.item):
                            people.set(user, people.with_new(user, [event]))
                        people.note([identity])
                if chosen is not self._model:
                    self._behind |= {user for user, _, _ in self._since or ()}
                self._behind |= self._lately.keys()
                self._lately.clear()
                self._people, self._stamp, self._model, self._count = people, read, chosen, count
        finally:
            with self._lock:
                self._since = None
                self._forgotten.clear()
        return True

    def turn(self) -> int:
        """How many times profiles were written; for `settle`, before model and records are looked at."""
        with self._lock:
            return self._turn

    def settle(self, turn: int) -> None:
        """Note that model and records were found unchanged after a turn: what was written till then is right."""
        with self._lock:
            self._lately = {user: at for user, at in self._lately.items() if at > turn}

    def _catch_up(self) -> None:
        """Write the profiles that a change of model or records left behind."""
        with self._lock:
            if self._behind:
                self._remake(sorted(self._behind))
                self._behind.clear()

    def _write_down(
        self, events: Sequence[tuple[str, Pushed]]
    ) -> tuple[Sequence[tuple[str, Pushed]], list[tuple[Added, int, Pushed]]]:
        """Into the journal; gives the events of who may be kept, and what became of those that no file brought.

        An erasure by another process first lists the person and then removes what is written. Who is listed after the
        writing was perhaps not found by it.
        """
        names = identities(rows_of([event for _, event in events])).tolist() if events else []
        new = [
            (given, name, event)
            for (given, event), name in zip(events, names, strict=True)
            if not self._people.knows(name)
        ]
        added = [(one, name, event) for one, (_, name, event) in zip(self._journal.add(new), new, strict=True)]
        late = self._vault.left_out({event.user for _, event in events})
        if not late:
            return events, added
        self._journal.take_back([one.number for one, _, event in added if event.user in late and not one.repeated])
        return (
            [(given, event) for given, event in events if event.user not in late],
            [(one, name, event) for one, name, event in added if event.user not in late],
        )

    def _take(self, kept: Sequence[tuple[str, Pushed]], asked: int, who: str) -> PushOutcome:
        kept, added = self._write_down(kept)
        left_out = asked - len(kept)
        fresh: list[tuple[int, int, Pushed]] = []
        repeated, seen = len(kept) - len(added), set()
        added_now = {one.number for one, _, _ in added if not one.repeated}
        self._applied = [number for number in self._applied if number not in added_now]  # of events erased since
        done = set(self._applied)
        for one, name, event in added:
            repeated += one.repeated
            if not one.applied and one.number not in seen and one.number not in done:
                seen.add(one.number)
                fresh.append((one.number, name, event))
        unknown = sum(not self._people.in_catalogue(event.item) for _, _, event in fresh)
        refused = sum(not self._people.may_use(event.user) for _, _, event in fresh)
        profiles = self._apply([event for _, _, event in fresh], who)
        self._people.note([name for _, name, _ in fresh])
        if self._since is not None:
            self._since += [(event.user, name, event) for _, name, event in fresh]
        self._applied += [number for number, _, _ in fresh]  # for `flush`: forgetting it costs a profile made twice
        return PushOutcome(
            accepted=len(kept) - repeated,
            left_out=left_out,
            repeated=repeated,
            unknown_items=unknown,
            without_consent=refused,
            profiles=profiles,
        )

    def _apply(self, events: Sequence[Pushed], who: str) -> int:
        by_user: dict[str, list[Pushed]] = {}
        for event in events:
            if self._people.may_use(event.user) and self._people.in_catalogue(event.item):
                by_user.setdefault(event.user, []).append(event)
        if not by_user:
            return 0
        histories = [self._people.with_new(user, own) for user, own in by_user.items()]
        written = self._put(list(by_user), histories, who, "PushEvents")
        for user, history in zip(by_user, histories, strict=True):
            self._people.set(user, history)
        return written

    def _put(self, users: Sequence[str], histories: Sequence[Histories], who: str, method: str) -> int:
        """Make and write profiles; the store notes from what, so that the next `profile build` leaves them."""
        together = joined(histories)
        records = made_records(self._model, together, min(self._count, len(self._model.words.items)))
        sources = dict(zip(users, sources_of(together), strict=True))
        self._turn += 1
        self._lately |= dict.fromkeys(users, self._turn)
        return self._vault.put_many(zip(users, records, strict=True), who, method, sources, self._model.parts)[0]

    def _recover(self) -> None:
        """Profiles of people with events that were written down and not followed by one."""
        waiting = self._journal.without_profile()
        if not waiting:
            return
        people = {person for _, person in waiting}
        users = [user for user in self._people.users() if self._journal.name_of(user) in people]
        self._remake(users)
        self._journal.set_applied([number for number, _ in waiting])
        _LOG.info("%d pushed events had no profile yet; %d people have theirs now", len(waiting), len(users))

    def _remake(self, users: Sequence[str]) -> None:
        for start in range(0, len(users), _REBUILT_AT_ONCE):
            part = users[start : start + _REBUILT_AT_ONCE]
            found = [(user, history) for user in part if (history := self._people.history(user)) is not None]
            if found:
                self._put([user for user, _ in found], [history for _, history in found], "service", "build")


def _load(home: Path, vault: Profiles, model: NodeModel) -> tuple[LivePeople, tuple[tuple[int, ...], ...]]:
    """Everybody's histories, and the stamps of that from which they are or which is older."""
    waiting = absorb_if_free(home)
    read, purpose = _stamps(home), read_choices(home).purpose
    return LivePeople.load(home, model.numbers, model.words.attributes, purpose, vault.excluded(), waiting), read


def _stamps(home: Path) -> tuple[tuple[int, ...], ...]:
    """What changes with the records, the exclusion list, and the purpose for which people are profiled."""
    return *stamp_of(home), stamp(home / CHOICES_NAME)


def _canonical(event: Event) -> Pushed:
    return Pushed(event.user, event.item, event.behaviour, event.timestamp, event.value, event.text or None)


def _check(number: int, event: Event, now: int) -> None:
    """Refuse an event that could not be among the records; the message has no value of it."""
    latest = min(LAST_TIME, now + _CLOCK_SKEW_SECONDS)
    wanted = {
        f"an item of 1 to {LONGEST} bytes": event.item.strip() == event.item
        and 1 <= len(event.item.encode()) <= LONGEST,
        f"a user of 1 to {LONGEST} bytes": event.user.strip() == event.user
        and 1 <= len(event.user.encode()) <= LONGEST,
        f"a behaviour out of {', '.join(BEHAVIOURS)}": event.behaviour in BEHAVIOURS,
        "a timestamp in UTC seconds, at most a day ahead": FIRST_TIME <= event.timestamp <= latest,
        "a finite value": event.value is None or math.isfinite(event.value),
        f"an id of at most {LONGEST} bytes": len(event.id.encode()) <= LONGEST,
        f"a text of at most {_LONGEST_TEXT} bytes": len(event.text.encode()) <= _LONGEST_TEXT,
    }
    for expected, holds in wanted.items():
        if not holds:
            raise UsageError(
                f"event {number}: expected {expected}, got something else; none was taken, mend it and push again"
            )
