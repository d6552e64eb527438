"""The social dimension: what a person's friends at the same partner say about the person. Local by design.

A friend's record is another person's record. In a gradient that leaves the partner it would let one person be in two
examples, which user-level privacy does not allow. So nothing here is shared: parameters and output have no place in the
encoder's vector (`silhouette_shared.model.vector`), nothing of it is read by what trains shared parameters, and it is
trained after those are frozen.

One layer of graph attention (Velickovic et al. 2018, https://arxiv.org/abs/1710.10903) over the friends, without the
person itself: with a second layer, or a loop, a person's own later events would come back to it in training.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silhouette_client.profiles.build import seen_items
from silhouette_client.training.sampling import shuffled_batches
from silhouette_shared.errors import UsageError
from silhouette_shared.model.encoder import ProfileEncoder, at_last
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import draw_negatives

_PEOPLE_AT_ONCE = 256
_SLOPE = 0.2  # of the leaky rectifier in the attention, as in the paper


@dataclass(frozen=True, kw_only=True)
class SocialSettings:
    """How the social dimension is trained at a partner."""

    heads: int = 4
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    negatives: int = 500  # items beside the next one; 0 for the whole catalogue


class SocialDimension(nn.Module):
    """Friends in, a token and a share of items out.

    The token is added to the state that scores items; the items that friends have, weighted by the same attention, add
    to their scores. Before training both are nothing, so that an untrained dimension changes no score.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"expected heads that divide the width {width}, got {heads}")
        self.heads = heads
        self.norm = nn.LayerNorm(2 * width)
        self.value = nn.Linear(2 * width, width, bias=False)
        self.source = nn.Parameter(torch.zeros(heads, width // heads))
        self.target = nn.Parameter(torch.zeros(heads, width // heads))
        self.out = nn.Linear(width, width, bias=False)
        self.shared_items = nn.Parameter(torch.zeros(1))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter but those that must be zero at first."""
        with torch.no_grad():
            self.value.weight.normal_(0.0, 0.05, generator=generator)
            self.source.normal_(0.0, 0.05, generator=generator)
            self.target.normal_(0.0, 0.05, generator=generator)
            self.out.weight.zero_()

    def forward(self, people: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (U, H), zero for people without friends, and the attention of each edge (E,), its heads' mean.

        Args:
            people: What is known of each, (U, 2 H).
            edges: From friend to person, rows, (E, 2).
        """
        count, depth = len(people), self.source.shape[1]
        values = self.value(self.norm(people)).view(count, self.heads, depth)
        friend, person = edges.unbind(1)
        scores = F.leaky_relu(
            (values * self.source).sum(-1)[friend] + (values * self.target).sum(-1)[person], _SLOPE
        )  # (E, heads)
        index = person[:, None].expand_as(scores)
        highest = scores.new_full((count, self.heads), -torch.inf).scatter_reduce(0, index, scores, "amax")
        raised = (scores - highest.detach()[person]).exp()
        total = raised.new_zeros(count, self.heads).index_add(0, person, raised)
        attention = raised / total[person]
        mixed = values.new_zeros(count, self.heads, depth).index_add(0, person, attention[..., None] * values[friend])
        return self.out(F.elu(mixed.flatten(1))), attention.mean(1)


@dataclass(frozen=True)
class Neighbourhood:
    """What a partner knows of its people and their friends, once the encoder is frozen."""

    people: Tensor  # (U, 2 H) profile vector, and the mean row of the item table over the history
    histories: Histories
    items: int  # of the catalogue, V
    edges: Tensor  # (E, 2) from friend to person


@torch.no_grad()
def neighbourhood(encoder: ProfileEncoder, histories: Histories, edges: Tensor) -> Neighbourhood:
    """Read everybody's own history.

    Args:
        encoder: Frozen.
        histories: The partner's people, on its device.
        edges: Rows of connected people, both directions, (E, 2).

    Raises:
        UsageError: If an edge names a row that is not there, or a person is a friend of itself.
    """
    if len(edges) and (int(edges.min()) < 0 or int(edges.max()) >= len(histories)):
        raise UsageError(f"expected connections among the {len(histories)} people of the partner, got others")
    if bool((edges[:, 0] == edges[:, 1]).any()):
        raise UsageError("expected connections between different people, got one of a person with itself")
    encoder.eval()
    found = []
    for people in torch.arange(len(histories), device=histories.items.device).split(_PEOPLE_AT_ONCE):
        batch = histories.batch(people, encoder.history_length)
        vector = at_last(encoder(batch).vector, batch.lengths)
        own = seen_items(histories, people)
        table = encoder.item.weight[own] * (own > 0)[..., None]
        found.append(torch.cat([vector, table.sum(1) / (own > 0).sum(1, keepdim=True)], dim=1))
    return Neighbourhood(torch.cat(found), histories, len(encoder.item.weight) - 1, edges.to(histories.items.device))


def friends_items(social: SocialDimension, around: Neighbourhood, attention: Tensor, people: Tensor) -> Tensor:
    """What friends have, weighted by attention, at the size of scores, (B, V + 1); zero for people without friends."""
    friend, person = around.edges.unbind(1)
    line = torch.full((len(around.people),), -1, dtype=torch.int64, device=people.device)
    line[people] = torch.arange(len(people), device=people.device)
    own = line[person] >= 0
    lines, friends, weights = line[person[own]], friend[own], attention[own]
    lengths, offsets = around.histories.lengths[friends], around.histories.offsets[friends]
    edge = torch.repeat_interleave(torch.arange(len(friends), device=people.device), lengths)
    event = torch.arange(len(edge), device=people.device) - (lengths.cumsum(0) - lengths)[edge] + offsets[edge]
    place = lines[edge] * (around.items + 1) + around.histories.items[event]
    flat = weights.new_zeros(len(people) * (around.items + 1)).index_add(0, place, (weights / lengths)[edge])
    return social.shared_items * flat.view(len(people), -1) * around.items  # an even share of the catalogue counts one


def train_social(
    encoder: ProfileEncoder,
    histories: Histories,
    edges: Tensor,
    settings: SocialSettings,
    generator: torch.Generator,
) -> SocialDimension:
    """Train the social dimension at a partner; the encoder stays as it is, bit by bit.

    Each person's loss is as in `model.objective`: mean cross-entropy of the next item.

    Args:
        encoder: Trained; no gradient reaches it.
        histories: The partner's people.
        edges: Rows of connected people, both directions, (E, 2).
        settings: Epochs, batches, learning rate.
        generator: Reproducible, on the device of the histories.

    Raises:
        UsageError: As `neighbourhood`.
    """
    around = neighbourhood(encoder, histories, edges)
    social = SocialDimension(encoder.shape.width, settings.heads).to(histories.items.device)
    social.initialise(generator)
    if not len(edges):
        return social
    optimiser = torch.optim.AdamW(social.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for _ in range(settings.epochs):
        for people in shuffled_batches(histories.lengths, settings.batch_size, generator):
            batch = histories.training_batch(people, encoder.history_length, generator)
            with torch.no_grad():
                states = encoder(batch).state
            negatives = draw_negatives(len(encoder.item.weight) - 1, settings.negatives, generator)
            if negatives is None:
                negatives = torch.arange(1, len(encoder.item.weight), device=people.device)
            tokens, attention = social(around.people, around.edges)
            shares = friends_items(social, around, attention, people)
            loss = _losses(encoder, states, tokens[people], shares, batch.targets, negatives).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return social


def _losses(
    encoder: ProfileEncoder, states: Tensor, tokens: Tensor, shares: Tensor, targets: Tensor, negatives: Tensor
) -> Tensor:
    """Mean cross-entropy of each person's next items among the negatives, (B,)."""
    known = targets > 0
    owner = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)[known]
    state = _with_token(encoder, states[known], tokens[owner])  # (N, H + F)
    wanted = targets[known]
    chosen = _scores_of(encoder, state, wanted[:, None]).squeeze(1) + shares[owner, wanted]
    others = _scores_of(encoder, state, negatives) + shares[:, negatives][owner]
    others = others.masked_fill(wanted[:, None] == negatives, -torch.inf)
    losses = torch.cat([chosen[:, None], others], dim=1).logsumexp(1) - chosen
    total = losses.new_zeros(len(targets)).index_add(0, owner, losses)
    return total / known.sum(1).clamp(min=1)


def _with_token(encoder: ProfileEncoder, state: Tensor, token: Tensor) -> Tensor:
    width = encoder.shape.width
    return torch.cat([state[..., :width] + token, state[..., width:]], dim=-1)


def _scores_of(encoder: ProfileEncoder, state: Tensor, items: Tensor) -> Tensor:
    """Scores of some items: the same ones for everybody (K,), or own ones (N, 1); as `item_scores` has them."""
    own, query = state[:, : encoder.shape.width], state[:, encoder.shape.width :]
    rows = items.flatten()
    # Detached: no gradient reaches the encoder, not even one that nobody reads.
    table = encoder.item.weight.detach()[rows]
    projected = own @ encoder.score_content.weight.detach().T
    parts = [(own, table), (projected, encoder.get_buffer("content")[rows])]
    if encoder.prior is not None:
        parts.append((query, encoder.get_buffer("prior_columns")[rows]))
    if items.dim() == 1:
        scores = sum((a @ b.T for a, b in parts), own.new_zeros(()))
    else:
        scores = sum(((a * b).sum(1, keepdim=True) for a, b in parts), own.new_zeros(()))
    if encoder.prior is not None:
        scores = scores + encoder.get_buffer("prior_bias")[items]
    return scores


@torch.no_grad()
def social_scores(
    encoder: ProfileEncoder, social: SocialDimension, histories: Histories, edges: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Everybody's scores with the social dimension: rows of some people (B,), and of all items for them (B, V + 1)."""
    around = neighbourhood(encoder, histories, edges)
    tokens, attention = social(around.people, around.edges)
    for people in torch.arange(len(histories), device=histories.items.device).split(_PEOPLE_AT_ONCE):
        batch = histories.batch(people, encoder.history_length)
        state = at_last(encoder(batch).state, batch.lengths)
        scores = encoder.item_scores(_with_token(encoder, state, tokens[people]))
        yield people, scores + friends_items(social, around, attention, people)
