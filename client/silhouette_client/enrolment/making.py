"""`silhouette node init`: three keys that never leave this machine, and the request that says whose they are."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from silhouette_client.enrolment.home import NodeHome
from silhouette_shared.enrolment.certificates import pem_of, signing_request
from silhouette_shared.enrolment.documents import MOST_PEOPLE, NodeRequest
from silhouette_shared.enrolment.signed import NAME_RULE, is_name
from silhouette_shared.errors import UsageError
from silhouette_shared.private_files import PUBLIC, locked, make_folder, replace, write_new
from silhouette_shared.randomness import SecureSource
from silhouette_shared.secagg.keys import KEY_BYTES, Identity

_MADE = ("identity.key", "supernode.key", "supernode.pub", "client.key", "request.json", "node.toml", "kit.json")


def make_node(home: NodeHome, name: str, people: int) -> NodeRequest:
    """Make this node's keys and its request.

    Args:
        home: Where; nothing in it is overwritten.
        name: The partner's, on the roster and everywhere.
        people: How many people the partner declares; public, and no count of records.

    Returns:
        The request; `request.json` in the folder is the file that goes to the coordinator.

    Raises:
        UsageError: If the name or the number cannot be one, or there is a node in this home already.
    """
    if not is_name(name):
        raise UsageError(f"NAME: expected {NAME_RULE}, got {name!r}")
    _check_people(people)
    make_folder(home.folder)
    with locked(home.folder):
        found = [one for one in _MADE if (home.folder / one).exists()]
        if found:
            raise UsageError(
                f"{home.folder}: expected no node yet, found {', '.join(found)}; nothing is overwritten: move the "
                "folder "
                "away first, or take another --home"
            )
        secret = SecureSource().bytes(KEY_BYTES)
        supernode = ec.generate_private_key(ec.SECP384R1())
        client = ec.generate_private_key(ec.SECP256R1())
        public = supernode.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        identity = Identity(secret)
        request = NodeRequest(
            name=name,
            people=people,
            identity=identity.public.hex(),
            supernode_public=public.decode("ascii"),
            csr=pem_of(signing_request(client, name)),
        )
        write_new(home.identity_path, secret)
        write_new(
            home.supernode_path,
            supernode.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            ),
        )
        write_new(home.folder / "supernode.pub", public + b"\n", PUBLIC)
        write_new(
            home.client_key_path,
            client.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )
        write_new(home.folder / "node.toml", _settings(name, people), PUBLIC)
        write_new(home.folder / "request.json", request.encode(identity, supernode), PUBLIC)
    return request


def declare_again(home: NodeHome, people: int) -> NodeRequest:
    """A new request with the same keys and another number of people.

    Until the coordinator has signed it, this node is not what the roster says and takes part in nothing.

    Raises:
        UsageError: If the number cannot be one, or there is no node here.
    """
    _check_people(people)
    request = NodeRequest(
        name=home.name,
        people=people,
        identity=home.identity().public.hex(),
        supernode_public=(home.folder / "supernode.pub").read_text(encoding="ascii").strip(),
        csr=pem_of(signing_request(home.client_key(), home.name)),
    )
    with locked(home.folder):
        replace(home.folder / "node.toml", _settings(home.name, people), PUBLIC)
        replace(home.folder / "request.json", request.encode(home.identity(), home.supernode_key()), PUBLIC)
    return request


def _check_people(people: int) -> None:
    if not 1 <= people <= MOST_PEOPLE:
        raise UsageError(f"--people: expected 1 to {MOST_PEOPLE} people, got {people}")


def _settings(name: str, people: int) -> bytes:
    return f'name = "{name}"\npeople = {people}\n'.encode("ascii")
