"""A node's home on disk: where everything lies, and reading it with its checks.

<home>/node/  identity.key                      Ed25519, 32 bytes: signs in secure aggregation
              supernode.key supernode.pub       ECDSA P-384 in OpenSSH's form: Flower's node authentication
              client.key                        P-256: mutual TLS with the coordinator's gate
              request.json node.toml            made with the keys
              kit.json authority.pem client.pem coordinator.pub roster.json    after the installation
              policy.toml ledger.sqlite witness/ people/ runs/
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from silhouette_shared.enrolment.certificates import load_certificate
from silhouette_shared.enrolment.documents import Kit, Roster, load_supernode_key
from silhouette_shared.enrolment.refusals import MalformedError
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.private_files import read_private, read_public
from silhouette_shared.secagg.keys import KEY_BYTES, Identity

_INIT = "run `silhouette node init NAME --people N` first"
_INSTALL = "run `silhouette node install KIT --fingerprint ...` with the coordinator's kit"


@dataclass(frozen=True)
class NodeHome:
    """The node in a home.

    Args:
        folder: `<home>/node`.
    """

    folder: Path

    @classmethod
    def of(cls, home: Path) -> NodeHome:
        """The node in a home."""
        return cls(home / "node")

    @property
    def identity_path(self) -> Path:
        """The signing key."""
        return self.folder / "identity.key"

    @property
    def supernode_path(self) -> Path:
        """The key that Flower's SuperNode shows itself with."""
        return self.folder / "supernode.key"

    @property
    def client_key_path(self) -> Path:
        """The key of the client certificate."""
        return self.folder / "client.key"

    @property
    def certificate_path(self) -> Path:
        """The client certificate."""
        return self.folder / "client.pem"

    @property
    def authority_path(self) -> Path:
        """The authority's certificate."""
        return self.folder / "authority.pem"

    @property
    def roster_path(self) -> Path:
        """The newest signed roster."""
        return self.folder / "roster.json"

    @property
    def policy_path(self) -> Path:
        """What this partner agrees to."""
        return self.folder / "policy.toml"

    @property
    def people(self) -> Path:
        """The canonical tables of this partner's people."""
        return self.folder / "people"

    @property
    def runs(self) -> Path:
        """One folder for each run that was agreed to."""
        return self.folder / "runs"

    @property
    def name(self) -> str:
        """What this node is called, from `node.toml`."""
        return str(self._settings()["name"])

    @property
    def declared_people(self) -> int:
        """How many people this partner declares; public, and no count of records."""
        return int(str(self._settings()["people"]))

    def _settings(self) -> dict[str, object]:
        path = self.folder / "node.toml"
        data = read_public(path, "this node's settings", _INIT)
        try:
            found = tomllib.loads(data.decode("utf-8"))
            if type(found.get("name")) is str and type(found.get("people")) is int:
                return found
        except ValueError:
            pass
        raise UsageError(f"{path}: expected name and people, got something else; put them back as in request.json")

    def identity(self) -> Identity:
        """The signing key."""
        return Identity(read_private(self.identity_path, KEY_BYTES))

    def supernode_key(self) -> ec.EllipticCurvePrivateKey:
        """The SuperNode's key."""
        data = read_private(self.supernode_path)
        try:
            key = serialization.load_ssh_private_key(data, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
            raise IntegrityError(f"{self.supernode_path}: expected a P-384 key, got something else; put it back")
        return key

    def supernode_public(self) -> ec.EllipticCurvePublicKey:
        """The SuperNode's public key."""
        path = self.folder / "supernode.pub"
        return load_supernode_key(read_public(path, "the SuperNode's public key", _INIT).decode().strip(), str(path))

    def client_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the client certificate."""
        data = read_private(self.client_key_path)
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise IntegrityError(
                f"{self.client_key_path}: expected an elliptic-curve key, got something else; put it back"
            )
        return key

    @property
    def installed(self) -> bool:
        """Whether a kit was installed."""
        return (self.folder / "kit.json").exists()

    def kit(self) -> Kit:
        """The kit that was installed; it was checked against its fingerprint then."""
        return Kit.decode(read_public(self.folder / "kit.json", "an installed kit", _INSTALL))

    def authority(self) -> x509.Certificate:
        """The authority's certificate."""
        return self._certificate(self.authority_path)

    def certificate(self) -> x509.Certificate:
        """This node's client certificate."""
        return self._certificate(self.certificate_path)

    def _certificate(self, path: Path) -> x509.Certificate:
        return load_certificate(read_public(path, "a certificate", _INSTALL).decode("ascii", "replace"), str(path))

    def pinned(self) -> bytes:
        """The coordinator's signing key that is trusted here: the kit's, or one that it vouched for since."""
        path = self.folder / "coordinator.pub"
        text = read_public(path, "the coordinator's signing key", _INSTALL)
        try:
            key = bytes.fromhex(text.decode("ascii").strip())
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise MalformedError(
                f"{path}: expected a key of {KEY_BYTES} bytes in hexadecimal, got something else; restore it"
            )
        return key

    def roster_bytes(self) -> bytes:
        """The newest signed roster that this node has seen."""
        return read_public(self.roster_path, "the roster", _INSTALL)

    def roster(self) -> Roster:
        """The same, checked against the pinned key."""
        return Roster.decode(self.roster_bytes(), self.pinned())
