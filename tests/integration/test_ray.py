"""Flower's Ray engine gives what the engine in process gives, failures included, and leaves nobody behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file
from tests.integration.desk import PLAN, Desk

pytestmark = [pytest.mark.ray, pytest.mark.slow]
pytest.importorskip("ray", reason="Ray is an extra: silhouette-simulations[ray]")

QUICK = PLAN + 'rows = ["popularity", "federated"]\n'


def test_a_run_on_ray_gives_the_same_model_and_the_same_rows_and_prints_only_our_lines(desk: Desk) -> None:
    plan = desk.plan(QUICK)
    here = desk.run(plan, "--out", desk.out.parent / "process")
    ray = desk.run(plan, "--backend", "ray", "--out", desk.out.parent / "ray")
    assert ray.code == 0, ray.err
    one, other = (Path(done.document["folder"]) for done in (here, ray))
    pd.testing.assert_frame_equal(pd.read_csv(one / "rows.csv"), pd.read_csv(other / "rows.csv"), check_exact=True)
    left, right = (load_file(folder / "model/global.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    for name, part in left.items():
        assert abs(part - right[name]).max() <= 1e-5, name
    assert here.err.replace(str(one), "") == ray.err.replace(str(other), "")


def test_secure_aggregation_on_ray_keeps_to_one_process_and_gives_the_same_model(desk: Desk) -> None:
    plan = desk.plan(QUICK)
    here = desk.run(plan, "--secure-aggregation", "--out", desk.out.parent / "process")
    ray = desk.run(plan, "--secure-aggregation", "--backend", "ray", "--workers", 2, "--out", desk.out.parent / "ray")
    assert ray.code == 0, ray.err
    assert "one worker on Ray: the secrets of a round of secure aggregation stay in one process" in ray.err
    one, other = (Path(done.document["folder"]) for done in (here, ray))
    left, right = (load_file(folder / "model/global.safetensors") for folder in (one, other))
    for name, part in left.items():
        assert abs(part - right[name]).max() <= 1e-5, name
    steps = pd.read_csv(other / "secure-steps.csv")
    assert steps.groupby("round")["step"].count().tolist() == [5, 3, 3]
    assert (steps["survivors"] == 3).all()


ONE_REFUSES = """
import logging, os, torch
from flwr.app import Context
from silhouette_client.app import make_client_app
from silhouette_server.app import make_server_app
from silhouette_server.coordination.federation import Job
from silhouette_shared.config import Replies, Training
from silhouette_shared.errors import RefusedError, SilhouetteError
from silhouette_shared.model.vector import Layout
from silhouette_shared.wire import Description, TrainReply
from silhouette_simulations.backend import run_in_process, run_on_ray

layout = Layout(names=("model",), shapes=((5,),))

def app_of(layout):
    class Agent:
        def __init__(self, index):
            self.index = index
        def describe(self, request):
            return Description(request.run, f"partner-{self.index}", 3, request.plan_digest, layout.digest)
        def train(self, request):
            if self.index == 1:
                raise RefusedError("the budget is spent")
            return TrainReply(request.run, request.round, request.plan_digest, request.parameters)
    return make_client_app(lambda context: Agent(int(context.node_config["partition-id"])))

job = Job(run="r", plan_digest="p", layout=layout, schedule=Training(rounds=2), replies=Replies(minimum=2),
          partners=2, initial=torch.zeros(5))
for run in (run_in_process, run_on_ray):
    before = dict(os.environ)
    try:
        run(make_server_app(job), app_of(layout), nodes=2, workers=1)
    except SilhouetteError as error:
        print(type(error).__name__, error)
    # torch and Ray set variables of their own when they are imported; these would change what comes after.
    ours = ("PYTHONPATH", "OMP_NUM_THREADS", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    print("left behind", [name for name in ours if os.environ.get(name) != before.get(name)])
"""


def test_a_failure_of_the_coordinator_is_the_same_error_on_ray_as_in_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONE_REFUSES],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    here, nothing, ray, still_nothing = done.stdout.splitlines()
    assert here.startswith("UnavailableError round 1: expected at least 2 valid answers, got 1 ")
    assert "RefusedError: the budget is spent" in here
    assert ray == here
    assert nothing == still_nothing == "left behind []", "the environment is as it was"
    # In process the partner's own log is here as well; on Ray it stays in the worker.
    lines = [line for line in done.stderr.splitlines() if "a message was refused: the budget is spent" not in line]
    assert len(lines) == 2, "our own warning of each engine, and nothing of Flower's or Ray's"
    assert all("round 1: partner-1: error 2: RefusedError: the budget is spent" in line for line in lines)
    until = time.monotonic() + 60
    while living_actors() and time.monotonic() < until:  # Ray's own processes see that theirs has ended, and end them
        time.sleep(0.2)
    assert not living_actors()


def living_actors() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if command.startswith("ray::ClientAppActor"):
            found.append(command)
    return found
