"""The registry of a coordinator's home, opened with the keys that are there."""

from __future__ import annotations

from silhouette_server.enrolment.office import Office
from silhouette_server.registry.journal import Clock, utc_now
from silhouette_server.registry.registry import REGISTRY_NAME, Registry
from silhouette_shared.enrolment.documents import Succession


def open_registry(office: Office, *, write: bool, clock: Clock = utc_now) -> Registry:
    """Open the registry of a home; one begins where there is none.

    What an earlier signing key signed is believed as far as the roster says how one key followed the other.

    Args:
        office: The coordinator's keys and roster.
        write: Whether anything is to be changed.
        clock: For tests.

    Raises:
        UsageError: If there is no coordinator in this home.
        IntegrityError: If the registry is damaged.
        UnavailableError: If the disk fails, or a newer version made it.
    """
    keys = signing_keys(office)
    path = office.folder / REGISTRY_NAME
    if write or not path.exists():
        opened = Registry.open(path, office.identity(), keys[:-1], clock=clock)
        if write:
            return opened
        opened.close()
    return Registry.open(path, None, keys, clock=clock)


def signing_keys(office: Office) -> tuple[bytes, ...]:
    """Public keys that the coordinator signs and has signed with, the newest last."""
    followed = (Succession.decode(one.encode("utf-8")) for one in office.roster().successions)
    return (*(bytes.fromhex(one.previous) for one in followed), office.identity().public)
