"""The self-attention profile encoder.

Events become tokens, a causal transformer reads them, every dimension of the person becomes one more token, and a
fusion attention turns these into the profile vector. Everything at position t depends on events up to t alone, so
every position of a history is a training example and a new event extends a profile without looking back.

Only `nn.Linear`, `nn.LayerNorm` and `nn.Embedding` own parameters: each has an exact per-person gradient norm. The
item table is shared with the scoring head as a module, because functional sharing is miscounted by Opacus.

Kang and McAuley 2018, https://arxiv.org/abs/1808.09781, for the causal transformer over items.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from silhouette_shared.config import DimensionName, Model
from silhouette_shared.errors import UsageError
from silhouette_shared.model.dimensions import (
    RECENT_HALF_LIFE_EVENTS,
    Activity,
    Content,
    Deeds,
    Demographics,
    Interests,
    Moments,
    Rhythm,
    Spending,
    running_mean_weights,
)
from silhouette_shared.model.histories import GAP_BUCKETS, VALUE_BUCKETS, Batch
from silhouette_shared.model.prior import ItemPrior, PriorShape
from silhouette_shared.model.softmax import Prior as Constant
from silhouette_shared.model.softmax import Scorer
from silhouette_shared.schema import BEHAVIOURS, BROWSING, FEEDBACK, PURCHASES

_DEEDS: dict[str, tuple[str, ...]] = {"browsing": BROWSING, "purchases": PURCHASES, "feedback": FEEDBACK}


@dataclass(frozen=True)
class Vocabulary:
    """The public facts that fix the shape of an encoder."""

    categories: Tensor  # (V + 1, G), row 0 is zero
    content: Tensor  # (V + 1, C), row 0 is zero
    attributes: tuple[tuple[str, int], ...]  # name and number of classes
    prior: PriorShape | None = None  # of what released statistics add to the scores; None adds nothing

    @property
    def items(self) -> int:
        """Number of items V."""
        return len(self.categories) - 1


@dataclass(frozen=True)
class Profile:
    """What the encoder says about B people at L moments."""

    vector: Tensor  # (B, L, H)
    weights: Tensor  # (B, L, K) over the dimensions in the encoder's order, sums to one if any is present
    state: Tensor  # (B, L, H + F) profile and last event together, then what the prior is asked; scores items


def drop(values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Dropout from an explicit generator; without one nothing is dropped."""
    if generator is None or rate == 0:
        return values
    # Half of the time of `bernoulli_`, which draws its numbers one by one on a CPU.
    keep = torch.rand(values.shape, generator=generator, dtype=values.dtype, device=values.device) >= rate
    return values * keep.to(values.dtype).div_(1 - rate)


class Block(nn.Module):
    """Pre-norm causal self-attention and feed-forward layer."""

    def __init__(self, shape: Model) -> None:
        super().__init__()
        width, inner = shape.width, shape.feed_forward * shape.width
        self.heads, self.dropout = shape.heads, shape.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)

    def forward(self, states: Tensor, generator: torch.Generator | None) -> Tensor:
        """States after the block, shape (B, L, H)."""
        people, length, width = states.shape
        joint = self.query_key_value(self.attention_norm(states))
        query, key, value = joint.view(people, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(people, length, width))
        states = states + drop(mixed, self.dropout, generator)
        inner = F.gelu(self.expand(self.feed_forward_norm(states)))
        return states + drop(self.contract(inner), self.dropout, generator)


class Fusion(nn.Module):
    """Attention of the profile token over the dimension tokens of the same moment.

    The profile token asks with the last event's state; what it takes from each dimension is the dimension's weight. A
    missing dimension has weight zero.
    """

    def __init__(self, shape: Model) -> None:
        super().__init__()
        width = shape.width
        self.heads, self.dropout = shape.heads, shape.dropout
        self.query_norm = nn.LayerNorm(width)
        self.token_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, shape.feed_forward * width)
        self.contract = nn.Linear(shape.feed_forward * width, width)

    def forward(
        self,
        states: Tensor,
        tokens: Tensor,
        present: Tensor,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Profile vectors (B, L, H) and dimension weights (B, L, K).

        Args:
            states: Last event's state at every moment, shape (B, L, H).
            tokens: Dimension tokens, shape (B, L, K, H).
            present: Which dimensions are there, shape (B, L, K).
            generator: For dropout.
        """
        people, length, count, width = tokens.shape
        depth = width // self.heads
        query = self.query(self.query_norm(states)).view(people, length, self.heads, depth)
        # Three axes, with the person first: per-person gradient rules are written for (B, T, H).
        flat = self.token_norm(tokens.reshape(people, length * count, width))
        joint = self.key_value(flat).view(people, length, count, 2, self.heads, depth)
        key, value = joint.unbind(3)  # (B, L, K, heads, depth)
        scores = torch.einsum("blhd,blkhd->blhk", query, key) * depth**-0.5
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~present[:, :, None], lowest).softmax(-1)
        weights = weights * present[:, :, None]  # all missing: no weight at all, not an even one
        mixed = torch.einsum("blhk,blkhd->blhd", weights, value).reshape(people, length, width)
        profile = drop(self.out(mixed), self.dropout, generator)
        inner = F.gelu(self.expand(self.feed_forward_norm(profile)))
        profile = profile + drop(self.contract(inner), self.dropout, generator)
        return profile, weights.mean(2)


class ProfileEncoder(nn.Module):
    """Histories in; profile vectors, dimension weights, item scores and attribute scores out."""

    def __init__(self, shape: Model, vocabulary: Vocabulary, history_length: int) -> None:
        super().__init__()
        width, items = shape.width, vocabulary.items
        self.shape, self.history_length = shape, history_length
        self.attribute_names = tuple(name for name, _ in vocabulary.attributes)
        self.attribute_classes = tuple(count for _, count in vocabulary.attributes)
        self.register_buffer("categories", vocabulary.categories, persistent=False)
        self.register_buffer("content", vocabulary.content, persistent=False)
        content_width, categories = vocabulary.content.shape[1], vocabulary.categories.shape[1]
        self.prior = vocabulary.prior
        if self.prior is not None:  # nothing is known yet; `set_prior` fills it
            columns = self.prior.rank + content_width
            self.register_buffer("prior_bias", vocabulary.content.new_zeros(items + 1), persistent=False)
            self.register_buffer("prior_columns", vocabulary.content.new_zeros(items + 1, columns), persistent=False)

        self.item = nn.Embedding(items + 1, width)
        self.item_content = nn.Linear(content_width, width, bias=False)
        self.behaviour = nn.Embedding(len(BEHAVIOURS) + 1, width)
        self.value = nn.Embedding(VALUE_BUCKETS + 1, width)
        self.gap = nn.Embedding(GAP_BUCKETS + 1, width)
        self.position = nn.Embedding(history_length, width)
        self.lags = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(shape.lags))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.state_norm = nn.LayerNorm(width)

        self.dimensions = nn.ModuleDict()
        for name in shape.dimensions:
            dimension = _dimension(name, shape, self.attribute_classes, categories, content_width)
            if dimension is not None:
                self.dimensions[name] = dimension
        if not self.dimensions:
            raise ValueError(
                f"expected a dimension that the data can fill, got {', '.join(shape.dimensions)} "
                "without attributes, categories or content"
            )
        self.fusion = Fusion(shape)
        self.score_norm = nn.LayerNorm(width)
        self.score_content = nn.Linear(width, content_width, bias=False)
        self.score_item = nn.Linear(width, items + 1, bias=False)
        self.attribute_heads = nn.ModuleList(nn.Linear(width, count) for count in self.attribute_classes)
        self.behaviour_head = nn.Linear(width, len(BEHAVIOURS)) if shape.behaviour_head else None
        self.score_item.weight = self.item.weight

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Dimensions in the order of the weights."""
        return tuple(self.dimensions)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter from `generator`, in a fixed order."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Embedding):
                    module.weight.normal_(0.0, 0.02, generator=generator)
                elif isinstance(module, nn.Linear) and module is not self.score_item:
                    module.weight.normal_(0.0, 0.02, generator=generator)
                    if module.bias is not None:
                        module.bias.zero_()
                elif isinstance(module, nn.LayerNorm):
                    module.weight.fill_(1.0)
                    module.bias.zero_()

    @property
    def prior_size(self) -> int:
        """Numbers of the prior, which follow the parameters in a model's vector; 0 without one."""
        content: Tensor = self.get_buffer("content")
        return 0 if self.prior is None else self.prior.size(len(content) - 1, content.shape[1])

    def set_prior(self, vector: Tensor) -> None:
        """Take over a prior, shape (P,); nothing of it is trained.

        Raises:
            ValueError: If it is not a prior of this encoder's shape.
        """
        if len(vector) != self.prior_size:
            raise ValueError(f"expected a prior of {self.prior_size} numbers, got {len(vector)}")
        if self.prior is None:
            return
        content = self.get_buffer("content")
        prior = ItemPrior.of(vector.to(content), self.prior, len(content) - 1, content.shape[1])
        self.get_buffer("prior_bias").copy_(prior.bias)
        self.get_buffer("prior_columns").copy_(prior.columns(content))

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> Profile:
        """Profiles at every moment of every history.

        Args:
            batch: Histories, at most `history_length` events long.
            generator: For dropout in training; None in use.
        """
        people, length = batch.items.shape
        position = torch.arange(length, device=batch.items.device).expand(people, -1).contiguous()
        content = self.get_buffer("content")
        # Each embedding is one module call a pass: a second call is missed by per-person norm rules.
        states = (
            self.item(batch.items)
            + self.item_content(content[batch.items])
            + self.behaviour(batch.behaviours)
            + self.value(batch.values)
            + self.gap(batch.gaps)
            + self.position(position)
        )
        states = drop(states, self.shape.dropout, generator)
        # A short causal convolution: what came just before says most about what comes next (transition counts live
        # on it alone), and attention is slow to find that out from few people.
        before = [project(_delayed(states, lag)) for lag, project in enumerate(self.lags, start=1)]
        states = states + sum(before) if before else states
        for block in self.blocks:
            states = block(states, generator)
        states = self.state_norm(states)

        moments = Moments(
            batch=batch,
            states=states,
            running=running_mean_weights(length, None, states),
            recent=running_mean_weights(length, RECENT_HALF_LIFE_EVENTS, states),
            categories=self.get_buffer("categories"),
            content=content,
        )
        tokens, present = [], []
        for part in self.dimensions.values():
            token, there = part(moments)
            tokens.append(token)
            present.append(there)
        profile, weights = self.fusion(states, torch.stack(tokens, dim=2), torch.stack(present, dim=2), generator)
        state = self.score_norm(states + profile)
        if self.prior is not None:
            state = torch.cat([state, self._prior_query(batch.items)], dim=-1)
        return Profile(vector=profile, weights=weights, state=state)

    def _prior_query(self, items: Tensor) -> Tensor:
        """Decayed means of the prior's columns over the events so far, (B, L, F); nothing here is trained."""
        assert self.prior is not None  # noqa: S101 - the caller asked
        columns = self.get_buffer("prior_columns")[items]  # (B, L, F)
        lives = (self.prior.half_life, self.prior.content_half_life)
        parts = columns.split([self.prior.rank, columns.shape[-1] - self.prior.rank], dim=-1)
        means = [
            running_mean_weights(items.shape[1], life, part) @ part for life, part in zip(lives, parts, strict=True)
        ]
        return torch.cat(means, dim=-1)

    def item_scores(self, state: Tensor) -> Tensor:
        """Scores of all items, shape (..., V + 1); column 0 is padding and never a candidate."""
        own, query = state[..., : self.shape.width], state[..., self.shape.width :]
        scores: Tensor = self.score_item(own) + self.score_content(own) @ self.get_buffer("content").T
        if self.prior is not None:
            scores = scores + query @ self.get_buffer("prior_columns").T + self.get_buffer("prior_bias")
        return scores.index_fill(-1, scores.new_zeros(1, dtype=torch.long), -torch.inf)

    def next_item_scores(self, batch: Batch) -> Tensor:
        """Scores of all items as what follows each person's last event, shape (B, V + 1)."""
        return self.item_scores(at_last(self(batch).state, batch.lengths))

    @property
    def scorer(self) -> Scorer:
        """What item scores are made of, for a loss that never holds more than one tensor of their size."""
        return Scorer(
            table=self.score_item.weight, projection=self.score_content.weight, content=self.get_buffer("content")
        )

    def constant_part(self, state: Tensor) -> Constant | None:
        """What the prior adds to the scores of states (B, L, H + F), for the same loss; None without a prior."""
        if self.prior is None:
            return None
        return Constant(
            queries=state[..., self.shape.width :],
            table=self.get_buffer("prior_columns"),
            bias=self.get_buffer("prior_bias"),
        )

    def behaviour_scores(self, state: Tensor) -> Tensor:
        """Scores of the behaviours, in the order of the schema, for the next event, from states (..., H + F).

        Raises:
            UsageError: If the encoder has no such head.
        """
        if self.behaviour_head is None:
            raise UsageError(
                "expected an encoder with a head for the next behaviour, got one without; "
                "set model.behaviour_head = true in the plan and train"
            )
        scores: Tensor = self.behaviour_head(state[..., : self.shape.width])
        return scores

    def attribute_scores(self, profile: Tensor) -> Sequence[Tensor]:
        """Scores of every attribute's classes from profile vectors (..., H), one tensor each."""
        return [head(profile) for head in self.attribute_heads]


def _dimension(
    name: DimensionName, shape: Model, attributes: tuple[int, ...], categories: int, content_width: int
) -> nn.Module | None:
    """The dimension of this name; None if the catalogue and the declared attributes cannot fill it."""
    width = shape.width
    if name in _DEEDS:
        return Deeds(width, _DEEDS[name], shape.text_width if name == "feedback" else 0)
    if name == "demographics":
        return Demographics(width, attributes) if attributes else None
    if name == "interests":
        return Interests(width, categories) if categories else None
    if name == "content":
        return Content(width, content_width) if content_width else None
    return {"activity": Activity, "rhythm": Rhythm, "spending": Spending}[name](width)


def _delayed(states: Tensor, lag: int) -> Tensor:
    """States (B, L, H) of `lag` events before, zero where there is none."""
    return F.pad(states, (0, 0, lag, 0))[:, : states.shape[1]]


def at_last(values: Tensor, lengths: Tensor) -> Tensor:
    """The entry of each person's last event: (B, L, F) and (B,) give (B, F)."""
    return values[torch.arange(len(lengths), device=values.device), lengths - 1]
