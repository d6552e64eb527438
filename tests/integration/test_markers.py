"""Planted words at a node that builds, serves and erases: in no file, packet or answer where they should not be.

The node's tables came through `node ingest`'s own code, its run was agreed to, its model promoted; the commands
and the service are real processes, in a network namespace of their own where the machine allows it, with every frame
recorded, loopback among them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.enrolled
import tests.profiled
from tests.deployment import silhouette
from tests.markers import contents, family, shouted_in, spelled
from tests.profiled import USERS, Profiled
from tests.served import served
from tests.wires import Recording, Wires, why_not

from silhouette_client.profiles.vault import Vault
from silhouette_shared.wire.offers import PublicCatalogue

pytestmark = pytest.mark.slow

NODE = "east"
PERSON = USERS[3]
SECRET = "planted-5f0c9e17"
WINDOW = 24  # bytes of a vector that are searched for


def title(number: int) -> bytes:
    return f"title-{SECRET}-{number:02}.".encode()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profiled:
    """With a catalogue whose titles occur nowhere else, and a folder of its own for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    found = tests.enrolled.public_catalogue()
    titles = tuple(title(number).decode() for number in range(len(found.catalogue.items)))
    titled = PublicCatalogue(replace(found.catalogue, titles=titles), found.attributes)
    for module in (tests.enrolled, tests.profiled):
        monkeypatch.setattr(module, "public_catalogue", lambda: titled)
    (tmp_path / "house").mkdir()
    made = Profiled(tmp_path / "house")
    made.promote(1)
    return made


ASKING = """
import json, sys
from pathlib import Path
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving.client import ProfileClient
from silhouette_client.serving.service import NoProfileError
folder, address, step, user, item = sys.argv[1:]
parts = [Path(folder, name).read_bytes() for name in ("authority.pem", "shop.pem", "shop.key")]
event = pb.Event(user=user, item=item, behaviour="review", timestamp=1_700_000_000)
event.id, event.text = f"id-{item}", f"said {item}"
with ProfileClient.over_tls(
    address, authority=parts[0], certificate=parts[1], key=parts[2], timeout_seconds=240
) as client:
    if step == "ask":
        pushed, found = client.push([event]), client.profile(user)
        answers = [found.vector, client.recommend(user).items, client.explain(user).parts]
        print(json.dumps([pushed.accepted, *map(len, answers), list(found.vector)]))
    else:
        client.erase(user)
        pushed = client.push([event])
        try:
            client.profile(user)
        except NoProfileError:
            print(json.dumps([pushed.accepted, pushed.left_out]))
"""


@contextmanager
def serving(home: Path, tls: Path, within: list[str]) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The service with TLS; and what asks it as an application beside it."""
    with served(home, tls, within, tls.parent / "temporary" / "service.log") as (process, address):
        yield process, [*within, sys.executable, "-c", ASKING, str(tls), address]


def told(*words: str) -> list[Any]:
    """What a program printed, as JSON."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_nothing_planted_is_in_a_file_packet_or_log_and_nothing_of_the_person_after_an_erasure(
    node: Profiled, tmp_path: Path
) -> None:
    home, unknown = node.home, f"own-{SECRET}"  # in an item that the catalogue lacks, an id and a text
    built = silhouette("profile", "build", "--count", 5, home=home)
    assert built.returncode == 0, built.stderr
    with Vault.open(home) as vault:
        record = vault.get(PERSON, "test", "check")
        assert record is not None
        assert record.vector is not None
        keys = [*vault._keyring.wrapping.values(), vault._keyring.person, vault._keyring.audit]
        row = vault._store._connection().execute(
            "SELECT wrapped FROM people WHERE person = ?", (vault.pseudonym(PERSON),)
        )
        data_key = row.fetchone()[0]
    keys.append((home / "node" / "people" / "key").read_bytes())
    vector = record.vector.tobytes()[:WINDOW]
    needles = [PERSON.encode(), unknown.encode(), vector, *(one for key in keys for one in spelled(key))]
    key_files = {str(home / "profiles.key"), str(home / "node" / "people" / "key")}

    def looked(service: int | None = None) -> None:
        processes = family(service) if service is not None and os.geteuid() == 0 else []
        read = dict(contents([home, tmp_path / "temporary"], processes))
        assert str(home / "profiles.sqlite") in read
        for name, content in read.items():
            if name not in key_files:
                assert not [needle for needle in needles if needle in content], name
                alike(content, name)

    wires = None if why_not() else Wires((NODE,))
    with wires or nullcontext():
        within = [] if wires is None else wires.within(NODE)
        heard = None if wires is None else Recording(wires, tmp_path / "frames", NODE, loopback=True)
        with closing(heard) if heard else nullcontext():
            with serving(home, tmp_path / "tls", within) as (process, asking):
                looked(process.pid)
                assert any(data_key in one for _, one in contents([home], [])), "the search finds what is there"
                assert any(title(0) in one for _, one in contents([home], [])), "the public catalogue, for one"
                pushed, width, recommended, dimensions, shown = told(*asking, "ask", PERSON, unknown)
                assert (pushed, recommended) == (1, 5)
                assert min(width, dimensions) > 0
                needles.append(np.asarray(shown, np.float32).tobytes()[:WINDOW])
                logs = [one for name, one in contents([home], []) if name.endswith("-wal")]
                assert any(logs), "looked at while write-ahead logs are in use"
                looked(process.pid)
                assert told(*asking, "erase", PERSON, unknown) == [0, 1], "then nothing is taken or answered"
                needles.append(data_key)
                looked(process.pid)
            looked()
            if wires is not None and heard is not None:
                wires.shout(NODE, b"|".join(needles))  # the control
                assert heard.stop() == 0, "no frame was lost"
                overheard(list(heard.frames()), needles)
    for verb in (("profile", "show"), ("profile", "explain"), ("recommend",)):
        assert silhouette(*verb, PERSON, home=home).returncode == 3
    exported = json.loads(silhouette("subject", "export", PERSON, home=home).stdout)
    assert (exported["profile"], exported["segments"], exported["records"]) == (None, [], {})
    looked()


def alike(content: bytes, where: str) -> None:
    """The public catalogue names every item equally often; whatever tells of a person names some."""
    counted = {content.count(title(number)) for number in range(len(tests.enrolled.public_catalogue().catalogue.items))}
    assert len(counted) == 1, f"{where} tells one item from another"


def overheard(frames: list[bytes], needles: list[bytes]) -> None:
    """No frame but those of the control holds any of them or a title."""
    control = [frame for frame in frames if shouted_in(frame)]
    others = [frame for frame in frames if not shouted_in(frame)]
    assert all(any(needle in frame for frame in control) for needle in needles)
    assert sum(map(len, others)) > 3_000, "certificates, requests and answers passed"
    for frame in others:
        assert not [needle for needle in needles if needle in frame]
        assert SECRET.encode() not in frame
