"""What the profile service answers, without a network: arguments checked, the vault asked, values given back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from silhouette_client.profiles.record import FIELDS, ProfileRecord, Recommended
from silhouette_client.profiles.store import Erased
from silhouette_shared.errors import RefusedError, UsageError

MOST_USERS = 100
MOST_EVENTS = 1000
MOST_ITEMS = 1000
_LONGEST_USER = 256
_USUAL_COUNT = 10


class Role(StrEnum):
    """What a caller may do; a caller without a role may do nothing."""

    tags = "tags"
    vectors = "vectors"
    write = "write"
    erase = "erase"
    audit = "audit"


METHODS: Mapping[str, frozenset[Role]] = {
    "GetProfile": frozenset({Role.tags, Role.vectors}),
    "BatchGetProfiles": frozenset({Role.tags, Role.vectors}),
    "Recommend": frozenset({Role.tags}),
    "Explain": frozenset({Role.tags}),
    "SimilarSegments": frozenset({Role.vectors}),
    "PushEvents": frozenset({Role.write}),
    "Erase": frozenset({Role.erase}),
    "Verify": frozenset({Role.audit}),
}
"""Method -> the roles of which a caller needs one."""

_FIELDS_OF = {
    Role.tags: ("weights", "traits", "tags"),
    Role.vectors: ("vector", "tastes"),
}


class NoProfileError(RefusedError):
    """There is no profile to answer with; never built, expired, suppressed and erased look the same. Exit code 3."""

    def __init__(self) -> None:
        """Say nothing about the person."""
        super().__init__("expected a person with a profile, got one without; build profiles, or ask for another")


class NotReadyError(RefusedError):
    """The node has not what this method needs. Exit code 3."""


@dataclass(frozen=True)
class Event:
    """One event of a person, as `PushEvents` brings it; `timestamp` in UTC seconds, "" where there is no id or text."""

    user: str
    item: str
    behaviour: str
    timestamp: int
    value: float | None = None
    id: str = ""
    text: str = ""


@dataclass(frozen=True)
class PushOutcome:
    """What a push did, in events but for `profiles`, which counts people; see `PushEventsResponse`."""

    accepted: int
    left_out: int
    repeated: int
    unknown_items: int
    without_consent: int
    profiles: int


class Updater(Protocol):
    """Takes new events into the histories and runs the encoder on them."""

    def push(self, events: Sequence[Event], who: str) -> PushOutcome:
        """Take events; they are on the disk and in the answers when this returns."""
        ...

    def note_shown(self, user: str, model: str, items: Sequence[str]) -> None:
        """Remember what was recommended to a person."""
        ...


class SegmentIndex(Protocol):
    """Knows the segments of a node."""

    def similar(self, record: ProfileRecord, count: int) -> list[tuple[str, float]]:
        """Names and cosines of the segments nearest to a profile, the nearest first."""
        ...


class Records(Protocol):
    """What the service needs of a vault."""

    def get(self, user: str, who: str, method: str, fields: Collection[str] = ...) -> ProfileRecord | None:
        """As `Vault.get`."""
        ...

    def get_many(
        self, users: Sequence[str], who: str, method: str, fields: Collection[str] = ...
    ) -> list[ProfileRecord | None]:
        """As `Vault.get_many`."""
        ...

    def erase(self, user: str, who: str) -> Erased:
        """As `Vault.erase`."""
        ...


class Service:
    """Answers for one node.

    Args:
        records: The vault.
        updater: Behind `push`; None refuses it.
        segments: Behind `similar_segments`; None refuses it.
        forget: Removes a person's events where the node holds some, in `erase`.
    """

    def __init__(
        self,
        records: Records,
        updater: Updater | None = None,
        segments: SegmentIndex | None = None,
        *,
        forget: Callable[[str], object] | None = None,
    ) -> None:
        self._records, self._updater, self._segments, self._forget = records, updater, segments, forget

    def take_events_by(self, updater: Updater) -> None:
        """Take events from now on, where there was no model when the service started."""
        self._updater = updater

    def follow_segments(self, segments: SegmentIndex) -> None:
        """Answer with other segments from now on."""
        self._segments = segments

    def profile(self, user: str, who: str, roles: Collection[Role]) -> ProfileRecord:
        """The fields of a profile that the roles may see.

        Raises:
            UsageError: If `user` cannot be one.
            NoProfileError: If there is no profile.
        """
        return self._one(user, who, "GetProfile", _visible(roles))

    def profiles(self, users: Sequence[str], who: str, roles: Collection[Role]) -> list[ProfileRecord | None]:
        """The same for some people at once; None where there is no profile.

        Raises:
            UsageError: If a user cannot be one, or there are too many.
        """
        if len(users) > MOST_USERS:
            raise UsageError(f"expected at most {MOST_USERS} users, got {len(users)}; ask in parts")
        for user in users:
            _check_user(user)
        return self._records.get_many(users, who, "BatchGetProfiles", _visible(roles))

    def recommend(
        self, user: str, who: str, count: int = 0, without: Collection[str] = ()
    ) -> tuple[str, Sequence[Recommended]]:
        """The model and its best items for a person, best first.

        Raises:
            UsageError: If an argument is out of range.
            NoProfileError: If there is no profile, or its recommendations are past their time.
        """
        if count > MOST_ITEMS or len(without) > MOST_ITEMS:
            raise UsageError(f"expected at most {MOST_ITEMS} items, got more; ask for fewer")
        record = self._one(user, who, "Recommend", ("recommendations",))
        if record.recommendations is None:
            raise NoProfileError
        left = record.recommendations
        if without:
            unwanted = frozenset(without)
            left = tuple(one for one in left if one.item not in unwanted)
        best = left[: count or _USUAL_COUNT]
        if self._updater is not None and best:
            self._updater.note_shown(user, record.model, [one.item for one in best])
        return record.model, best

    def explain(self, user: str, who: str) -> ProfileRecord:
        """A profile with what it rests on: weights and tags.

        Raises:
            UsageError: If `user` cannot be one.
            NoProfileError: If there is no profile.
        """
        return self._one(user, who, "Explain", ("weights", "tags"))

    def similar_segments(self, user: str, who: str, count: int = 0) -> list[tuple[str, float]]:
        """Segments nearest to a person.

        Raises:
            NotReadyError: If the node has none.
            NoProfileError: If there is no vector.
        """
        if self._segments is None:
            raise NotReadyError("expected segments at this node, found none; make one with `segment create`")
        record = self._one(user, who, "SimilarSegments", ("vector",))
        if record.vector is None:
            raise NoProfileError
        return self._segments.similar(record, count or 3)

    def push(self, events: Sequence[Event], who: str) -> PushOutcome:
        """Take new events; they are on the disk and in the answers when this returns.

        Raises:
            NotReadyError: If no model is at hand.
            UsageError: If there are too many, or one is wrong; then none was taken.
        """
        if len(events) > MOST_EVENTS:
            raise UsageError(f"expected at most {MOST_EVENTS} events, got {len(events)}; push in parts")
        for event in events:
            _check_user(event.user)
        if self._updater is None:
            raise NotReadyError(
                "expected a promoted model at this node, found none; take one with `silhouette node take`, then push "
                "again"
            )
        return self._updater.push(events, who)

    def erase(self, user: str, who: str) -> Erased:
        """Remove a person for good: kept out first, so that no push brings them back, then the events.

        Raises:
            UsageError: If `user` cannot be one.
        """
        _check_user(user)
        erased = self._records.erase(user, who)
        if self._forget is not None:
            self._forget(user)
        return erased

    def _one(self, user: str, who: str, method: str, fields: Collection[str]) -> ProfileRecord:
        _check_user(user)
        record = self._records.get(user, who, method, fields)
        if record is None:
            raise NoProfileError
        return record


def _visible(roles: Collection[Role]) -> tuple[str, ...]:
    seen = {name for role in roles for name in _FIELDS_OF.get(role, ())}
    return tuple(name for name in FIELDS if name in seen)


def _check_user(user: str) -> None:
    if not 1 <= len(user) <= _LONGEST_USER:
        raise UsageError(f"expected a user of 1 to {_LONGEST_USER} characters, got {len(user)}; give one")
