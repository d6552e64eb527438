"""The door to a node's profiles: what is read or written of a person goes through here, and into the audit log first.

Nothing else in the package opens a `ProfileStore`. Users are named by the partner's own identifiers here and by HMACs
behind it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from silhouette_client.profiles.audit_log import LOG_NAME, Access, AuditLog, Newest, verify_log
from silhouette_client.profiles.exclusions import Exclusion
from silhouette_client.profiles.keys import (
    KEYS_NAME,
    KeyFile,
    Keyring,
    Protector,
    read_keyring,
    write_keyring,
)
from silhouette_client.profiles.record import FIELDS, ProfileRecord
from silhouette_client.profiles.store import (
    KEEP,
    ROWS_A_TRANSACTION,
    STORE_NAME,
    Counts,
    Erased,
    ProfileStore,
    Retention,
)
from silhouette_shared.closing import Closing
from silhouette_shared.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from silhouette_client.segments.segment import Segment
    from silhouette_shared.privacy.ledger import Head

Passphrase = Callable[[], str]

CHANGED_NAME = ".exclusions.changed"
"""In a node's home: touched whenever somebody is erased, suppressed or let in again."""


@dataclass(frozen=True)
class Excluded:
    """The people whom imports and training leave out.

    Args:
        pseudonyms: HMACs of them.
        keyring: Turns a user into an HMAC.
    """

    pseudonyms: frozenset[bytes]
    keyring: Keyring | None

    def __call__(self, user: str) -> bool:
        """Whether this user is left out."""
        return self.keyring is not None and self.keyring.pseudonym(user) in self.pseudonyms

    def among(self, users: Sequence[str]) -> set[str]:
        """Those of the users who are left out."""
        return {user for user in users if self(user)} if self.pseudonyms else set()

    def __len__(self) -> int:
        return len(self.pseudonyms)


class ExcludedAtUse:
    """Whom an import leaves out: the list as it is when it is first asked for somebody.

    Whoever asks holds the lock of the records by then, and an erasure after that finds them held and is done again.

    Args:
        home: Of the node.
        passphrase: Asked if the keys need one.

    Raises:
        IntegrityError, UnavailableError: As `excluded`.
    """

    def __init__(self, home: Path, passphrase: Passphrase | None = None) -> None:
        self._home, self._passphrase, self._before = home, passphrase, excluded(home, passphrase)
        self._now: Excluded | None = None

    def among(self, users: Sequence[str]) -> set[str]:
        """Those of the users who are left out."""
        if self._now is None:
            keyring = self._before.keyring
            if keyring is None:
                self._now = excluded(self._home, self._passphrase)  # the store may have been made since
            else:
                with ProfileStore.open(self._home / STORE_NAME, keyring) as store:
                    self._now = Excluded(store.exclusions(), keyring)
        return self._now.among(users)


def excluded(home: Path, passphrase: Passphrase | None = None) -> Excluded:
    """Whom ingest and training at this node have to leave out; nobody where no store was ever made.

    A store without its keys, or keys without their store, is an error and not an empty list.

    Raises:
        IntegrityError: If keys or list are damaged or lost.
        UnavailableError: If they cannot be opened.
    """
    if not (home / STORE_NAME).exists() and not (home / KEYS_NAME).exists():
        return Excluded(frozenset(), None)
    keyring, _ = read_keyring(home / KEYS_NAME, passphrase)
    if not (home / STORE_NAME).exists():
        raise IntegrityError(
            f"{home / STORE_NAME}: expected the store of these keys with its exclusion list, found none; put it back"
        )
    with ProfileStore.open(home / STORE_NAME, keyring) as store:
        return Excluded(store.exclusions(), keyring)


class Vault(Closing):
    """Store, keys and audit log of one node, for one named user of them.

    Args:
        store: Opened.
        log: Opened.
        keyring: Of both.
        held: Left when this is closed; keeps a rotation away meanwhile.
    """

    def __init__(self, store: ProfileStore, log: AuditLog, keyring: Keyring, held: ExitStack | None = None) -> None:
        self._store, self._log, self._keyring = store, log, keyring
        self._held = ExitStack() if held is None else held

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        passphrase: Passphrase | None = None,
        make: Protector | None = None,
        retention: Retention = KEEP,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open what is in a node's home.

        Args:
            home: The folder.
            passphrase: Asked if the keys need one.
            make: Protects new keys if there is no store yet; None refuses then.
            retention: Of what is written.
            clock: Seconds since 1970.

        Raises:
            UsageError: If there is no store and none is to be made.
            IntegrityError: If one of the three is damaged or missing.
            UnavailableError: If one cannot be used.
        """
        with ExitStack() as stack:
            if make is not None or (home / KEYS_NAME).exists():
                stack.enter_context(hold(home, exclusive=False))
            store, log, keyring = cls._parts(home, passphrase, make, retention, clock)
            return cls(store, log, keyring, stack.pop_all())

    @staticmethod
    def _parts(
        home: Path,
        passphrase: Passphrase | None,
        make: Protector | None,
        retention: Retention,
        clock: Callable[[], float],
    ) -> tuple[ProfileStore, AuditLog, Keyring]:
        store_path, keys_path = home / STORE_NAME, home / KEYS_NAME
        if not store_path.exists() and not keys_path.exists():
            if make is None:
                raise UsageError(
                    f"{store_path}: expected a profile store, found none; make one with `silhouette profile build`"
                )
            home.mkdir(parents=True, exist_ok=True)
            write_keyring(keys_path, Keyring.generate(), make)
        keyring, _ = read_keyring(keys_path, passphrase)
        if not store_path.exists() and (home / LOG_NAME).exists():
            raise IntegrityError(
                f"{store_path}: expected the store that the audit log tells of, found none; put it back"
            )
        log = AuditLog(home / LOG_NAME, keyring.audit, clock)
        try:
            store = ProfileStore.open(store_path, keyring, retention=retention, clock=clock)
        except BaseException:
            log.close()
            raise
        return store, log, keyring

    def close(self) -> None:
        """Close both."""
        self._store.close()
        self._log.close()
        self._held.close()

    def pseudonym(self, user: str) -> bytes:
        """The HMAC of a user in this store, 32 bytes."""
        return self._keyring.pseudonym(user)

    def get(self, user: str, who: str, method: str, fields: Collection[str] = FIELDS) -> ProfileRecord | None:
        """One person's record; logged before it is read. Errors as `ProfileStore.get` and `AuditLog.record`."""
        return self.get_many([user], who, method, fields)[0]

    def get_many(
        self, users: Sequence[str], who: str, method: str, fields: Collection[str] = FIELDS
    ) -> list[ProfileRecord | None]:
        """Some people's records in the order asked, None where there is none."""
        people = [self._keyring.pseudonym(user) for user in users]
        self._log.record([Access(who, method, person) for person in people])
        return [
            None if self._store.exclusion(person) is not None else self._store.get(person, fields) for person in people
        ]

    def put_many(
        self,
        records: Iterable[tuple[str, ProfileRecord]],
        who: str,
        method: str,
        sources: Mapping[str, bytes] | None = None,
        parts: bytes = b"",
        since: int | None = None,
    ) -> tuple[int, int]:
        """Write people's records; says how many were written, and how many left out as `ProfileStore.put_many` does.

        Args:
            records: User and record. A million of them are written fastest in the order of `in_order`.
            who: For the audit log.
            method: For the audit log.
            sources: For `current`, by user.
            parts: For `current`.
            since: A `newest_change` from before it was read what they are made from; None where nobody else writes.
        """

        def logged() -> Iterator[tuple[bytes, ProfileRecord]]:
            part: list[tuple[bytes, ProfileRecord]] = []
            for user, record in records:
                part.append((self._keyring.pseudonym(user), replace(record, user=user)))
                if len(part) == ROWS_A_TRANSACTION:
                    self._log.record([Access(who, method, person) for person, _ in part], flush=True)
                    yield from part
                    part = []
            self._log.record([Access(who, method, person) for person, _ in part], flush=True)
            yield from part

        made_from = {self._keyring.pseudonym(user): source for user, source in (sources or {}).items()}
        return self._store.put_many(logged(), made_from, parts, since)

    def in_order(self, users: Iterable[str]) -> list[str]:
        """Users in the order in which the store keeps them, which tells nothing about them."""
        return sorted(users, key=self._keyring.pseudonym)

    def newest_change(self) -> int:
        """See `ProfileStore.newest_change`: taken before people's events are read, for whoever writes after it."""
        return self._store.newest_change()

    def let_in_since(self, change: int) -> bool:
        """Whether somebody left the exclusion list after a change."""
        return self._store.let_in_since(change)

    def made_otherwise(self, since: int, model: str, parts: bytes = b"") -> bool:
        """See `ProfileStore.made_otherwise`."""
        return self._store.made_otherwise(since, model, parts)

    def current(self, model: str, sources: Mapping[str, bytes], parts: bytes = b"") -> set[str]:
        """Users whose record was made by this model from this source; reads no record. See `ProfileStore.current`."""
        people = {self._keyring.pseudonym(user): user for user in sources}
        found = self._store.current(model, {person: sources[user] for person, user in people.items()}, parts)
        return {people[person] for person in found}

    def keep_only(self, users: Collection[str], who: str, since: int) -> int:
        """Remove the profiles of everybody else but of suppressed people; see `ProfileStore.keep_only`."""
        kept = {self._keyring.pseudonym(user) for user in users}
        left_out = self._store.exclusions()
        others = [person for person in self._store.people() if person not in kept and person not in left_out]
        self._log.record([Access(who, "remove", person) for person in others], flush=True)
        return self._store.keep_only(kept, since)

    def everybody(self, who: str, method: str, fields: Collection[str]) -> Iterator[tuple[bytes, ProfileRecord]]:
        """HMAC and record of everybody who is not on the exclusion list; one entry in the log for all."""
        self._log.record([Access(who, method, b"")], flush=True)
        return self._store.everybody(fields)

    def segments(self, who: str) -> list[Segment]:
        """All segments, by name."""
        self._log.record([Access(who, "segments", b"")])
        return self._store.segments()

    def segment_stamp(self) -> frozenset[bytes]:
        """Changes whenever a segment is written or removed; opens none, so the log has no entry."""
        return self._store.segment_stamp()

    def segments_of(self, user: str, who: str) -> list[str]:
        """Names of the segments that a person is in."""
        person = self._note(user, who, "segments")
        return [one.name for one in self._store.segments() if person in one.members]

    def put_segment(self, segment: Segment, who: str) -> None:
        """Write a segment, in place of one of its name."""
        self._log.record([Access(who, "segment", b"")], flush=True)
        self._store.put_segment(segment)

    def drop_segment(self, name: str, who: str) -> bool:
        """Remove a segment; says whether it was there."""
        self._log.record([Access(who, "drop-segment", b"")], flush=True)
        return self._store.drop_segment(name)

    def users_of(self, people: Collection[bytes], who: str, method: str) -> list[str]:
        """Identifiers of the people who have a profile and are not on the exclusion list, sorted; each is logged."""
        self._log.record([Access(who, method, person) for person in people], flush=True)
        left_out = self._store.exclusions()
        found = (self._store.get(person, ("user",)) for person in people if person not in left_out)
        return sorted(record.user for record in found if record is not None and record.user is not None)

    def erase(self, user: str, who: str) -> Erased:
        """Remove a person for good and keep them out; errors as `ProfileStore.erase`."""
        person = self._note(user, who, "erase")
        erased = self._store.erase(person)
        self._tell()
        return erased

    def suppress(self, user: str, who: str) -> None:
        """Answer nothing about a person and leave them out of imports and training; what is stored stays."""
        self._store.exclude(self._note(user, who, "suppress"), Exclusion.suppressed)
        self._tell()

    def unsuppress(self, user: str, who: str) -> Exclusion | None:
        """Lift a suppression or an erasure's block; says what was lifted."""
        person = self._note(user, who, "unsuppress")
        found = self._store.exclusion(person)
        self._store.include(person)
        self._tell()
        return found

    def export(self, user: str, who: str) -> tuple[ProfileRecord | None, Exclusion | None]:
        """All that is stored about a person, for the person: also of a suppressed one."""
        person = self._note(user, who, "export")
        return self._store.get(person), self._store.exclusion(person)

    def excluded(self) -> Excluded:
        """Whom imports and training leave out."""
        return Excluded(self._store.exclusions(), self._keyring)

    def left_out(self, users: Collection[str]) -> set[str]:
        """Those of some users who are on the exclusion list; nothing else of them is read."""
        return {user for user in users if self._store.exclusion(self._keyring.pseudonym(user)) is not None}

    def unless_left_out(self, users: Collection[str], act: Callable[[], None]) -> set[str]:
        """See `ProfileStore.unless_excluded`; gives those of the users who are left out."""
        people = {self._keyring.pseudonym(user): user for user in users}
        return {people[person] for person in self._store.unless_excluded(people, act)}

    def keep_model(self, model: str, who: str, since: int) -> int:
        """Remove the profiles of other models but of whoever was written since; says how many went."""
        self._log.record([Access(who, "remove", b"")], flush=True)
        return self._store.keep_model(model, since)

    def revive(self, model: str) -> None:
        """Let the profiles of a model that was retired count again."""
        self._store.revive(model)

    def retire(self, keep: str, grace_seconds: int = 0) -> None:
        """Let the profiles of other models expire."""
        self._store.retire(keep, grace_seconds)

    def purge(self, who: str) -> int:
        """Remove what is past its time."""
        self._log.record([Access(who, "purge", b"")], flush=True)
        return self._store.purge()

    def deny(self, who: str, method: str, reason: str) -> None:
        """Note that somebody asked for what they may not."""
        self._log.record([Access(who, method, b"", reason)])

    def verify(self, log: Path, seen: Head | None = None) -> tuple[Counts, Newest | None]:
        """Check every row of the store and every entry of the log; errors as theirs."""
        return self._store.verify(), verify_log(log, self._keyring.audit, seen)

    def head(self) -> Newest | None:
        """The newest entry of the audit log."""
        return self._log.head

    def _tell(self) -> None:
        """Have agents that hold people's tensors read them again before their next round."""
        path = self._store.path.with_name(CHANGED_NAME)
        path.touch(mode=0o600)

    def _note(self, user: str, who: str, method: str) -> bytes:
        person = self._keyring.pseudonym(user)
        self._log.record([Access(who, method, person)], flush=True)
        return person


def rotate(home: Path, who: str, passphrase: Passphrase | None = None, protector: Protector | None = None) -> int:
    """Wrap every data key by a new key-encryption key, then forget the old ones.

    The order is: new key into the key file, data keys re-wrapped batch by batch, old keys out of the file. Killed
    anywhere, every record opens, and the next call goes on with the key that is there.

    Args:
        home: The node's.
        who: For the audit log.
        passphrase: Of the keys as they are.
        protector: Of the keys from now on; as before if None.

    Returns:
        How many data keys were wrapped anew.
    """
    path = home / KEYS_NAME
    with _alone(home):
        keyring, before = read_keyring(path, passphrase)
        if len(keyring.wrapping) == 1:  # else a rotation was killed and goes on
            keyring = keyring.with_new_key()
        write_keyring(path, keyring, protector or before)
        with (
            AuditLog(home / LOG_NAME, keyring.audit) as log,
            ProfileStore.open(home / STORE_NAME, keyring) as store,
        ):
            log.record([Access(who, "rotate", b"")], flush=True)
            done = store.rewrap(keyring)
            store.scrub()  # the old wrapped keys leave file and log
            write_keyring(path, keyring.with_active_only(), protector or before)
    return done


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One rotation at a time, and none while a service holds the old keys in memory."""
    with hold(home, exclusive=True):
        yield


@contextmanager
def hold(home: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a node's keys: whoever reads or writes profiles shares them, a rotation has them alone.

    Raises:
        UsageError: If somebody else holds them.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = os.open(home / ".profiles.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{home}: expected nobody to be using the profile keys, got a service or a rotation; stop it first"
            ) from None
        yield
    finally:
        os.close(file)


def new_protector(passphrase: str | None, name: str | None = None) -> Protector:
    """The protection of new keys: a passphrase if there is one, one of a name that is installed, else the file's mode.

    Raises:
        UsageError: If no protection of this name is installed.
        UnavailableError: If it cannot be had.
    """
    from silhouette_client.profiles import keys

    if passphrase is not None:
        return keys.Passphrase(passphrase)
    return KeyFile() if name is None else keys.installed_protector(name, {})
