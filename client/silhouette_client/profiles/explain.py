"""Why a profile is what it is, and why an item is recommended: in dimensions, in attention, and by leaving events out.

An event's weight in an explanation is what happens without it: the person's history is read again with the event left
out. Attention only decides which events are tried, because it need not say what changes a result (Jain and Wallace
2019, https://arxiv.org/abs/1902.10186).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silhouette_client.profiles.build import seen_items
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.evaluation import Interval, mean_interval, top_items
from silhouette_shared.model.histories import Batch, Histories

CANDIDATES = 32
"""Events that are left out one at a time: those that attention takes most from."""

_VARIANTS_AT_ONCE = 64


@dataclass(frozen=True)
class NamedEvent:
    """One event of an explanation."""

    position: int  # in the person's whole history, the first is 0
    item: int  # number in the catalogue
    attention: float  # share of what the last event's state takes from this one, through all blocks
    change: float | None  # of the score or the profile without it; None where nothing is left without it


@dataclass(frozen=True)
class Explanation:
    """Why a person's profile or a recommendation is what it is."""

    item: int | None  # None explains the profile
    score: float | None  # logarithm of the item's chance among all items
    weights: dict[str, float]  # share of each dimension in the fusion
    events: tuple[NamedEvent, ...]  # the one whose absence counts most first


@dataclass(frozen=True)
class Faithfulness:
    """Whether leaving out what an explanation names first moves the score more than leaving out others."""

    people: int  # asked
    too_short: int  # of others, whose history is too short to compare
    named: int  # events left out together
    share: Interval  # of the people for whom the named ones moved it more
    moved_by_named: float  # mean magnitude of the change of the log chance
    moved_by_random: float


def attention_over_events(encoder: ProfileEncoder, batch: Batch) -> Tensor:
    """What each person's last state takes from each event, through all blocks, (B, L); a row sums to one.

    Attention rollout, heads averaged and half of each block passed on unmixed: Abnar and Zuidema 2020,
    https://arxiv.org/abs/2005.00928.
    """
    taken: list[Tensor] = []

    def note(_module: nn.Module, _given: object, output: Tensor) -> None:
        taken.append(output)

    blocks = list(encoder.blocks)
    handles = [block.get_submodule("query_key_value").register_forward_hook(note) for block in blocks]
    try:
        with torch.no_grad():
            encoder(batch)
    finally:
        for handle in handles:
            handle.remove()
    people, length = batch.items.shape
    same = torch.eye(length, device=batch.items.device)
    flow = same.expand(people, length, length)
    for joint in taken:
        query, key, _ = joint.view(people, length, 3, encoder.shape.heads, -1).permute(2, 0, 3, 1, 4)
        scores = query @ key.mT * query.shape[-1] ** -0.5
        later = torch.ones_like(same, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1).mean(1)  # (B, L, L)
        flow = (0.5 * (weights + same)) @ flow
    return at_last(flow, batch.lengths)


def explain_recommendation(
    encoder: ProfileEncoder, histories: Histories, person: int, item: int, *, candidates: int = CANDIDATES
) -> Explanation:
    """Why an item has the score it has for a person.

    The change of an event is the logarithm of the item's chance with it less that without it: positive where the event
    speaks for the item. The largest come first.

    Args:
        encoder: Trained.
        histories: The partner's people, on the encoder's device.
        person: Row number.
        item: Number in the catalogue.
        candidates: Events to leave out, one at a time.

    Raises:
        UsageError: If there is no such person or item.
    """
    items = len(encoder.get_buffer("content")) - 1
    if not 1 <= item <= items:
        raise UsageError(f"expected an item of the catalogue, numbered 1 to {items}, got {item}; look it up there")
    return _explain(encoder, histories, person, item, candidates)


def explain_profile(
    encoder: ProfileEncoder, histories: Histories, person: int, *, candidates: int = CANDIDATES
) -> Explanation:
    """Why a person's profile vector is what it is; the change of an event is one less the cosine to the vector without.

    Args:
        encoder: Trained.
        histories: The partner's people, on the encoder's device.
        person: Row number.
        candidates: Events to leave out, one at a time.

    Raises:
        UsageError: If there is no such person.
    """
    return _explain(encoder, histories, person, None, candidates)


def faithfulness(
    encoder: ProfileEncoder,
    histories: Histories,
    people: Sequence[int],
    *,
    generator: torch.Generator,
    named: int = 3,
    candidates: int = CANDIDATES,
) -> Faithfulness:
    """Compare leaving out the events that the explanation of a person's first recommendation names first with others.

    Args:
        encoder: Trained.
        histories: The partner's people, on the encoder's device.
        people: Row numbers to ask.
        generator: Reproducible, on the CPU; draws the others, among the events of the window that are not named.
        named: Events left out together.
        candidates: As in the explanation.

    Raises:
        UsageError: If nobody's history is long enough.
    """
    encoder.eval()
    by_named, by_random, short = [], [], 0
    for person in people:
        start = max(0, int(histories.lengths[person]) - encoder.history_length)
        window = range(start, int(histories.lengths[person]))
        if len(window) <= 2 * named:
            short += 1
            continue
        item = _first_recommendation(encoder, histories, person)
        said = explain_recommendation(encoder, histories, person, item, candidates=candidates)
        first = [event.position for event in said.events[:named]]
        rest = [position for position in window if position not in first]
        draw = torch.randperm(len(rest), generator=generator)[:named].tolist()
        left_out = [[], first, [rest[place] for place in draw]]
        chances = _read(encoder, _without(encoder, histories, person, left_out), _log_chance(encoder, item))
        by_named.append(abs(float(chances[0] - chances[1])))
        by_random.append(abs(float(chances[0] - chances[2])))
    if not by_named:
        raise UsageError(
            f"expected somebody with more than {2 * named} events, got none of {len(people)} people; ask others"
        )
    more = torch.tensor([a > b for a, b in zip(by_named, by_random, strict=True)], dtype=torch.float64)
    return Faithfulness(
        people=len(by_named),
        too_short=short,
        named=named,
        share=mean_interval(more, generator=generator),
        moved_by_named=sum(by_named) / len(by_named),
        moved_by_random=sum(by_random) / len(by_random),
    )


@torch.no_grad()
def _explain(
    encoder: ProfileEncoder, histories: Histories, person: int, item: int | None, candidates: int
) -> Explanation:
    if not 0 <= person < len(histories):
        raise UsageError(f"expected a person from 0 to {len(histories) - 1}, got {person}")
    encoder.eval()
    row = torch.tensor([person], device=histories.items.device)
    batch = histories.batch(row, encoder.history_length)
    profile = encoder(batch)
    weights = dict(zip(encoder.dimension_names, at_last(profile.weights, batch.lengths)[0].tolist(), strict=True))
    count = int(batch.lengths[0])
    start = int(histories.lengths[person]) - count
    attention = attention_over_events(encoder, batch)[0, :count]
    tried = attention.topk(min(candidates, count)).indices.tolist()
    whole = at_last(profile.vector, batch.lengths)[0]
    value = _distance(whole) if item is None else _log_chance(encoder, item)
    events = [
        NamedEvent(start + place, int(batch.items[0, place]), float(attention[place]), change)
        for place, change in zip(tried, _changes(encoder, histories, person, start, tried, value), strict=True)
    ]
    score = None if item is None else float(value(at_last(profile.state, batch.lengths), whole[None])[0])
    events.sort(key=lambda event: (-(event.change or 0.0), -event.attention, -event.position))
    return Explanation(item=item, score=score, weights=weights, events=tuple(events))


_Value = Callable[[Tensor, Tensor], Tensor]
"""From last states (B, H + F) and profile vectors (B, H) to one number each, (B,)."""


def _log_chance(encoder: ProfileEncoder, item: int) -> _Value:
    return lambda state, _vector: encoder.item_scores(state).log_softmax(-1)[:, item]


def _distance(whole: Tensor) -> _Value:
    return lambda _state, vector: F.cosine_similarity(vector, whole[None], dim=-1)


def _changes(
    encoder: ProfileEncoder, histories: Histories, person: int, start: int, tried: Sequence[int], value: _Value
) -> list[float | None]:
    """The value of the whole history less that without each of the events."""
    if int(histories.lengths[person]) < 2:
        return [None for _ in tried]
    left_out = [[], *([start + place] for place in tried)]
    found = _read(encoder, _without(encoder, histories, person, left_out), value)
    return [float(found[0] - without) for without in found[1:]]


def _without(
    encoder: ProfileEncoder, histories: Histories, person: int, left_out: Sequence[Sequence[int]]
) -> Histories:
    """A person's history once for each list of positions, with the events there left out.

    Only as much of it as the encoder can see afterwards, and the event before, which says how long the first gap is.
    """
    begin, end = histories.offsets[person : person + 2].tolist()
    seen = encoder.history_length + max(len(positions) for positions in left_out) + 1
    earlier = max(0, end - begin - seen)
    begin += earlier
    kept = []
    for positions in left_out:
        keep = torch.ones(end - begin, dtype=torch.bool)
        keep[[position - earlier for position in positions]] = False
        kept.append(torch.nonzero(keep).flatten() + begin)
    device = histories.items.device
    lengths = torch.tensor([len(index) for index in kept], device=device)
    same = torch.full_like(lengths, person)
    return histories.of_events(torch.cat(kept).to(device), same, lengths)


@torch.no_grad()
def _read(encoder: ProfileEncoder, histories: Histories, value: _Value) -> Tensor:
    found = []
    for people in torch.arange(len(histories), device=histories.items.device).split(_VARIANTS_AT_ONCE):
        batch = histories.batch(people, encoder.history_length)
        profile = encoder(batch)
        found.append(value(at_last(profile.state, batch.lengths), at_last(profile.vector, batch.lengths)))
    return torch.cat(found)


@torch.no_grad()
def _first_recommendation(encoder: ProfileEncoder, histories: Histories, person: int) -> int:
    row = torch.tensor([person], device=histories.items.device)
    batch = histories.batch(row, encoder.history_length)
    scores = encoder.next_item_scores(batch)
    return int(top_items(scores, seen_items(histories, row), 1)[0, 0])
