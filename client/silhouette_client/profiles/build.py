"""Profiles and recommendations from a trained encoder.

They are computed from one person's own history and public facts, recommendations also from what a partner's people do
next where that is given, and they stay at the partner; they are not private in the sense of differential privacy and
are never sent.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.evaluation import top_items, unseen_counts
from silhouette_shared.model.histories import UNKNOWN, Histories

PEOPLE_AT_ONCE = 128
_TAGS = 3


@dataclass(frozen=True)
class ProfileBatch:
    """Profiles of some people, in the order of `people`."""

    people: Tensor  # (B,) row numbers
    vectors: Tensor  # (B, H)
    weights: Tensor  # (B, K) in the encoder's order of dimensions
    attributes: tuple[Tensor, ...]  # each (B, classes), probabilities guessed without the declared ones
    tags: Tensor  # (B, 3) category numbers, -1 where there is none
    scores: Tensor  # (B, V + 1) of all items
    recommended: Tensor  # (B, k) item numbers, best first; 0 at the end where a person has seen too much of everything


def seen_items(histories: Histories, people: Tensor) -> Tensor:
    """Items of each person's whole history, padded with 0, shape (B, S)."""
    lengths = histories.lengths[people]
    column = torch.arange(int(lengths.max()), device=lengths.device)
    mask = column < lengths[:, None]
    index = histories.offsets[people][:, None] + column
    return histories.items[torch.where(mask, index, histories.offsets[people][:, None])] * mask


@torch.no_grad()
def build_profiles(
    encoder: ProfileEncoder,
    histories: Histories,
    *,
    cutoff: int = 10,
    rescored: Callable[[Tensor, Histories], Tensor] | None = None,
) -> Iterator[ProfileBatch]:
    """Profile every person.

    The attribute guesses come from a second pass in which the declared attributes are hidden.

    Args:
        encoder: Trained; set to evaluation.
        histories: On the encoder's device.
        cutoff: Recommendations a person, of items not seen before; 0 at the end where there are fewer.
        rescored: Given the encoder's scores of all items (B, V + 1) and the histories that led to them, the scores to
            recommend by, for example with a partner's own transitions; None takes the encoder's.
    """
    encoder.eval()
    hidden = replace(histories, attributes=torch.full_like(histories.attributes, UNKNOWN))
    for people in torch.arange(len(histories), device=histories.items.device).split(PEOPLE_AT_ONCE):
        batch = histories.batch(people, encoder.history_length)
        profile = encoder(batch)
        scores = encoder.item_scores(at_last(profile.state, batch.lengths))
        if rescored is not None:
            scores = rescored(scores, histories.of_people(people))
        guessed = encoder(hidden.batch(people, encoder.history_length))
        logits = encoder.attribute_scores(at_last(guessed.vector, batch.lengths))
        yield ProfileBatch(
            people=people,
            vectors=at_last(profile.vector, batch.lengths),
            weights=at_last(profile.weights, batch.lengths),
            attributes=tuple(part.softmax(-1) for part in logits),
            tags=_tags(encoder, histories, people),
            scores=scores,
            recommended=_best_unseen(scores, seen_items(histories, people), cutoff),
        )


def _best_unseen(scores: Tensor, seen: Tensor, cutoff: int) -> Tensor:
    """As `top_items`, with 0 where a person has fewer unseen items, (B, k)."""
    unseen = unseen_counts(seen, scores.shape[1] - 1)
    if not len(scores) or int(unseen.min()) >= cutoff:
        return top_items(scores, seen, cutoff)
    found = seen.new_zeros((len(scores), cutoff))
    for row, left in enumerate(unseen.clamp(max=cutoff).tolist()):
        if left:
            found[row, :left] = top_items(scores[row : row + 1], seen[row : row + 1], left)[0]
    return found


def _tags(encoder: ProfileEncoder, histories: Histories, people: Tensor) -> Tensor:
    """Categories that a person has more of than the catalogue does, the strongest first."""
    categories = encoder.get_buffer("categories")
    if categories.shape[1] == 0:
        return people.new_full((len(people), _TAGS), -1)
    seen = seen_items(histories, people)
    own = categories[seen].sum(1)
    own = own / own.sum(1, keepdim=True).clamp(min=1)
    public = categories.sum(0) / categories.sum().clamp(min=1)
    excess = own - public
    strength, tags = excess.topk(min(_TAGS, categories.shape[1]), dim=1)
    chosen = torch.where(strength > 0, tags, -1)
    return torch.nn.functional.pad(chosen, (0, _TAGS - chosen.shape[1]), value=-1)  # fewer categories than tags
