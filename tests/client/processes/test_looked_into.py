"""The agent and the service as real processes: none of their own user looks in, and no core is left."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.deployed import enrol
from tests.profiles import profile

from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.vault import Vault

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace, prctl and /proc are Linux's")

ROLES = {
    "agent": ["-m", "silhouette_client.processes", "agent", "--home"],
    "service": [
        "-c",
        "from silhouette_shared.cli import main; raise SystemExit(main())",
        *("profile", "serve", "--home"),
    ],
}
LOOK = """
import ctypes, errno, sys
kernel = ctypes.CDLL(None, use_errno=True)
kernel.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
attached = kernel.ptrace(16, int(sys.argv[1]), None, None)  # PTRACE_ATTACH
print("attached" if attached == 0 else errno.errorcode[ctypes.get_errno()])
try:
    with open(f"/proc/{sys.argv[1]}/mem", "rb", 0):
        print("opened")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
IDLE = """
import ctypes, time
ctypes.CDLL(None).prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, any: Yama allows children alone
print("ready", flush=True)
time.sleep(300)
"""


def without_rights() -> list[str]:
    """What begins a command of root's, which with its rights might look everywhere."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of an enrolled node with a profile."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("as root this needs setpriv, to be without root's rights")
    made = enrol(tmp_path, {"north": 20}).nodes["north"]
    with Vault.open(made, make=KeyFile()) as vault:
        vault.put_many([("anna", profile(1))], "test", "build")
    return made


@contextmanager
def running(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Python without rights, with cores allowed and the home as its working directory, where cores would go."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    with subprocess.Popen(
        [*without_rights(), sys.executable, *words],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until_ready(process: subprocess.Popen[str]) -> None:
    """Read what it prints; before its own first line gRPC of the test's process may complain about the fork."""
    assert process.stdout is not None
    assert "ready\n" in process.stdout


def look(process: subprocess.Popen[str]) -> list[str]:
    """What another process of the same user gets that attaches, and that opens the memory."""
    done = subprocess.run(
        [*without_rights(), sys.executable, "-c", LOOK, str(process.pid)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def dumped(process: subprocess.Popen[str]) -> bool:
    """Whether it left a core when it crashed."""
    os.kill(process.pid, signal.SIGSEGV)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == -signal.SIGSEGV
    return os.WCOREDUMP(status)


def test_the_look_finds_a_process_that_gave_nothing_up(home: Path) -> None:
    """The control of the tests below."""
    with running(home, "-c", IDLE) as process:
        until_ready(process)
        assert look(process) == ["attached", "opened"]
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        return  # nobody's process leaves a core here
    with running(home, "-c", IDLE) as process:
        until_ready(process)
        assert dumped(process)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_nobody_attaches_to_it_reads_its_memory_or_gets_a_core(home: Path, role: str) -> None:
    with running(home, *ROLES[role], str(home)) as process:
        until_it_holds_its_store(process, home, role)
        assert look(process) == ["EPERM", "EACCES"]
        assert not dumped(process)
    assert not list(home.glob("core*"))


def until_it_holds_its_store(process: subprocess.Popen[str], home: Path, role: str) -> None:
    limits, end = Path(f"/proc/{process.pid}/limits"), time.monotonic() + 400
    held = home / ("node/ledger.sqlite" if role == "agent" else "profiles.sock")
    while not held.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    assert held.exists()
    assert re.search(r"Max core file size +0 +0 ", limits.read_text(encoding="ascii"))
