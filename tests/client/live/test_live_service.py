"""`silhouette profile serve` at a node with a promoted model, as a process: pushed, killed, started again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.profiled import USERS, Profiled

from silhouette_client.ingest.reading import read_people
from silhouette_client.profiles.building import made_records
from silhouette_client.profiles.node_model import promoted_model
from silhouette_client.profiles.vault import Vault
from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving.client import ProfileClient
from silhouette_client.serving.grpc_server import SOCKET_NAME
from silhouette_shared.cli import main
from silhouette_shared.errors import UnavailableError

GRANTS = '[clients.local]\nroles = ["tags", "vectors", "write", "erase"]\n'
START = 1_750_000_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    made = Profiled(tmp_path_factory.mktemp("live"))
    made.promote(1)
    (made.home / "serving.toml").write_text(GRANTS, encoding="utf-8")
    assert main(["profile", "build", "--home", str(made.home)]) == 0
    return made


@contextmanager
def served(home: Path) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, once it answers."""
    script = "from silhouette_shared.cli import main; raise SystemExit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", script, "profile", "serve", "--home", str(home)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stderr is not None
            lines = []
            while line := process.stderr.readline():
                lines.append(line)
                if line.startswith("answering"):
                    break
            assert lines, "it ended"
            assert lines[-1].startswith("answering"), "".join(lines)
            assert "no events are taken" not in lines[-1]
            yield process
        finally:
            process.kill()


def event(number: int) -> pb.Event:
    return pb.Event(
        user=USERS[number % len(USERS)],
        item=f"i{number % 20 + 1}",
        behaviour="click",
        timestamp=START + number,
        id=f"event-{number}",
    )


def push_until_killed(home: Path, process: subprocess.Popen[str], first: int, after: float) -> list[int]:
    """Push one event after another, kill the service meanwhile; the numbers that were acknowledged."""
    timer = threading.Timer(after, process.send_signal, [signal.SIGKILL])
    acknowledged: list[int] = []
    with ProfileClient.on_socket(home / SOCKET_NAME, 120) as client:
        client.push([event(first)])
        acknowledged.append(first)
        timer.start()
        try:
            while True:
                number = first + len(acknowledged)
                client.push([event(number)])
                acknowledged.append(number)
        except UnavailableError:
            timer.join()
            return acknowledged


@pytest.mark.slow
def test_no_acknowledged_event_is_lost_and_none_is_there_twice_however_often_it_is_killed(node: Profiled) -> None:
    draw = random.Random(7)
    acknowledged: list[int] = []
    unanswered: list[int] = []
    for life in range(3):
        with served(node.home) as process:
            with ProfileClient.on_socket(node.home / SOCKET_NAME, 120) as client:
                for number in unanswered:  # as an application does after the error, with one that was answered
                    answer = client.push([event(number), event(acknowledged[-1])])
                    assert answer.accepted + answer.repeated == 2
                    assert answer.repeated >= 1
                    acknowledged.append(number)
            if life < 2:
                acknowledged += push_until_killed(node.home, process, 1000 * life, draw.uniform(0.05, 0.6))
                unanswered = [acknowledged[-1] + 1]
                process.wait()
    model = promoted_model(node.home, torch.device("cpu"))
    people = read_people(node.home, model.numbers, model.words.attributes, "profiling")
    times = people.histories.timestamps
    assert sorted(times[times >= START].tolist()) == sorted(START + number for number in acknowledged)
    with Vault.open(node.home) as vault:
        for row, user in enumerate(people.users):
            (whole,) = made_records(model, people.histories.of_people(torch.tensor([row])), 20)
            found = vault.get(user, "test", "check")
            assert found is not None
            assert [one.item for one in found.recommendations or ()] == [
                one.item for one in whole.recommendations or ()
            ]
            assert found.vector == pytest.approx(whole.vector, abs=1e-5)


def test_an_event_is_in_the_answers_and_counted_as_a_response_and_goes_with_the_person(
    node: Profiled, capsys: pytest.CaptureFixture[str]
) -> None:
    person = USERS[0]
    with served(node.home) as process, ProfileClient.on_socket(node.home / SOCKET_NAME, 120) as client:
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii")
        assert re.search(r"Max core file size +0 +0 ", limits)
        first = client.recommend(person, 1).items[0].item
        wanted = pb.Event(user=person, item=first, behaviour="purchase", timestamp=int(time.time()), value=3.5)
        answer = client.push([wanted])
        assert (answer.accepted, answer.profiles) == (1, 1)
        assert first not in {one.item for one in client.recommend(person, 20).items}
        until = time.monotonic() + 240
        while not (shown := responses(node.home, capsys)) or not shown[0]["responded"]:
            assert time.monotonic() < until, shown
        (found,) = shown
        assert (found["people"], found["taken"], found["responded"]) == (1, 1, 1)
        assert found["rate"] == pytest.approx(1 / found["offered"])
        assert found["coverage"] == pytest.approx(found["items"] / 20)
        client.erase(person)
        assert client.push([event(0)]).left_out == 1
        assert responses(node.home, capsys) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
        with pytest.raises(UnavailableError, match="UNAVAILABLE"):
            client.recommend(person)
    assert main(["subject", "export", person, "--home", str(node.home)]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["profile"] is None
    assert person not in json.dumps({key: value for key, value in exported.items() if key != "user"})
    model = promoted_model(node.home, torch.device("cpu"))
    assert person not in read_people(node.home, model.numbers, model.words.attributes, "profiling").users


def test_an_unknown_behaviour_is_refused(node: Profiled, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "response", "--home", str(node.home), "--behaviour", "dance"]) == 2
    assert "expected behaviours out of view" in capsys.readouterr().err


def responses(home: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What the command shows of purchases, once the service wrote down what it recommended."""
    time.sleep(3)
    capsys.readouterr()
    assert main(["profile", "response", "--home", str(home), "--behaviour", "purchase", "--format", "json"]) == 0
    return list(json.loads(capsys.readouterr().out)["models"])
