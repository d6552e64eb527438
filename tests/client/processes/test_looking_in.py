"""Nobody of the same user looks into the real agent or the real service, and neither leaves a core."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.profiled import Profiled

from silhouette_client.processes.services import places_of, prepare
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.vault import Vault

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl and ptrace are Linux's")

COMMAND = "from silhouette_shared.cli import main; raise SystemExit(main())"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    made = Profiled(tmp_path_factory.mktemp("looking"))
    Vault.open(made.home, make=KeyFile()).close()
    home = made.house.home("east")
    prepare(home, places_of(home))
    return made


def looked_into(ready: str, *program: str) -> dict[str, str]:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)

    def cores_on() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))

    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("looking_in.py")), ready, *program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=cores_on,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def test_a_program_that_is_not_protected_can_be_looked_into_by_this_very_attempt() -> None:
    wait = "import sys, time; sys.stderr.write('ready\\n'); sys.stderr.flush(); time.sleep(60)"
    found = looked_into("ready", sys.executable, "-c", wait)
    assert (found["attach"], found["memory"]) == ("done", "done")


def test_the_agent_cannot_be_looked_into_and_leaves_no_core(node: Profiled) -> None:
    found = looked_into(
        "cores-off", sys.executable, "-m", "silhouette_client.processes", "agent", "--home", str(node.home)
    )
    assert found == {"attach": "EPERM", "memory": "EACCES", "cores": "0"}


def test_the_service_cannot_be_looked_into_and_leaves_no_core(node: Profiled) -> None:
    found = looked_into("answering on", sys.executable, "-c", COMMAND, "profile", "serve", "--home", str(node.home))
    assert found == {"attach": "EPERM", "memory": "EACCES", "cores": "0"}
