"""Which processes a node consists of, and with which arguments each is started."""

import ipaddress
import json
import logging
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from silhouette_client.connector import Gateway
from silhouette_client.enrolment.home import NodeHome
from silhouette_shared.enrolment.certificates import State, check_dates
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.private_files import replace
from silhouette_shared.randomness import SecureSource
from silhouette_shared.supervision import OUR_EXITS, Port, Service
from silhouette_shared.supervision.probes import answers
from silhouette_shared.supervision.settings import SETTINGS, as_port, read_settings

_LOG = logging.getLogger(__name__)

FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",  # Flower reports use to its makers unless told otherwise
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PYTHONUNBUFFERED": "1",
}

SUPERNODE_EXITS = {
    # Flower ends with 1 for its own codes above 255; 305 says that the node could not be activated.
    1: "it found no way in; after a kill the coordinator counts the one before as connected for up to a minute",
}

SECRET, CERTIFICATE, PORTS = "supernode.secret", "loopback.pem", "supernode.json"
"""What a SuperNode needs beside its key, and where it and the connector listen."""

DEFAULT_CONNECTOR, DEFAULT_SUPERNODE = 9453, 9454

_SECRET_BYTES = 32
_RENEW = "ask the coordinator for a new kit"


@dataclass(frozen=True)
class Places:
    """Ports of a node's processes, all on loopback, and the folder that they share."""

    folder: Path  # <home>/node
    connector: int
    supernode: int
    metrics: int | None = None  # None: nothing is told
    link: Path | None = None  # what is shared with a SuperNode of another user; None: it is one of these processes

    @property
    def work(self) -> Path:
        """For status and secrets between the processes."""
        return self.folder / "processes"

    @property
    def logs(self) -> Path:
        """One JSON line a message, rotated."""
        return self.folder / "logs"

    @property
    def secret(self) -> Path:
        """Shared by SuperNode and agent."""
        return (self.link or self.work) / SECRET

    @property
    def certificate(self) -> Path:
        """That the connector shows the SuperNode; made anew at every start, unless that one starts apart."""
        return (self.link or self.work) / CERTIFICATE

    @property
    def key(self) -> Path:
        """Of that certificate."""
        return self.work / "loopback.key"

    @property
    def task(self) -> Path:
        """The message that the agent works on, so that its successor answers it."""
        return self.work / "task.json"


def places_of(home: NodeHome) -> Places:
    """From `processes.toml`, which may be missing: `connector_port`, `supernode_port`, `metrics_port` and `link`.

    Raises:
        UsageError: If a value cannot be.
    """
    ports = {"connector_port": DEFAULT_CONNECTOR, "supernode_port": DEFAULT_SUPERNODE}
    given = read_settings(home.folder / SETTINGS, {**dict.fromkeys([*ports, "metrics_port"], int), "link": str})
    link = given.pop("link", None)
    for name, value in given.items():
        ports[name] = as_port(home.folder / SETTINGS, name, value)
    return Places(
        home.folder,
        ports["connector_port"],
        ports["supernode_port"],
        ports.get("metrics_port"),
        None if link is None else Path(str(link)),
    )


def gateway_of(home: NodeHome) -> Gateway:
    """Where the gate is, from the kit."""
    gate = home.kit().gate
    return Gateway(
        host=gate.host,
        port=gate.port,
        name=gate.names[0],
        authority=home.authority_path,
        certificate=home.certificate_path,
        key=home.client_key_path,
    )


def prepare(home: NodeHome, places: Places) -> None:
    """Check what the processes need before any is started, and make their secrets.

    Raises:
        UsageError: If no kit was installed, or a key is missing.
        ExpiredError, NotYetValidError: If a certificate is outside its dates.
        RevokedError, NotAMemberError: If this node is not on the roster that it holds.
        IntegrityError: If a file is damaged.
    """
    now = datetime.now(UTC)
    for name, certificate in (("authority.pem", home.authority()), ("client.pem", home.certificate())):
        if check_dates(certificate, now, name, _RENEW) is State.soon:
            _LOG.warning("%s expires soon: %s", name, _RENEW)
    home.roster().member(home.name)
    home.supernode_key()
    places.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    if places.link is not None:
        prepare_link(places, now)
        return
    _write_secret(places.secret, SecureSource().bytes(_SECRET_BYTES))
    _make_loopback(places, now)


def prepare_link(places: Places, now: datetime) -> None:
    """Put what a SuperNode of another user needs into the folder that both can read.

    What is there already stays, so that either side can be started again without the other.

    Raises:
        UsageError: If there is no such folder, or others can read it.
    """
    link = places.link
    assert link is not None  # noqa: S101 - asked for with one
    if not link.is_dir() or link.stat().st_mode & 0o007:
        raise UsageError(
            f"{link}: expected a folder for this user and the SuperNode's group alone, got "
            f"{'another mode' if link.exists() else 'none'}; make it with mode 2750 and that group"
        )
    if not (places.secret.exists() and places.certificate.exists() and places.key.exists()):
        _write_secret(places.secret, SecureSource().bytes(_SECRET_BYTES), mode=0o640)
        _make_loopback(places, now)
        places.certificate.chmod(0o640)
    ports = {"connector": places.connector, "supernode": places.supernode}
    replace(link / PORTS, json.dumps(ports).encode("ascii"), 0o640)  # a SuperNode that starts now reads it whole


def read_link(link: Path) -> tuple[int, int]:
    """Ports of connector and SuperNode, once the node has been started.

    Raises:
        UnavailableError: If it has not.
        UsageError: If this user cannot read the folder.
        IntegrityError: If a file is damaged.
    """
    try:
        if not all((link / name).exists() for name in (SECRET, CERTIFICATE, PORTS)):
            raise UnavailableError(
                f"{link}: expected what `silhouette node start` puts there, found less; start the node first"
            )
        ports = json.loads((link / PORTS).read_text(encoding="ascii"))
        return int(ports["connector"]), int(ports["supernode"])
    except PermissionError:
        raise UsageError(f"{link}: expected a folder that this user's group can read; join that group") from None
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{link / PORTS}: expected two ports, got something else; start the node again") from None


def supernode_of(
    link: Path, ports: tuple[int, int], key: Path, work: Path, settings: str = "in the node's processes.toml"
) -> Service:
    """The SuperNode.

    Args:
        link: Where its secret and the connector's certificate lie.
        ports: Of connector and SuperNode, on loopback.
        key: That it shows the coordinator.
        work: For what Flower keeps.
        settings: Where the ports are set.
    """
    connector, supernode = ports
    return Service(
        name="supernode",
        command=(
            str(Path(sys.executable).parent / "flower-supernode"),
            *("--root-certificates", str(link / CERTIFICATE)),
            *("--superlink", f"127.0.0.1:{connector}"),
            *("--auth-supernode-private-key", str(key)),
            *("--host", "127.0.0.1", "--port", str(supernode)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(link / SECRET)),
        ),
        environment={**FLOWER_ENVIRONMENT, "FLWR_HOME": str(work / "flower")},
        ports=(Port("127.0.0.1", supernode, f"`supernode_port` {settings}"),),
        health=partial(answers, f"http://127.0.0.1:{supernode}/health"),
        longest_pause=5.0,  # what it waits for is over in a minute
        exits=SUPERNODE_EXITS,
    )


def services_of(home: Path, places: Places, supernode_key: Path) -> list[Service]:
    """The node's processes in the order of their start; without the SuperNode if it starts apart."""
    settings = f"in {places.folder / SETTINGS}"
    own = [
        Service(
            name="connector",
            command=(*_ours("connector"), "--home", str(home)),
            environment=FLOWER_ENVIRONMENT,
            ports=(Port("127.0.0.1", places.connector, f"`connector_port` {settings}"),),
            beats=True,
            exits=OUR_EXITS,
        ),
        Service(
            name="agent",
            command=(*_ours("agent"), "--home", str(home)),
            environment=FLOWER_ENVIRONMENT,
            ports=() if places.metrics is None else (Port("127.0.0.1", places.metrics, f"`metrics_port` {settings}"),),
            beats=True,
            exits=OUR_EXITS,
        ),
    ]
    if places.link is not None:
        return own
    return [*own, supernode_of(places.work, (places.connector, places.supernode), supernode_key, places.work, settings)]


def _make_loopback(places: Places, now: datetime) -> None:
    """A certificate for 127.0.0.1 that only this node's own SuperNode trusts, as long as these processes run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "silhouette loopback")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))  # the clock may be put right while they run
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_secret(places.key, pem)
    places.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_secret(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        file.write(content)


def _ours(role: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "silhouette_client.processes", role)
