"""What a person may do next: the next-item head rolled forward, each answer read as the next event."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from silhouette_client.profiles.build import PEOPLE_AT_ONCE, seen_items
from silhouette_client.profiles.update import NewEvents, with_events
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.histories import Histories

ANCHOR = 0.7
"""What is taken of the first answer at every step. What was generated says little that the history did not say, and
errors in it add up: of ten events on MovieLens-100K by time, 0 finds .129, 0.3 .135, 0.5 .144 and 0.7 .148."""

_LEAST_CHANCE = 1e-30


@torch.no_grad()
def continue_histories(
    encoder: ProfileEncoder,
    histories: Histories,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    repeats: bool = False,
    anchor: float = ANCHOR,
    rescored: Callable[[Tensor, Histories], Tensor] | None = None,
) -> Tensor:
    """Items that come next for everybody, shape (U, steps).

    Each step takes the likeliest item, or draws one by its chance given the history and what was generated (see
    `anchor`), and appends it as an event: with the behaviour that the encoder's head expects, or the person's last one
    without such a head; with no value; and, where there are times, after the person's own median gap.

    Args:
        encoder: Trained.
        histories: The partner's people, on the encoder's device.
        steps: How many.
        generator: Draws items on the encoder's device; None takes the likeliest.
        repeats: Whether an item may come that the person had before.
        anchor: Part of the first step's chances in those of every later step, from 0, the head alone, to 1.
        rescored: Given the encoder's scores of all items (B, V + 1) and the histories that led to them, the scores to
            go on with, for example with a partner's own transition counts added; None takes the encoder's.

    Raises:
        UsageError: If a person has fewer new items left than steps.
    """
    encoder.eval()
    if steps < 1:
        raise UsageError(f"expected at least 1 step, got {steps}")
    if not 0 <= anchor <= 1:
        raise UsageError(f"expected an anchor from 0 to 1, got {anchor}")
    settings = _Settings(steps, generator, repeats, anchor, rescored or (lambda scores, _: scores))
    parts = torch.arange(len(histories), device=histories.items.device).split(PEOPLE_AT_ONCE)
    return torch.cat([_continue(encoder, histories.of_people(part), settings) for part in parts])


@dataclass(frozen=True)
class _Settings:
    """What is asked for, as `continue_histories` explains it."""

    steps: int
    generator: torch.Generator | None
    repeats: bool
    anchor: float
    rescored: Callable[[Tensor, Histories], Tensor]


def _continue(encoder: ProfileEncoder, histories: Histories, asked: _Settings) -> Tensor:
    people = torch.arange(len(histories), device=histories.items.device)
    gaps, items = _median_gaps(histories), len(encoder.get_buffer("content")) - 1
    first: Tensor | None = None
    found: list[Tensor] = []
    for _ in range(asked.steps):
        batch = histories.batch(people, encoder.history_length)
        state = at_last(encoder(batch).state, batch.lengths)
        own = asked.rescored(encoder.item_scores(state), histories).softmax(1)  # (U, V + 1)
        first = own if first is None else first
        chances = torch.lerp(own, first, asked.anchor).clamp(min=_LEAST_CHANCE)  # unlikely is not impossible
        barred = histories.items.new_zeros((len(people), 1)) if asked.repeats else seen_items(histories, people)
        chances = chances.scatter(1, barred, 0.0)
        chances[:, 0] = 0.0  # padding
        if (chances.amax(1) == 0).any():
            raise UsageError(
                f"expected {asked.steps} new items left for everybody, got people with fewer; "
                "ask for fewer steps or repeats"
            )
        draw = asked.generator
        chosen = chances.argmax(1) if draw is None else torch.multinomial(chances, 1, generator=draw)[:, 0]
        found.append(chosen)
        last = histories.offsets[1:] - 1
        behaviours = histories.behaviours[last]
        if encoder.behaviour_head is not None:
            behaviours = encoder.behaviour_scores(state).argmax(1) + 1
        new = NewEvents(people, chosen, behaviours, torch.zeros_like(chosen), histories.timestamps[last] + gaps)
        histories = with_events(histories, new, items=items)
    return torch.stack(found, dim=1)


def _median_gaps(histories: Histories) -> Tensor:
    """Seconds between two events of each person, their lower median, 0 where there is one event, (U,)."""
    gaps = torch.zeros_like(histories.lengths)
    if not histories.has_times:
        return gaps
    for person in range(len(histories)):
        start, end = histories.offsets[person : person + 2].tolist()
        if end - start > 1:
            gaps[person] = histories.timestamps[start:end].diff().median()
    return gaps
