"""A coordinator and three partners as real processes on loopback: the simulation's model, and what kill -9 does."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse
from tests.deployment import Deployment, silhouette
from tests.integration import kills
from tests.integration.consortium_by_hand import photograph
from tests.integration.desk import PLAN

from silhouette_client.outbox import OUTBOX_NAME, read_outbox
from silhouette_server.processes.holders import supernode_pem
from silhouette_shared.cards.content import unpack_model
from silhouette_shared.cli import main as command
from silhouette_shared.config import read_plan
from silhouette_shared.model.vector import Layout
from silhouette_simulations import datasets
from silhouette_simulations.models import new_encoder
from silhouette_simulations.training import Machine, train_together
from silhouette_simulations.world import build_world

pytestmark = pytest.mark.slow

ROUNDS = 3

PARTNERS = ("partner-0", "partner-1", "partner-2")


def plan_text(rounds: int, name: str = "tiny") -> str:
    return (
        PLAN.replace('name = "tiny"', f'name = "{name}"')
        .replace("rounds = 3", f"rounds = {rounds}")
        .replace("[privacy]\n", '[privacy]\nmode = "none"\n')
        + '\n[aggregation]\nprotocol = "sa-1"\n\n[replies]\ntimeout_seconds = 120.0\n'
    )


@dataclass(frozen=True)
class Stage:
    """The deployment that all tests here share, and where plans and data are."""

    deployment: Deployment
    data_home: Path
    plans: Path

    def plan(self, rounds: int, name: str) -> Path:
        path = self.plans / f"{name}.toml"
        path.write_text(plan_text(rounds, name))
        return path


@pytest.fixture(scope="module")
def stage(data_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("deployment")
    plan = folder / "plan.toml"
    plan.write_text(plan_text(ROUNDS))
    done = silhouette("sim", "deal", plan, "--out", folder / "dealt", "--format", "json", home=data_home)
    assert done.returncode == 0, done.stderr
    with Deployment(folder / "homes", folder / "dealt", json.loads(done.stdout)["people"]) as deployment:
        deployment.start_all()
        for who in ("coordinator", *deployment.people):
            deployment.await_healthy(who)
        yield Stage(deployment, data_home, folder)
        codes = {who: deployment.stop(who) for who in list(deployment.processes)}
    assert set(codes.values()) == {0}


def simulated(stage: Stage, plan: Path, folder: Path) -> torch.Tensor:
    """What the same plan gives in a simulation."""
    read = read_plan(plan)
    world = build_world(read, datasets.load(read.data.dataset, home=stage.data_home))
    machine = Machine("process", torch.device("cpu"), 1)
    return train_together(
        read,
        world,
        world.partners,
        name="federated",
        budget=None,
        folder=folder,
        machine=machine,
        on_round=lambda record, model: None,
    ).parameters


def deployed(stage: Stage, plan: Path, run: str, number: int) -> torch.Tensor:
    """The model of a committed round, from the registry."""
    read = read_plan(plan)
    world = build_world(read, datasets.load(read.data.dataset, home=stage.data_home))
    layout = Layout.of(new_encoder(read, world.vocabulary, torch.device("cpu")))
    with stage.deployment.registry() as registry:
        return unpack_model(registry.model(f"{run}:{number}").read(), layout)


def test_a_run_that_was_stopped_and_resumed_ends_with_the_simulations_model(stage: Stage, tmp_path: Path) -> None:
    plan, home = stage.plan(ROUNDS, "same"), ("--home", str(stage.deployment.homes.coordinator))
    run = stage.deployment.submit(plan)
    stage.deployment.await_round(run, 1)
    assert command(["run", "stop", run, *home]) == 0
    stopped = stage.deployment.await_run(run, ("stopped",))
    assert len(stopped.committed) < ROUNDS
    assert not stopped.unfinished
    assert command(["run", "resume", run, *home]) == 0
    assert command(["run", "watch", run, *home, "--timeout", "300"]) == 0
    found = stage.deployment.run(run)
    assert [one.state.value for one in found.rounds.values()] == ["committed"] * ROUNDS
    model = deployed(stage, plan, run, ROUNDS)
    torch.testing.assert_close(model, simulated(stage, plan, tmp_path), rtol=0.0, atol=1e-6)
    done = silhouette("run", "show", run, "--format", "json", home=stage.deployment.homes.coordinator)
    assert json.loads(done.stdout)["committed"] == ROUNDS
    kept = Path(os.environ.get("SILHOUETTE_TEST_SCREENSHOTS", tmp_path))  # CI keeps `deployment.png`
    picture = photograph(stage.deployment, [run], kept)
    assert picture is None or picture.stat().st_size > 60_000  # far more than an empty page takes
    for name in stage.deployment.people:
        sent = [one for one in read_outbox(stage.deployment.homes.node(name).folder / OUTBOX_NAME) if one.run == run]
        masked = [one for one in sent if one.purpose == "training" and one.step == "mask"]
        assert sorted({one.round for one in masked}) == list(range(1, ROUNDS + 1))
        assert all(one.size > 4 * len(model) for one in masked)


def test_a_refusal_of_the_nodes_ends_a_run_with_their_reasons_and_without_a_wait(stage: Stage, tmp_path: Path) -> None:
    """Their policy has no mode `distributed`; the plan would wait 300 s for an answer."""
    plan = tmp_path / "refused.toml"
    plan.write_text(kills.plan_text().replace("epsilon = 2.0", 'mode = "distributed"\nepsilon = 2.0'))
    run = stage.deployment.submit(plan)
    found = stage.deployment.await_run(run, ("stopped", "failed", "completed"), 280.0)
    assert found.state.value == "stopped"
    reason = "mode: expected one of the modes local, none, got distributed; offer another plan"
    assert all(f"refused, {name}: {reason}" in found.reason for name in stage.deployment.people), found.reason
    assert not found.rounds
    said = [str(line["message"]) for line in stage.deployment.logged("coordinator", "serverapp")]
    offered = [match for text in said if (match := re.match(r"query\.offer: .* answered after ([\d.]+) s", text))]
    assert float(offered[-1][1]) < 120.0  # of a machine that others share; a node's own answer takes less than 5
    for name in stage.deployment.people:
        said = [str(line["message"]) for line in stage.deployment.logged(name, "agent")]
        assert any(text.startswith("an offer was refused: mode: ") and text.endswith(reason) for text in said)


def test_from_outside_the_gate_there_is_no_control_call_no_task_call_and_no_run_listing(stage: Stage) -> None:
    """With a partner's own certificate and key, against the real SuperLink behind the gate."""
    homes = stage.deployment.homes
    node, folder = homes.node("partner-0"), homes.office.folder
    port, inner = homes.office.settings.gate.port, stage.deployment.status("coordinator")
    assert inner is not None
    context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
    plain = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        _ask(plain, "/v1/fleet/pull-messages", {})
    context.load_cert_chain(node.certificate_path, node.client_key_path)
    headers = _signed(node.supernode_key(), supernode_pem((node.folder / "supernode.pub").read_text().strip()))
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/v1/fleet/register-node", "/openapi.json"):
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
        assert _ask(connection, path, headers)[0] == 404
    # The SuperLink itself would answer: the gate is what stands between.
    own = ssl.create_default_context(cafile=str(folder / "authority.pem"))
    superlink = int((folder / "processes.toml").read_text().split("superlink_port = ")[1].split()[0])
    inside = http.client.HTTPSConnection("127.0.0.1", superlink, context=own, timeout=60)
    status, content = _ask(inside, "/v1/control/list-runs", {}, ListRunsRequest().SerializeToString())
    assert status == 200
    ListRunsResponse.FromString(content)


def _ask(
    connection: http.client.HTTPSConnection, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    connection.request("POST", path, body, {"content-type": "application/protobuf", **headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def _signed(key: ec.EllipticCurvePrivateKey, public: bytes) -> dict[str, str]:
    now = datetime.now(UTC).isoformat()
    return {
        "flwr-public-key": b64encode(public).decode(),
        "flwr-timestamp": now,
        "flwr-signature": b64encode(key.sign(now.encode(), ec.ECDSA(hashes.SHA256()))).decode(),
    }


@pytest.mark.parametrize("case", kills.sample(20, 12, PARTNERS), ids=lambda case: case.name)
def test_killed_in_any_phase_a_run_ends_by_itself_with_every_round_accounted_for(
    stage: Stage, tmp_path: Path, case: kills.Case
) -> None:
    """Every round is committed once or void with its reason, none is charged twice, no charge is missing, and registry
    and ledgers verify. `kills.jsonl` has those that were played whole.
    """
    plan = tmp_path / "kills.toml"
    plan.write_text(kills.plan_text())
    played = kills.Stage(stage.deployment, plan).play(case)
    assert not played["faults"], played
