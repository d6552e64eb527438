"""Coordinator and partners as real processes, each in a network namespace of its own where the machine allows it.

What passes the cables between them is recorded and searched. Over the same line a model is evaluated, promoted, brought
to the nodes, trained further, and taken back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.deployment import PERMISSIVE, Deployment, silhouette, wait_for
from tests.markers import contents, family, shouted_in, spelled
from tests.served import served
from tests.wires import Recording, Wires, why_not

from silhouette_client.offers.acceptance import Surroundings, open_run
from silhouette_client.offers.people import people_in
from silhouette_client.peers import PeerMemory
from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain
from silhouette_client.profiles.vault import Vault
from silhouette_client.promoted import held_model
from silhouette_client.secure import Asked
from silhouette_server.runs import write_public_catalogue
from silhouette_shared.cards import check_privacy, unpack_model
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.errors import IntegrityError
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.wire.offers import PublicCatalogue

pytestmark = pytest.mark.slow

PARTNERS = ("east", "north", "south")
PEOPLE, ITEMS, EVENTS = 20, 30, 8
SECRET = "planted-5f0c9e17"
WINDOW = 24  # bytes of a vector that are searched for

PLAN = """
name = "{name}"
data = {{ history_length = 8 }}
partition = {{ partners = 3 }}
model = {{ width = 8, blocks = 1, content_width = 4, dimensions = ["activity", "content"] }}
training = {{ rounds = 1, batch_size = 8 }}
privacy = {{ mode = "{mode}", epsilon = 16.0, rounds = 1, sampling_rate = 0.5 }}
statistics = {{ popularity_share = 0.0, transition_share = 0.0 }}
analytics = {{ evaluation_share = {share} }}
aggregation = {{ protocol = "sa-1" }}
replies = {{ timeout_seconds = 240.0 }}
promotion = {{ margin = 0.9, confidence = 0.6 }}
"""


MAPPING = """
consent = "elsewhere"
[[source]]
table = "events"
match = "*.csv"
[source.columns]
user = { column = "who" }
item = { column = "what" }
behaviour = { constant = "view" }
timestamp = { column = "when", unit = "s" }
"""


def user(partner: str, number: int) -> str:
    return f"user-{SECRET}-{partner}-{number}"


def item(number: int) -> str:
    return f"item-{SECRET}-{number}"


def title(number: int) -> str:
    return f"title-{SECRET}-{number:02}."


def deal(folder: Path) -> Path:
    """A catalogue, and each partner's exports with ids that occur nowhere else."""
    draw = np.random.default_rng(3)
    catalogue = Catalogue(
        items=tuple(item(number) for number in range(ITEMS)),
        titles=tuple(title(number) for number in range(ITEMS)),
        categories=("a", "b"),
        category_matrix=np.eye(2, dtype=np.float32)[np.arange(ITEMS) % 2],
        texts=("",) * ITEMS,
        content=draw.normal(size=(ITEMS, 4)).astype(np.float32),
    )
    folder.mkdir()
    write_public_catalogue(folder / "catalogue.safetensors", PublicCatalogue(catalogue, {}))
    for partner in PARTNERS:
        (folder / partner / "people").mkdir(parents=True)  # which `node ingest` fills
        lines = ["who,what,when"]
        for number in range(PEOPLE):
            for day, one in enumerate(draw.permutation(ITEMS)[:EVENTS]):
                lines.append(f"{user(partner, number)},{item(one)},{day * 86_400 + 1_600_000_000}")
        (folder / partner / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "mapping.toml").write_text(MAPPING)
    return folder


@dataclass
class Stage:
    """What all tests here share."""

    folder: Path
    deployment: Deployment
    wires: Wires | None  # None: on loopback
    recording: Recording | None
    inside: Recording | None = None  # of all that reaches or leaves a process of north's
    untouched: Iterator[int] = field(default_factory=lambda: iter(range(7, PEOPLE)))  # people whom no test erased

    def plan(self, name: str, mode: str, share: float) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(PLAN.format(name=name, mode=mode, share=share))
        return path

    def run(self, name: str, mode: str, share: float = 0.0, *options: str) -> str:
        run = self.deployment.submit(self.plan(name, mode, share), *options)
        found = self.deployment.await_run(run, ("completed", "stopped", "failed"), 400)
        assert found.state.value == "completed", found.reason
        return run

    def command(self, *words: object) -> dict[str, object]:
        done = silhouette(*words, "--format", "json", home=self.deployment.homes.coordinator)
        assert done.returncode == 0, done.stderr
        document: dict[str, object] = json.loads(done.stdout)
        return document

    def held(self) -> set[tuple[str, int] | None]:
        """Model and number that the nodes hold; None for one that is taking another at this moment."""
        found: set[tuple[str, int] | None] = set()
        for name in PARTNERS:
            try:
                one = held_model(self.deployment.homes.node(name))
            except IntegrityError:
                one = None
            found.add(None if one is None else (one.card.run, one.alias.number))
        return found

    def hold_a_model(self) -> None:
        """Promote one and wait for it, unless an earlier test did."""
        if self.held() == {None}:
            run = self.run("needed", "local", 0.5)
            self.command("model", "promote", run)
            wait_for(lambda: self.held() == {(run, 1)}, 300, "the nodes do not take the model")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("apart")
    dealt = deal(folder / "dealt")
    people = dict.fromkeys(PARTNERS, PEOPLE)
    with pytest.MonkeyPatch.context() as patch:
        temporary = folder / "temporary"
        temporary.mkdir()
        patch.setenv("TMPDIR", str(temporary))
        if why_not():
            with Deployment(folder / "homes", dealt, people) as deployment:
                yield started(Stage(folder, deployment, None, None))
            return
        with (
            Wires(PARTNERS) as wires,
            closing(Recording(wires, folder / "frames")) as recording,
            closing(Recording(wires, folder / "inside", "north", loopback=True)) as inside,
            Deployment(folder / "homes", dealt, people, hosts=(Wires.HOST,), within=wires.within) as deployment,
        ):
            settings = deployment.homes.office.folder / "processes.toml"
            settings.write_text(settings.read_text().replace('"127.0.0.1"', '"0.0.0.0"'))
            yield started(Stage(folder, deployment, wires, recording, inside))


def started(stage: Stage) -> Stage:
    dealt = stage.deployment.dealt
    for name in PARTNERS:
        words = ("node", "ingest", "--mapping", dealt / "mapping.toml", dealt / name / "events.csv")
        done = silhouette(*words, home=stage.deployment.homes.nodes[name])
        assert done.returncode == 0, done.stderr
    stage.deployment.start_all()
    for who in ("coordinator", *PARTNERS):
        stage.deployment.await_healthy(who, 300)
    return stage


def apart(stage: Stage) -> tuple[Wires, Recording]:
    if stage.wires is None or stage.recording is None:
        pytest.skip(why_not())
    stage.recording.go_on()
    return stage.wires, stage.recording


def test_from_a_partners_machine_the_gate_is_all_that_can_be_reached_and_a_partner_has_no_open_port(
    stage: Stage,
) -> None:
    wires, _ = apart(stage)
    gate = stage.deployment.homes.office.settings.gate.port
    inside = wires.listening("coordinator")
    assert len(inside) >= 2
    assert gate in inside
    assert wires.reachable("coordinator", "127.0.0.1", inside) == inside, "the look finds what is open"
    for name in PARTNERS:
        assert wires.reachable(name, Wires.HOST, inside) == {gate}
    for number, name in enumerate(PARTNERS):
        ports = wires.listening(name)
        assert len(ports) >= 2
        assert wires.reachable("coordinator", f"10.77.{number}.2", ports) == set()


def test_promoted_models_reach_the_nodes_by_themselves_runs_go_on_from_them_and_a_rollback_reaches_them(
    stage: Stage,
) -> None:
    before = max((one[1] for one in stage.held() if one is not None), default=0)
    charged_before = {name: charges(stage, name) for name in PARTNERS}
    first = stage.run("first", "local", 0.5)
    card = stage.command("model", "card", first)
    assert card["edition"] == 2, "the evaluation came after the round"
    stage.command("model", "promote", first)
    wait_for(lambda: stage.held() == {(first, before + 1)}, 300, "the nodes do not take the model")
    second = stage.run("second", "local", 0.5, "--start", "promoted")
    with stage.deployment.registry() as registry:
        old, new = registry.model(first).card, registry.model(second).card
    assert new.parent is not None
    assert new.parent.model == old.model
    assert new.evaluation is not None
    assert list(new.evaluation.beside) == [old.model], "evaluated on the same people"
    assert new.spent is not None
    assert old.spent is not None
    check_privacy(new)
    assert old.spent.epsilon == old.spent.run_epsilon < new.spent.epsilon
    assert {(one.run, one.purpose) for one in new.spent.releases} == {
        (run, purpose) for run in (first, second) for purpose in ("training", "evaluation")
    }
    statement = stage.command("model", "statement", second)
    guarantee = statement["guarantee"]
    assert isinstance(guarantee, dict)
    assert guarantee["epsilon"] == pytest.approx(new.spent.epsilon, rel=1e-3)
    assert "margin 0.9" in str(stage.command("model", "promote", second)["why"])
    wait_for(lambda: stage.held() == {(second, before + 2)}, 300, "the nodes do not take the next model")
    stage.command("model", "rollback")
    wait_for(lambda: stage.held() == {(first, before + 3)}, 300, "the way back does not reach the nodes")
    for name in PARTNERS:
        assert charges(stage, name) - charged_before[name] == {
            (run, purpose) for run in (first, second) for purpose in ("training", "evaluation")
        }


def charges(stage: Stage, name: str) -> set[tuple[str, str]]:
    """Run and purpose of everything in a node's ledger, which it makes for its first private run."""
    path = stage.deployment.homes.node(name).folder / LEDGER_NAME
    entries = read_chain(path).entries if path.exists() else []
    return {(one.content.run, one.content.purpose) for one in entries if isinstance(one.content, Charge)}


ASKING = """
import json, sys
from pathlib import Path
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving.client import ProfileClient
from silhouette_client.serving.service import NoProfileError
folder, address, user, item = sys.argv[1:]
parts = [Path(folder, name).read_bytes() for name in ("authority.pem", "shop.pem", "shop.key")]
with ProfileClient.over_tls(
    address, authority=parts[0], certificate=parts[1], key=parts[2], timeout_seconds=240
) as client:
    event = pb.Event(user=user, item=item, behaviour="purchase", timestamp=1_700_000_000, id=f"order of {user}")
    before = client.push([event])
    found = client.profile(user)
    answers = [found.vector, client.recommend(user).items, client.explain(user).parts]
    client.erase(user)
    after = client.push([event])
    try:
        client.profile(user)
    except NoProfileError:
        print(json.dumps([before.accepted, *map(len, answers), after.accepted, after.left_out, list(found.vector)]))
"""


@contextmanager
def serving(stage: Stage, name: str, tls: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A node's service with TLS, beside its agent; and what asks it as an application there."""
    home, within = stage.deployment.homes.nodes[name], [] if stage.wires is None else stage.wires.within(name)
    with served(home, tls, within, stage.folder / "temporary" / "service.log") as (process, address):
        yield process, [*within, sys.executable, "-c", ASKING, str(tls), address]


def test_nothing_planted_is_in_a_file_or_packet_of_a_node_that_builds_serves_and_trains_nor_in_an_answer_after_erasure(
    stage: Stage, tmp_path: Path
) -> None:
    home, person = stage.deployment.homes.nodes["north"], user("north", next(stage.untouched))
    if stage.inside is not None:
        stage.inside.go_on()
    stage.hold_a_model()
    built = silhouette("profile", "build", "--count", 5, home=home)
    assert built.returncode == 0, built.stderr
    with Vault.open(home) as vault:
        record = vault.get(person, "test", "check")
        assert record is not None
        assert record.vector is not None
        keys = [*vault._keyring.wrapping.values(), vault._keyring.person, vault._keyring.audit]
        row = vault._store._connection().execute(
            "SELECT wrapped FROM people WHERE person = ?", (vault.pseudonym(person),)
        )
        data_key = row.fetchone()[0]
    keys.append((home / "node" / "people" / "key").read_bytes())
    unknown = f"own-{SECRET}"  # which the catalogue lacks
    needles = [person.encode(), unknown.encode(), *(one for key in keys for one in spelled(key))]
    needles.append(record.vector.tobytes()[:WINDOW])
    key_files = {str(home / "profiles.key"), str(home / "node" / "people" / "key")}
    folders = [home, stage.folder / "temporary", stage.deployment.folder / "north.log"]
    supervisor = stage.deployment.processes["north"].pid

    def looked(service: int) -> None:
        read = dict(contents(folders, [*family(supervisor), *family(service)] if os.geteuid() == 0 else []))
        assert {str(home / "profiles.sqlite"), str(home / "node" / "logs" / "agent.jsonl")} <= set(read)
        for name, content in read.items():
            if name in key_files:
                continue
            assert not [needle for needle in needles if needle in content], name
            settled(Path(name), content)

    with serving(stage, "north", tmp_path / "tls") as (process, asking):
        looked(process.pid)
        assert any(data_key in one for _, one in contents([home], [])), "the search finds what is there"
        answered = subprocess.run([*asking, person, unknown], capture_output=True, text=True, timeout=600)
        assert answered.returncode == 0, answered.stderr
        *counts, vector = json.loads(answered.stdout)
        pushed, width, recommended, dimensions, *afterwards = counts
        assert (pushed, recommended, afterwards) == (1, 5, [0, 1]), "and then neither taken nor answered"
        assert min(width, dimensions) > 0
        needles += [data_key, np.asarray(vector, np.float32).tobytes()[:WINDOW]]
        looked(process.pid)
    for verb in (("profile", "show"), ("profile", "explain"), ("recommend",)):
        assert silhouette(*verb, person, home=home).returncode == 3
    exported = json.loads(silhouette("subject", "export", person, home=home).stdout)
    assert (exported["profile"], exported["segments"], exported["records"]) == (None, [], {})
    looked(supervisor)
    stage.run("after", "none")  # the agent trains without the person, in front of the same ears
    looked(supervisor)
    heard(stage, needles)


def alike(content: bytes) -> bool:
    """The public catalogue names every item equally often; whatever tells of a person names some."""
    return len({content.count(title(number).encode()) for number in range(ITEMS)}) == 1


def settled(path: Path, content: bytes) -> None:
    """A file tells no item from another, once it is not being written any more."""

    def now() -> bool:
        try:
            return alike(path.read_bytes())
        except FileNotFoundError:  # it was a temporary one
            return not path.name.endswith(" (deleted)")  # that is somebody's open file, seen as it stays

    if not alike(content):
        wait_for(now, 60, f"{path} tells one item from another")


def heard(stage: Stage, needles: list[bytes]) -> None:
    """What reached and left all processes of north's, loopback among it, holds none of them."""
    wires, _ = apart(stage)
    assert stage.inside is not None
    wires.shout("north", b"|".join(needles))  # the control
    assert stage.inside.stop() == 0, "no frame was lost"
    streams = stage.inside.streams()
    shouted = [content for (*_, port), content in streams.items() if port == 9]
    assert all(any(needle in content for content in shouted) for needle in needles)
    assert sum(map(len, streams.values())) > 200_000
    assert any(title(0).encode() in content for content in streams.values()), "the catalogue is heard on its way"
    for key, content in streams.items():
        if key[3] != 9:
            assert not [needle for needle in needles if needle in content]
            assert alike(content), f"a stream from {key[1]} to {key[3]} tells one item from another"
    for frame in stage.inside.frames():  # of every protocol
        assert shouted_in(frame) or not [needle for needle in needles if needle in frame]


def plain_update(stage: Stage, run: str, partner: str) -> list[bytes]:
    """A partner's update of the first round as it is before masks: float32, and the words that are masked."""
    home = stage.deployment.homes.node(partner)
    around = Surroundings(
        home=home,
        policy=PERMISSIVE,
        ledger=None,  # type: ignore[arg-type] # without privacy nothing is charged
        people=people_in(home.folder.parent, home.people),
        peers=PeerMemory(),
        device=torch.device("cpu"),
        now=datetime.now(UTC),
    )
    agent = open_run(home.runs / run, around).agent
    with stage.deployment.registry() as registry:
        layout = agent._layout
        after = unpack_model(registry.model(f"{run}:1").read(), layout).numpy()
    before = start_of(stage, run)
    asked = Asked(run, "training", 1, {"parameters": before})
    request = agent._train_request(asked)
    update = agent._trained(request).vector.numpy()
    assert update.any()
    words = agent.contribute(asked, agent.terms(asked)).words
    return [windows(update), windows(words), windows(before), windows(after)]


def start_of(stage: Stage, run: str) -> np.ndarray:
    from silhouette_server.runs import open_run as open_job

    office = stage.deployment.homes.office
    found: np.ndarray = open_job(office, office.folder / "runs" / run).initial.numpy()
    return found


def windows(vector: np.ndarray) -> bytes:
    """Some bytes from where a vector is not zero."""
    data, width = np.ascontiguousarray(vector), vector.dtype.itemsize
    (changed,) = np.nonzero(data[: len(data) - WINDOW // width])
    start = int(changed[len(changed) // 2]) * width
    return bytes(data.tobytes()[start : start + WINDOW])


def test_what_passes_the_cables_holds_no_id_of_a_person_or_item_and_no_update_in_clear(stage: Stage) -> None:
    wires, recording = apart(stage)
    run = stage.run("open", "none")
    needles = [one.encode() for one in (user("north", 7), user("east", 0), item(0), item(ITEMS - 1), SECRET)]
    for partner in PARTNERS:
        needles += plain_update(stage, run, partner)
    assert all(len(set(needle)) > 4 for needle in needles)
    frames = stage.folder / "frames"
    before = frames.stat().st_size
    wires.shout("north", b"|".join(needles))  # the control: what is sent in clear is found by the same search
    assert recording.stop() == 0, "no frame was lost"
    assert frames.stat().st_size > before
    streams = recording.streams()
    shouted = [content for (*_, port), content in streams.items() if port == 9]
    assert all(any(needle in content for content in shouted) for needle in needles)
    gate = stage.deployment.homes.office.settings.gate.port
    passed = {key: content for key, content in streams.items() if gate in (key[1], key[3])}
    assert {address for address, *_ in passed} == {
        bytes([10, 77, 0, 1]),
        *(bytes([10, 77, number, 2]) for number in range(3)),
    }
    assert sum(map(len, passed.values())) > 100_000
    for content in streams.values():
        if content not in shouted:
            assert not [needle for needle in needles if needle in content]
