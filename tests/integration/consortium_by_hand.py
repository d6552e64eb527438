"""A consortium from nothing to a private model, by the commands of README.md, each printed before it is run.

    python -m tests.integration.consortium_by_hand --home HOME --out FOLDER [--dataset ml-100k] [--rounds 10]

HOME holds the data set (`silhouette data get`). In FOLDER every organisation has a home of its own: a coordinator and
three partners who are dealt the data set's people. Two runs: one without noise, whose model has to be the simulation's
to 1e-6, and one with privacy in the mode `distributed`, which every partner's ledger has to have charged round by
round. Then a browser opens the dashboard. All processes are real, and the commands are given in this process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from tests.deployed import Homes, free_ports
from tests.deployment import Deployment, wait_for

from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain
from silhouette_client.policy.terms import Policy, write_policy
from silhouette_server.registry import RunView
from silhouette_shared.cards.content import unpack_model
from silhouette_shared.cli import main as command
from silhouette_shared.config import read_plan
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.ledger import Charge
from silhouette_simulations import datasets
from silhouette_simulations.models import new_encoder
from silhouette_simulations.training import Machine, train_together
from silhouette_simulations.world import build_world

PARTNERS = ("partner-0", "partner-1", "partner-2")  # as `silhouette sim deal` names them

PLAN = """\
name = "{name}"
seed = 0

[data]
dataset = "{dataset}"
history_length = 30

[partition]
partners = 3

[model]
width = 32
blocks = 1

[training]
rounds = {rounds}
batch_size = 32

[privacy]
mode = "{mode}"
epsilon = 8.0
rounds = {rounds}
sampling_rate = 0.2

[aggregation]
protocol = "sa-1"

[replies]
timeout_seconds = 900.0
"""


class WrongError(Exception):
    """Something is not as the README says."""


@dataclass
class Consortium:
    """Everybody's home, and the commands that were given in it."""

    home: Path  # with the data set
    folder: Path
    given: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        nodes = {name: self.folder / name for name in PARTNERS}
        self.homes = Homes(self.folder / "coordinator", nodes)

    def silhouette(self, *arguments: object, home: Path, whose: str) -> str:
        """One command; what it prints."""
        words = [str(argument) for argument in arguments]
        line = f"{whose:>12}$ silhouette {shlex.join(words)}"
        self.given.append(line)
        say(line)
        printed = io.StringIO()
        with redirect_stdout(printed):
            code = command([*words, "--home", str(home)])
        if code:
            raise WrongError(f"`silhouette {shlex.join(words)}` ended with {code}")
        return printed.getvalue()

    def ask(self, *arguments: object, home: Path, whose: str) -> Any:
        """One command that prints a JSON document."""
        return json.loads(self.silhouette(*arguments, "--format", "json", home=home, whose=whose))

    # What the README says, in its order

    def plan(self, name: str, dataset: str, mode: str, rounds: int) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(PLAN.format(name=name, dataset=dataset, mode=mode, rounds=rounds), encoding="utf-8")
        return path

    def deal(self, plan: Path) -> dict[str, int]:
        """Each partner's people; in a consortium everybody has them already."""
        dealt = self.ask("sim", "deal", plan, "--out", self.folder / "dealt", home=self.home, whose="anybody")
        return {str(name): int(people) for name, people in dealt["people"].items()}

    def enrol(self, people: dict[str, int], modes: tuple[str, ...]) -> None:
        """The authority, and three partners who come to it."""
        coordinator, ports = self.homes.coordinator, free_ports(2 + 2 * len(people))
        office: dict[str, Any] = {"home": coordinator, "whose": "coordinator"}
        init = self.ask("coordinator", "init", "--name", "demo", "--host", "localhost", "--port", ports[0], **office)
        # All on one machine here: everybody needs ports of their own.
        settle(coordinator / "coordinator", listen='"127.0.0.1"', superlink_port=ports[1])
        for number, name in enumerate(people):
            home = self.homes.nodes[name]
            at: dict[str, Any] = {"home": home, "whose": name}
            self.silhouette("coordinator", "invite", name, **office)
            request = self.ask("node", "init", name, "--people", people[name], **at)["request"]
            kit = self.folder / f"{name}.kit.json"
            self.ask("coordinator", "sign", request, "--out", kit, **office)
            self.ask("node", "install", kit, "--fingerprint", init["fingerprint"], **at)
            settle(home / "node", connector_port=ports[2 + 2 * number], supernode_port=ports[3 + 2 * number])
            policy = Policy(modes=modes, epsilon_per_run=10.0)  # type: ignore[arg-type]
            (home / "node" / "policy.toml").write_text(write_policy(policy), encoding="utf-8")
            shutil.copytree(self.folder / "dealt" / name / "people", home / "node" / "people")
            if not self.ask("node", "check", **at)["ready"]:
                raise WrongError(f"{name} is not ready")

    def started(self, people: dict[str, int]) -> Deployment:
        """`silhouette coordinator start` and `silhouette node start`, each with its processes."""
        deployment = Deployment(self.folder, self.folder / "dealt", people, enrolled=self.homes)
        for who in ("coordinator", *people):
            say(f"{who:>12}$ silhouette {'coordinator' if who == 'coordinator' else 'node'} start &")
            deployment.start(who)
        return deployment

    def run(self, plan: Path) -> str:
        """One run, to its end."""
        office: dict[str, Any] = {"home": self.homes.coordinator, "whose": "coordinator"}
        catalogue = self.folder / "dealt" / "catalogue.safetensors"
        run = str(self.ask("run", "submit", plan, "--catalogue", catalogue, **office)["run"])
        say(self.silhouette("run", "watch", run, **office))
        return run

    def difference(self, plan: Path, run: str, number: int) -> float:
        """Of the model that the registry exports from the simulation's, largest coordinate."""
        office: dict[str, Any] = {"home": self.homes.coordinator, "whose": "coordinator"}
        exported = self.folder / "exported"
        self.silhouette("model", "export", f"{run}:{number}", exported, **office)
        key = self.homes.office.identity().public.hex()
        self.silhouette("model", "verify", exported, "--key", key, home=self.folder / "anybody", whose="anybody")
        read = read_plan(plan)
        world = build_world(read, datasets.load(read.data.dataset, home=self.home))
        layout = Layout.of(new_encoder(read, world.vocabulary, torch.device("cpu")))
        (path,) = exported.glob("*.safetensors")
        model = unpack_model(path.read_bytes(), layout)
        expected = train_together(
            read,
            world,
            world.partners,
            name="federated",
            budget=None,
            folder=self.folder / "simulated",
            machine=Machine("process", torch.device("cpu"), 1),
            on_round=lambda record, parameters: None,
        ).parameters
        return float((model - expected).abs().max())

    def check_charges(self, found: RunView) -> None:
        """Every node's ledger: verified by its command, each committed round charged once, and its epsilon."""
        for name in PARTNERS:
            at: dict[str, Any] = {"home": self.homes.nodes[name], "whose": name}
            self.silhouette("budget", "verify", **at)
            chain = read_chain(self.homes.node(name).folder / LEDGER_NAME)
            charges = [entry.content for entry in chain.entries if isinstance(entry.content, Charge)]
            trained = [one.round for one in charges if one.run == found.name and one.purpose == "training"]
            if trained != [one.number for one in found.committed]:
                raise WrongError(f"{name}: charged rounds {trained}, committed {[o.number for o in found.committed]}")
            say(self.silhouette("budget", "show", **at))


def settle(folder: Path, **settings: object) -> None:
    """Ports in `processes.toml`."""
    text = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / "processes.toml").write_text(text, encoding="utf-8")


def photograph(deployment: Deployment, runs: list[str], kept: Path) -> Path | None:
    """The dashboard as a browser shows it, with these runs on it; None where there is no Chromium.

    Args:
        deployment: With runs that have ended.
        runs: Their names.
        kept: Folder for `deployment.png`.
    """
    (port,) = free_ports(1)
    code = "import sys; from silhouette_shared.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["coordinator", "dashboard", "--port", str(port), "--home", str(deployment.homes.coordinator)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for(lambda: answers(address), 300.0, "the dashboard does not answer")
        page = httpx.get(address).text
        for run in runs:
            if run not in page:
                raise WrongError(f"{run} is not on the dashboard")
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            return None
        kept.mkdir(parents=True, exist_ok=True)
        picture = kept / "deployment.png"
        profile = deployment.folder / "browser"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--hide-scrollbars", f"--user-data-dir={profile}"]
        shown = subprocess.run(
            [browser, *options, "--window-size=1280,2200", f"--screenshot={picture}", "--dump-dom", address],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        if any(run not in shown.stdout for run in runs):
            raise WrongError("the browser does not show the runs")
        return picture
    finally:
        process.terminate()
        process.wait(180)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5.0).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> int:
    """Everything; 0 if it is as the README says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    consortium = Consortium(given.home, given.out)
    open_plan = consortium.plan("open", given.dataset, "none", given.rounds)
    private_plan = consortium.plan("private", given.dataset, "distributed", given.rounds)
    people = consortium.deal(open_plan)
    consortium.enrol(people, ("none", "distributed"))
    began = time.monotonic()
    with consortium.started(people) as deployment:
        for who in ("coordinator", *people):
            deployment.await_healthy(who, 900.0)
        say(f"healthy after {time.monotonic() - began:.0f} s")
        same = consortium.run(open_plan)
        difference = consortium.difference(open_plan, same, given.rounds)
        say(f"largest difference from the simulation: {difference:.3g}")
        private = consortium.run(private_plan)
        consortium.check_charges(deployment.run(private))
        consortium.silhouette("model", "verify", home=consortium.homes.coordinator, whose="coordinator")
        say(f"picture: {photograph(deployment, [same, private], consortium.folder)}")
    return int(difference > 1e-6)


def say(text: str) -> None:
    sys.stdout.write(text.rstrip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
