"""Who holds a client certificate, from the roster as it is on disk now."""

import logging
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from silhouette_server.enrolment.office import Office
from silhouette_server.gate_rules import Holder
from silhouette_shared.enrolment.documents import Roster, load_supernode_key
from silhouette_shared.errors import SilhouetteError

_LOG = logging.getLogger(__name__)


class RosterHolders:
    """Looks a certificate's serial number up in the roster, which is read again when its file has changed.

    A roster that cannot be read lets nobody in.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._path: Path = office.folder / "roster.json"
        self._seen: tuple[int, int, int] | None = None
        self._holders: dict[int, Holder] = {}

    def __call__(self, serial: int) -> Holder | None:
        """The holder of the certificate with this number; None if it is on no roster."""
        self._refresh()
        return self._holders.get(serial)

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return
            self._holders = holders_of(self._office.roster())
            self._seen = seen
            _LOG.info("the roster has %d members", len(self._holders))
        except (SilhouetteError, OSError) as error:
            if self._holders or self._seen is None:
                _LOG.error("nobody passes until the roster can be read: %s", error)
            self._holders, self._seen = {}, (0, 0, 0)


def holders_of(roster: Roster) -> dict[int, Holder]:
    """Every member by the serial number of its certificate."""
    return {
        int(member.serial): Holder(name, supernode_pem(member.supernode_public), member.state == "active")
        for name, member in roster.members.items()
    }


def supernode_pem(line: str) -> bytes:
    """A SuperNode's public key in the form in which Flower sends and keeps it."""
    return load_supernode_key(line, "roster").public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
