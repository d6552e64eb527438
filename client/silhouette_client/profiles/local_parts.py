"""What a partner learns of its own people on a frozen encoder, for their profiles: scores, tastes, what they do next.

None of it is ever sent, and none of it enters a shared forward pass, so none of it costs privacy. It is learnt once
for a model and kept; a profile that is made later, of one person with one more event, needs no other person's record.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from silhouette_client.profiles.heads import Head, Heads, in_words, learn_heads
from silhouette_client.profiles.record import ProfileRecord, Trait
from silhouette_client.profiles.risk import RiskScale
from silhouette_client.profiles.tastes import Tastes, learn_tastes
from silhouette_client.profiles.transitions import OwnTransitions, learn_transitions
from silhouette_shared.errors import IntegrityError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource

LEAST_PEOPLE = 20
"""Fewer teach no score."""

_MOST_PEOPLE = 20_000  # to learn scores from; more make a build longer and no score better
_SEED = 0  # who is learnt from: the same people give the same parts
_ABOUT = "about"


@dataclass(frozen=True)
class LocalParts:
    """The local parts that belong to one model; what the data could not teach is missing."""

    model: str
    until: int  # end of what was recorded when they were learnt, UTC seconds; 0 where there were no times
    heads: Heads
    tastes: Tastes | None
    transitions: OwnTransitions | None = None
    digest: bytes = b""  # of the bytes that they are kept as: two builds that learnt the same have the same

    def completed(
        self, encoder: ProfileEncoder, histories: Histories, records: Sequence[ProfileRecord]
    ) -> list[ProfileRecord]:
        """Records with these people's scores among their traits, and their tastes.

        Scores are as of the end of what was recorded, or of the person's own last event if that is later.

        Args:
            encoder: The one they were learnt on.
            histories: Of the people of the records, in the same order.
            records: Made by the same model.
        """
        scores: dict[str, tuple[list[str], list[float]]] = {}
        if histories.has_times and self.until:
            last = histories.timestamps[histories.offsets[1:] - 1] + 1
            scores = in_words(self.heads.scores(encoder, histories, last.clamp(min=self.until)))
        tastes = None if self.tastes is None else self.tastes(histories)
        found = []
        for row, record in enumerate(records):
            told = {name: Trait(words[row], chances[row]) for name, (words, chances) in scores.items()}
            own = None if tastes is None else tastes[row].copy()
            found.append(replace(record, traits={**(record.traits or {}), **told}, tastes=own))
        return found


def learn_parts(model: str, encoder: ProfileEncoder, histories: Histories, *, private: bool) -> LocalParts:
    """Learn what a partner's own people can teach.

    Args:
        model: Name of the encoder's model.
        encoder: Frozen.
        histories: The partner's people, on the encoder's device.
        private: Whether the encoder was trained with privacy.
    """
    people, until, heads = len(histories), 0, Heads({}, None)
    if histories.has_times and people >= LEAST_PEOPLE:
        until = int(histories.timestamps.max()) + 1
        draw = ReproducibleSource(_SEED).child("local parts").torch_generator(histories.items.device)
        taught = histories
        if people > _MOST_PEOPLE:
            chosen = torch.randperm(people, generator=draw, device=draw.device)[:_MOST_PEOPLE].sort().values
            taught = histories.of_people(chosen)
        heads = learn_heads(encoder, taught, until, draw)
    tastes = learn_tastes(histories, len(encoder.item.weight) - 1, _SEED)
    transitions = learn_transitions(encoder, histories, private=private)
    return LocalParts(model=model, until=until, heads=heads, tastes=tastes, transitions=transitions)


def pack_parts(parts: LocalParts) -> bytes:
    """The parts as bytes: tensors and JSON, no code."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, tuple[float, float]] = {}
    for name, head in parts.heads.heads.items():
        tensors |= {f"head.{name}.{part}": getattr(head, part).cpu() for part in ("mean", "scale", "weight")}
        numbers[name] = (head.slope, head.offset)
    if (risk := parts.heads.risk) is not None:
        tensors |= {f"risk.{part}": getattr(risk, part).cpu() for part in ("median", "spread", "distances")}
    if (tastes := parts.tastes) is not None:
        tensors |= {
            f"tastes.{part}": torch.from_numpy(np.ascontiguousarray(getattr(tastes, part)))
            for part in ("items", "rarity", "usual", "basis")
        }
    believed = None
    if (own := parts.transitions) is not None:
        tensors |= {
            f"transitions.{part}": torch.from_numpy(np.ascontiguousarray(getattr(own, part)))
            for part in ("offsets", "targets", "chances")
        }
        believed = (own.scale, own.weight)
    about = json.dumps({"model": parts.model, "until": parts.until, "heads": numbers, "believed": believed})
    tensors[_ABOUT] = torch.tensor(list(about.encode("utf-8")), dtype=torch.uint8)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def digest_of(content: bytes) -> bytes:
    """Names parts by the bytes that they are kept as."""
    return hashlib.blake2b(content, digest_size=32).digest()


def unpack_parts(content: bytes, device: torch.device) -> LocalParts:
    """The parts that `pack_parts` made bytes of.

    Args:
        content: The bytes.
        device: Of the encoder they are used with.

    Raises:
        IntegrityError: If these are not such bytes.
    """
    try:
        tensors = load(content)
        about = json.loads(bytes(tensors[_ABOUT].tolist()))
        heads = {
            str(name): Head(
                **{part: tensors[f"head.{name}.{part}"].to(device) for part in ("mean", "scale", "weight")},
                slope=float(slope),
                offset=float(offset),
            )
            for name, (slope, offset) in about["heads"].items()
        }
        risk = tastes = None
        if "risk.median" in tensors:
            risk = RiskScale(**{part: tensors[f"risk.{part}"].to(device) for part in ("median", "spread", "distances")})
        if "tastes.basis" in tensors:
            tastes = Tastes(
                **{part: tensors[f"tastes.{part}"].numpy() for part in ("items", "rarity", "usual", "basis")}
            )
        transitions = None
        if about.get("believed") is not None:
            scale, weight = map(float, about["believed"])
            counted = {part: tensors[f"transitions.{part}"].numpy() for part in ("offsets", "targets", "chances")}
            transitions = OwnTransitions(**counted, scale=scale, weight=weight)
        return LocalParts(
            model=str(about["model"]),
            until=int(about["until"]),
            heads=Heads(heads, risk),
            tastes=tastes,
            transitions=transitions,
            digest=digest_of(content),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"expected what this node learnt of its own people, got something else ({type(error).__name__}); "
            "remove the file, and the next `silhouette profile build` learns it anew"
        ) from None
