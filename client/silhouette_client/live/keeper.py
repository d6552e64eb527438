"""A running service with what its node holds now: promoted model, records and segments are followed without a restart.

Profiles need no following: every answer reads the store.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Protocol

from silhouette_client.ingest.removal import remove_people
from silhouette_client.live.updater import LiveUpdater
from silhouette_client.profiles.node_model import NodeModel
from silhouette_client.profiles.vault import Vault
from silhouette_client.segments.index import StoredSegments
from silhouette_client.serving.service import Service
from silhouette_shared.errors import SilhouetteError

_LOG = logging.getLogger(__name__)

_WHO = "service"
_AGAIN_SECONDS = 60.0  # a model that could not be used is tried again so often: reading one takes seconds


class Models(Protocol):
    """Where the promoted model comes from: `profiles.node_model.HeldModel`."""

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever there is another; empty if there is none."""
        ...

    def load(self) -> NodeModel:
        """Read it."""
        ...


class Keeper:
    """Holds the updater of a service, and follows the node from a thread of its own until it is stopped.

    Args:
        home: Of the node.
        vault: Its opened vault.
        models: Gives the promoted model.
        seconds: Between two rounds.
    """

    def __init__(self, home: Path, vault: Vault, models: Models, seconds: float = 1.0) -> None:
        self._home, self._vault, self._models, self._seconds = home, vault, models, seconds
        self._updater: LiveUpdater | None = None
        self._model: tuple[int, ...] = ()
        self._not_before = 0.0
        self._segments: frozenset[bytes] | None = None
        self.service = Service(vault, forget=self.forget)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-keeper", daemon=True)

    @property
    def takes_events(self) -> bool:
        """Whether the node holds a promoted model, so that events can be pushed."""
        return self._updater is not None

    def __enter__(self) -> Keeper:
        """Start with what is there.

        Raises:
            SilhouetteError: If it cannot be used.
        """
        self.follow()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._updater is not None:
            self._updater.close()

    def forget(self, user: str) -> object:
        """Remove a person's events from records, journal and memory."""
        return remove_people(self._home, {user}) if self._updater is None else self._updater.forget(user)

    def follow(self) -> None:
        """Take over another promoted model, other records and other segments, where there are any.

        Raises:
            SilhouetteError: If one cannot be used; the service goes on with the one before.
        """
        turn = 0 if self._updater is None else self._updater.turn()
        stamp = self._models.stamp()
        if stamp != self._model and time.monotonic() >= self._not_before:
            self._not_before = time.monotonic() + _AGAIN_SECONDS
            self._take_over(self._models.load())
            self._model, self._not_before = stamp, 0.0
        if self._updater is not None:
            self._updater.flush()
            if not self._updater.refresh() and stamp == self._model:
                self._updater.settle(turn)
        segments = self._vault.segment_stamp()
        if segments != self._segments:
            self.service.follow_segments(StoredSegments(self._vault.segments(_WHO)))
            self._segments = segments

    def _take_over(self, model: NodeModel) -> None:
        if self._updater is None:
            self._updater = LiveUpdater.open(self._home, self._vault, model)
            self.service.take_events_by(self._updater)
        else:
            self._updater.refresh(model)
        _LOG.info("%s makes the profiles of pushed events now", model.reference)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.follow()
            except SilhouetteError as error:  # the next round tries again; pushes and answers say it by themselves
                _LOG.error("live events: %s", error)
