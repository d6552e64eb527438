"""Profiles follow the promoted model by themselves: the agent starts a build when it holds another one.

A build is a process of its own, so that what it needs in memory goes with it and a kill of either leaves the other. It
writes who or whose model changed, as `silhouette profile build` does. The first build is the operator's, who chooses
there how the keys are protected; without a store nothing is started.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.promoted import held_stamp
from silhouette_shared.files import write_atomically

_LOG = logging.getLogger(__name__)

BUILT = "profiles-built.json"
"""In the folder of the node's processes: of which model all profiles are."""

_LOOK_SECONDS = 5.0
_AGAIN_SECONDS = 600.0  # after a build that failed; its log says why
_GENTLE = 10  # training and answers come first
_END_SECONDS = 10.0


class Builder:
    """Starts builds of profiles from a thread of its own until it is stopped.

    Args:
        home: In which `node/` lies.
        work: Where it keeps what was built.
        seconds: Between two looks.
        command: What builds; ends with 0 once every profile is of the promoted model.
        clock: Seconds that only go up.
    """

    def __init__(
        self,
        home: Path,
        work: Path,
        seconds: float = _LOOK_SECONDS,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home, self._node, self._path, self._seconds = home, NodeHome.of(home), work / BUILT, seconds
        ours = (sys.executable, "-m", "silhouette_client.processes", "profiles", "--home", str(home))
        self._command, self._clock = tuple(command or ours), clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="profile-builds", daemon=True)
        self._failed: tuple[tuple[int, ...], float] | None = None

    def __enter__(self) -> Builder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def is_due(self) -> bool:
        """Whether the node holds another promoted model than the profiles are of."""
        from silhouette_client.profiles.store import STORE_NAME

        held = held_stamp(self._node)
        if not held or not (self._home / STORE_NAME).exists() or held == self._built():
            return False
        if self._failed is None or self._failed[0] != held:
            return True
        return self._clock() - self._failed[1] >= _AGAIN_SECONDS

    def build(self) -> bool:
        """Build now, to the end or until this is stopped; says whether all profiles are of the promoted model."""
        held = held_stamp(self._node)  # read before: a model that comes meanwhile is built for after this one
        with subprocess.Popen(self._command) as process:
            while process.poll() is None and not self._stop.wait(0.2):
                pass
            if process.poll() is None:
                process.terminate()  # it goes on at the next start where it was
                try:
                    process.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                return False
        if process.returncode != 0:
            self._failed = (held, self._clock())
            _LOG.error("profiles were not built: exit code %d; try `silhouette profile build`", process.returncode)
            return False
        write_atomically(self._path, json.dumps(held).encode("ascii"), mode=0o600)
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                if self.is_due():
                    self.build()
            except OSError as error:  # the next look tries again
                _LOG.error("profiles were not built: %s", error.strerror or type(error).__name__)

    def _built(self) -> tuple[int, ...]:
        try:
            return tuple(int(number) for number in json.loads(self._path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):  # a build too many changes nothing
            return ()


def build_all(home: Path) -> None:
    """Build the profiles of who or whose model changed with the promoted model, unattended, as was chosen last.

    Raises:
        SilhouetteError: If store, keys, records or model cannot be used; nothing is lost, and a later one goes on.
    """
    import torch

    from silhouette_client.node_folder import DEVICE_VARIABLE
    from silhouette_client.profiles.building import build_node
    from silhouette_client.profiles.choices import read_choices
    from silhouette_client.profiles.node_model import HeldModel
    from silhouette_client.profiles.one_build import one_build
    from silhouette_client.profiles.store import Retention
    from silhouette_client.profiles.vault import Vault

    os.nice(_GENTLE)
    models = HeldModel(home, torch.device(os.environ.get(DEVICE_VARIABLE, "cpu")))
    with one_build(home, lambda: _LOG.info("another build of profiles runs; this one waits for its end")):
        choices = read_choices(home)
        with Vault.open(home, retention=Retention(seconds=choices.keep)) as vault:
            model, done = build_node(home, vault, models, choices, "agent")
    _LOG.info(
        "profiles of %s: %d written, %d unchanged, %d removed, %d expired",
        model.reference,
        done.written,
        done.unchanged,
        done.removed,
        done.expired,
    )
