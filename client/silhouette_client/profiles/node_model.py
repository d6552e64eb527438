"""The model that profiles are built with at a node: the promoted one, with plan and catalogue of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.offers.run_folder import AgreedRun, read_run
from silhouette_client.profiles.details import Words
from silhouette_client.profiles.local_parts import LocalParts, unpack_parts
from silhouette_client.promoted import held_model, held_stamp
from silhouette_shared.cards import Accepted
from silhouette_shared.cards.content import unpack_model
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.files import stamp
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout, write_vector
from silhouette_shared.private_files import read_private, replace


@dataclass(frozen=True)
class NodeModel:
    """A trained encoder with its words, ready for use.

    Args:
        name: First 16 hexadecimal digits of the model's SHA-256: how profiles name it.
        reference: run:round, for people.
        encoder: Trained, in evaluation.
        words: Of its catalogue.
        private: Whether it was trained with privacy.
        local: What the node learnt of its own people on this encoder; None before its first build.
    """

    name: str
    reference: str
    encoder: ProfileEncoder
    words: Words
    private: bool
    local: LocalParts | None = None

    @property
    def parts(self) -> bytes:
        """Names what was learnt on it; empty where nothing was."""
        return b"" if self.local is None else self.local.digest

    @property
    def numbers(self) -> dict[str, int]:
        """Number of each item, from 1."""
        return {item: number for number, item in enumerate(self.words.items, start=1)}


class HeldModel:
    """The promoted model of a node for whoever runs for long: what it is now, and whether it is another than before.

    Args:
        home: In which `node/` lies.
        device: Where the encoder is to run.
    """

    def __init__(self, home: Path, device: torch.device) -> None:
        self._home, self._device = home, device
        self._newest: tuple[tuple[int, ...], NodeModel] | None = None

    def stamp(self) -> tuple[int, ...]:
        """Changes with the model and with what the node learnt on it; empty if there is no model. Reads neither."""
        node = NodeHome.of(self._home)
        held = held_stamp(node) if node.installed else ()
        return held + stamp(_parts_path(self._home)) if held else ()

    def load(self) -> NodeModel:
        """Read it; errors as `promoted_model`."""
        return promoted_model(self._home, self._device)

    def newest(self) -> NodeModel:
        """The same, read again only if it changed since the last time."""
        stamp = self.stamp()  # before: what changes while it is read is read again the next time
        if self._newest is None or self._newest[0] != stamp:
            self._newest = stamp, self.load()
        return self._newest[1]


def promoted_model(home: Path, device: torch.device) -> NodeModel:
    """The promoted model of a node, checked against its card and the run's signed offer.

    Args:
        home: In which `node/` lies.
        device: Where the encoder is to run.

    Raises:
        UsageError: If the node holds no promoted model, or took no part in its run.
        IntegrityError: If anything is not what was signed.
    """
    node = NodeHome.of(home)
    held = held_model(node)
    if held is None:
        raise UsageError(
            f"{node.folder / 'model'}: expected a promoted model, found none; `silhouette node take` takes one, or "
            "build from a finished simulation with --run"
        )
    run = _run_of(node, held, device)
    agreement = run.agreement
    vocabulary, history = agreement.vocabulary, agreement.plan.data.history_length
    encoder = ProfileEncoder(agreement.plan.model, vocabulary, history).to(device)
    layout = Layout.of(encoder)
    if held.card.layout != layout.digest:
        raise IntegrityError("expected a model of its run's layout, got another; have it promoted again")
    vector = unpack_model(held.model, layout).to(device)
    write_vector(encoder, layout, vector[: layout.size])
    encoder.set_prior(vector[layout.size :])
    name = held.card.model[:16]
    return NodeModel(
        name=name,
        reference=held.card.reference,
        encoder=encoder.eval(),
        words=Words(tuple(run.items), run.titles, run.categories, dict(run.attributes)),
        private=agreement.plan.privacy.mode != "none",
        local=_kept_parts(home, name, device),
    )


def keep_parts(home: Path, content: bytes) -> None:
    """Write what a node learnt of its own people, packed, for its owner alone, in place of what it learnt before.

    Raises:
        UnavailableError: If it cannot be written; the old file stays.
    """
    replace(_parts_path(home), content)


def tidy_parts(home: Path) -> None:
    """Remove what a build left that was killed while it wrote what it had learnt; in `one_build`."""
    path = _parts_path(home)
    for draft in path.parent.glob(f".{path.name}.*"):
        draft.unlink()


def _kept_parts(home: Path, model: str, device: torch.device) -> LocalParts | None:
    """What a node learnt on this model; None if it has learnt nothing yet, or on another one."""
    path = _parts_path(home)
    if not path.exists():
        return None
    try:
        parts = unpack_parts(read_private(path), device)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}") from None
    return parts if parts.model == model else None


def _parts_path(home: Path) -> Path:
    return NodeHome.of(home).folder / "local.safetensors"


def _run_of(node: NodeHome, held: Accepted, device: torch.device) -> AgreedRun:
    folder = node.runs / held.card.run
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: expected the run that made the promoted model, which brings its plan and catalogue, found "
            "none: this node took no part in it; take part in a run that goes on from this model, or have a model "
            "promoted whose run it took part in"
        )
    run = read_run(folder, device)
    if run.agreement.plan.digest != held.card.plan_digest:
        raise IntegrityError(f"{folder}: expected the plan of the promoted model, got another; put the folder back")
    return run
