"""One partner's training with canaries, through the production path and nothing beside it.

A canary is a person of whom the model knows one coordinate: its loss is several clip norms times that coordinate, so
its gradient points along it and is longer than the bound. It is drawn, clipped, summed, put on the grid and noised by
the same code as everybody, and what is released on its coordinate says how that was done. The coordinates are rows of
one more embedding, read by the engine's own rule for embeddings.

Steinke, Nasr and Jagielski 2023, section 6, https://arxiv.org/abs/2305.08846 (the white-box canaries).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silhouette_client.audit.measures import NoiseMeter
from silhouette_client.audit.people import with_newcomers
from silhouette_client.policy.ledger_store import Ledger
from silhouette_client.policy.receipt import Receipt
from silhouette_client.training.engine import Engine, EngineName, Losses
from silhouette_client.training.private import SecretOf, people_at_once, step_losses
from silhouette_client.training.step import ChargedNoise, make_engine, private_step
from silhouette_shared.config import Plan
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.softmax import Tape
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.ledger import Charge, Limits
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import unpredictable_generator

CANARY_NORM = 5.0
"""Length of a canary's gradient before clipping, in clip norms."""


class CanaryEncoder(ProfileEncoder):
    """The encoder with a coordinate of its own for every canary, and more that nobody reaches.

    Row 0 of the table is everybody else's, whose gradient there is zero.
    """

    def __init__(self, plan: Plan, vocabulary: Vocabulary, coordinates: int) -> None:
        super().__init__(plan.model, vocabulary, plan.data.history_length)
        self.canary = nn.Embedding(1 + coordinates, 1)


class _Recorder:
    """An engine with a note of what it gave last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.last: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        self._engine.add(losses)

    def take(self) -> dict[str, Tensor]:
        self.last = self._engine.take()
        return self.last

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True)
class Rehearsed:
    """What one partner's training left behind."""

    meter: NoiseMeter
    samples: tuple[NDArray[np.int64], ...]  # row numbers of the people of each step, included canaries after the others
    people: int  # who could be drawn
    scores: NDArray[np.float64]  # released on each canary's coordinate, over all steps, in clip norms, shape (m,)


def rehearse(
    encoder: CanaryEncoder,
    histories: Histories,
    included: NDArray[np.bool_],
    plan: Plan,
    mechanism: SampledGaussian,
    *,
    engine: EngineName,
    secret: SecretOf,
    progress: Callable[[], None] = lambda: None,
) -> Rehearsed:
    """Train the encoder in place for all of the mechanism's steps, with canaries among the people.

    Args:
        encoder: With a coordinate for every canary.
        histories: Made-up people.
        included: Which canaries take part, shape (m,).
        plan: The objective, clipping and grid.
        mechanism: On the grid of the encoder's layout.
        engine: Sums the clipped gradients.
        secret: As `train_privately` takes it.
        progress: Called after every step.
    """
    layout, training, privacy = Layout.of(encoder), plan.training, plan.privacy
    numbers = torch.from_numpy(np.flatnonzero(included)) + 1  # row 0 is nobody's
    real, everybody = len(histories), with_newcomers(histories, len(numbers))
    coordinate_of = torch.cat([torch.zeros(real, dtype=torch.int64), numbers])
    generator = unpredictable_generator(secret("objective"))
    receipt = _charged(mechanism, plan)
    grid = Grid.of(privacy.clip_norm, privacy.grid_bits)
    charged = ChargedNoise(receipt, mechanism, secret("noise"), grid, layout.size)
    sampling = secret("sampling")
    encoder.train()
    recorder = _Recorder(
        make_engine(
            engine, encoder, clip_norm=privacy.clip_norm, clipping=privacy.clipping, stability=privacy.clip_stability
        )
    )
    optimiser = torch.optim.Adam(encoder.parameters(), lr=privacy.server_learning_rate)
    place = _coordinates(layout)
    untouched = np.ones(layout.size, dtype=np.bool_)
    untouched[: place.start] = untouched[place.stop :] = False
    untouched[place.start + numbers.numpy()] = False
    meter = NoiseMeter(_rows(layout), untouched)
    noise = mechanism.noise_std / math.sqrt(mechanism.shares)
    scores = np.zeros(len(included))
    samples = []
    try:
        for _ in range(mechanism.steps):
            drawn: list[Tensor] = []
            usual = step_losses(encoder, everybody, training, generator)

            def losses(rows: Tensor, drawn: list[Tensor] = drawn, usual: Callable[[Tensor], Losses] = usual) -> Losses:
                drawn.append(rows)
                own, run = coordinate_of[rows], usual(rows)

                def with_canaries(tape: Tape | None) -> Tensor:
                    along = encoder.canary(own[:, None]).flatten()
                    return torch.where(own > 0, CANARY_NORM * privacy.clip_norm * along, run(tape))

                return with_canaries

            noised = private_step(
                recorder,
                layout,
                len(everybody),
                losses,
                charged,
                sampling,
                at_once=people_at_once(engine, encoder, training),
                device=histories.items.device,
            )
            released = noised.value()
            _step(optimiser, encoder, layout, released / (mechanism.sampling_rate * len(everybody)))
            alone = released.double().numpy()
            summed = layout.flatten(recorder.last).double().numpy()
            meter.add(alone / noise, (alone - summed) / noise)
            scores += alone[place][1 : len(included) + 1] / mechanism.clip_norm
            samples.append(torch.cat(drawn).numpy() if drawn else np.zeros(0, dtype=np.int64))
            progress()
    finally:
        recorder.close()
    return Rehearsed(meter, tuple(samples), len(everybody), scores)


def _charged(mechanism: SampledGaussian, plan: Plan) -> Receipt:
    """A receipt of a ledger that ends with the audit: made-up people have no budget to spend."""
    delta = plan.privacy.delta
    ledger = Ledger.in_memory(Limits(epsilon_per_run=None, epsilon_per_year=None, delta=delta), node="audit")
    return ledger.charge(
        Charge(
            run="audit",
            round=1,
            purpose="audit",
            mechanism=mechanism,
            delta=delta,
            plan_digest=plan.digest,
            model_digest="",
        )
    )


def _step(optimiser: torch.optim.Optimizer, encoder: CanaryEncoder, layout: Layout, direction: Tensor) -> None:
    parts = layout.split(direction)
    for name, parameter in encoder.named_parameters():
        parameter.grad = parts[name]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _coordinates(layout: Layout) -> slice:
    """Where the canaries' table lies in the flat vector."""
    start = 0
    for name, size in zip(layout.names, layout.sizes, strict=True):
        if name == "canary.weight":
            return slice(start, start + size)
        start += size
    raise ValueError("expected a model with canaries, got one without")


def _rows(layout: Layout) -> NDArray[np.int64]:
    """The row of a table, or the vector, that each coordinate belongs to; the canaries' table counts as one."""
    rows, first = [], 0
    for name, shape, size in zip(layout.names, layout.shapes, layout.sizes, strict=True):
        count = shape[0] if len(shape) > 1 and name != "canary.weight" else 1
        rows.append(first + np.arange(size) // (size // count))
        first += count
    return np.concatenate(rows)
