"""Clipped sums of people's gradients from one forward and one backward pass.

The parameters are frozen while their layers run, so the backward pass computes gradients of activations alone. At
every layer its input and the gradient of its output are noted, and the gradient a person follows from them. From its
norm comes the factor that person is scaled by, and the scaled sum needs no second pass: book-keeping, Bu et al. 2022,
https://arxiv.org/abs/2210.00038.

Norms here are exact. A person's gradient of every parameter is formed, its norm taken, and that same tensor, or the
product that gives it, enters the sum; nothing is estimated from Gram matrices, whose rounding grows with the square of
what cancels. It is formed where it is small: people x parameters for the layers between the tables, and for the item
table a few people at a time, its uses as input and as output already added up. Nothing of the size
people x items x width ever exists.

What makes one example's gradient depend on another's, or a parameter's gradient come from somewhere this engine does
not see, would make a norm too small and the noise too weak. So all that has no rule here is refused by name: other
layers with parameters, a layer called twice in a pass, a parameter read outside its layer, an input whose first axis is
not the people.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from silhouette_client.training.engine import clip_factors
from silhouette_shared.closing import Closing
from silhouette_shared.config import Clipping
from silhouette_shared.model.softmax import ScoredItems, Tape

_BLOCK = 1024
"""Squares added up in the model's own precision before float64 takes over; all of ten million coordinates in float32
would understate a norm by more than one part in 10**5."""

_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26
"""Coordinates of people's gradients formed at a time where they are not kept. On a CPU 8 MiB of float32, to stay in its
cache; an accelerator wants larger pieces."""

_SMALL = 1024
"""Parameters of at most so many coordinates, biases and norms, are treated together."""

_FAR_SMALLER = 2
"""A person's gradient of a linear layer is not kept if its factors are so many times smaller: the sum then costs
another product, which is worth it for memory alone."""

_INSTEAD = {
    "MultiheadAttention": "build it from nn.Linear layers and scaled_dot_product_attention",
    "BatchNorm": "use nn.LayerNorm: statistics over a batch put one person's record into another's gradient",
    "InstanceNorm": "use nn.LayerNorm",
    "EmbeddingBag": "use nn.Embedding and take the mean of its output",
    "Conv": "use an nn.Linear for each shift of the input, as the encoder's lags do",
    "RNN": "write its steps from nn.Linear layers, one for each",
    "GRU": "write its steps from nn.Linear layers, one for each",
    "LSTM": "write its steps from nn.Linear layers, one for each",
}


class Bookkeeping(Closing):
    """The engine `bookkeeping`: sums gradients, each scaled so that its L2 norm is at most `clip_norm`.

    A person's part passes `clip_norm` by rounding alone, under one part in 10**5. A person whose gradient is not finite
    adds exactly zero: a model can be made up for which one person's overflows, and an undefined sum would tell that
    this person is there.

    Between calls the model is as it came. What the engine cannot see: that a table of as many rows as there are people
    in the batch is used without a person axis; give every table the person axis.

    Args:
        model: Its trainable parameters are owned by `nn.Linear`, `nn.LayerNorm` and `nn.Embedding`; one `nn.Linear` may
            share its weight with one `nn.Embedding`. What is frozen when the engine is made stays out.
        clip_norm: Largest L2 norm of one person's part.
        clipping: `flat` scales by `min(1, C / norm)` (Abadi et al. 2016, Algorithm 1), `automatic` by
            `C / (norm + stability)` (AUTO-S, Bu et al. 2022, https://arxiv.org/abs/2206.07136, equation 5).
        stability: Of automatic clipping.

    Raises:
        ValueError: If a layer has no exact rule, or a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip_norm: float,
        clipping: Clipping = "flat",
        stability: float = 0.01,
    ) -> None:
        if not 0 < clip_norm < math.inf:
            raise ValueError(f"expected a positive, finite clip_norm, got {clip_norm}")
        if clipping not in ("flat", "automatic"):
            raise ValueError(f"expected clipping flat or automatic, got {clipping}")
        if not 0 < stability < math.inf:
            raise ValueError(f"expected a positive, finite stability, got {stability}")
        self._clip_norm, self._clipping, self._stability = clip_norm, clipping, stability
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._layers, self._shared = _checked_layers(model)
        self._sums: dict[int, Tensor] = {}
        self.norms = torch.zeros(0, dtype=torch.float64)
        """L2 norms, before clipping, of the people of the last `add`, shape (B,)."""

    def close(self) -> None:
        """Forget what was not taken; the model needs nothing, it is as it came."""
        self._sums = {}

    def add(self, losses: Callable[[Tape], Tensor]) -> None:
        """Add the people of one virtual batch.

        However the people of a step are split, the sum is the same.

        Args:
            losses: Runs the model and returns one loss each, shape (B,); nobody's may depend on another's record. The
                tape is for the fused softmax.

        Raises:
            ValueError: If the pass contains something without an exact rule; then nobody was added.
        """
        tape = Tape()
        with self._watched(tape) as work:
            per_person = losses(tape)
            if per_person.dim() != 1:
                raise ValueError(f"expected one loss a person, shape (B,), got shape {tuple(per_person.shape)}")
            work.people = len(per_person)
            if per_person.requires_grad and work.people:
                per_person.sum().backward()
            self._refuse_other_uses()
            work.bring_together()
            self._finish(work, per_person.device)

    def take(self) -> dict[str, Tensor]:
        """The sum since the last call for every trainable parameter, zeros where nothing came; starts afresh."""
        sums, self._sums = self._sums, {}
        return {
            name: sums[id(p)].view_as(p) if id(p) in sums else torch.zeros_like(p, requires_grad=False)
            for name, p in self._parameters.items()
        }

    def _refuse_other_uses(self) -> None:
        """A gradient arrived at a parameter itself: it was used elsewhere than in its layer, where it is frozen."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                raise ValueError(
                    f"expected {name} to be used by calling its layer, got a use of it elsewhere that the norm would "
                    "miss; call the layer, or an nn.Linear that shares the weight"
                )

    @contextmanager
    def _watched(self, tape: Tape) -> Iterator["_Pass"]:
        """Listen to the layers, and leave the model as it was whatever happens."""
        work = _Pass(tape, {id(p): name for name, p in self._parameters.items()}, self._shared)
        with ExitStack() as undo:
            undo.callback(work.forget)
            for parameter in self._parameters.values():
                undo.callback(setattr, parameter, "grad", parameter.grad)
                undo.callback(parameter.requires_grad_, True)
                parameter.grad = None
            for name, layer in self._layers.items():
                for handle in work.listen(name, layer):
                    undo.callback(handle.remove)
            yield work

    @torch.no_grad()
    def _finish(self, work: "_Pass", device: torch.device) -> None:
        """Norms, factors and the sum, from all that was noted."""
        squares = torch.zeros(work.people, dtype=torch.float64, device=device)
        if work.pieces:
            squares += _squares([norms for piece in work.pieces for norms in piece.norms])
        if not squares.isfinite().all():  # too large for the model's precision, or not finite at all
            squares = torch.zeros_like(squares)
            for piece in work.pieces:
                squares += piece.exact_squares()
        # All but the last table are formed twice, for the norms and for the sum; the last one, and largest, once.
        for table in work.tables[:-1]:
            for people in table.chunks(work.people):
                squares[people] += _squares_of(table.blocks(people))
        factors = torch.zeros_like(squares)
        for table in work.tables[-1:]:
            total = self._sum_of(table.parameter)
            for people in table.chunks(work.people):
                blocks = table.blocks(people)
                squares[people] += _squares_of(blocks)
                table.add_to(total, blocks, self._factors(squares[people]))
            table.finish(total)
        factors = self._factors(squares)
        for table in work.tables[:-1]:
            total = self._sum_of(table.parameter)
            for people in table.chunks(work.people):
                table.add_to(total, table.blocks(people), factors[people])
            table.finish(total)
        work.tables.clear()
        broken = _broken(factors)
        while work.pieces:
            piece = work.pieces.pop()
            piece.add_to([self._sum_of(parameter) for parameter in piece.parameters], factors, broken)
        self.norms = squares.sqrt()

    def _sum_of(self, parameter: Tensor) -> Tensor:
        if id(parameter) not in self._sums:
            self._sums[id(parameter)] = parameter.new_zeros(parameter.shape)
        return self._sums[id(parameter)]

    def _factors(self, squares: Tensor) -> Tensor:
        """What people's gradients are scaled by, float64 (B,), from their squared norms; zero if not finite."""
        return clip_factors(squares.sqrt(), self._clip_norm, self._clipping, self._stability)


@dataclass(frozen=True)
class _Kept:
    """People's gradients of one parameter, or of several small ones, all of them."""

    parameters: tuple[Tensor, ...]
    values: Tensor  # (B, n), one parameter after the other
    norms: list[Tensor]  # of `_norms`

    @classmethod
    def of(cls, parameter: Tensor, values: Tensor) -> "_Kept":
        """From gradients of the parameter's shape, flattened or not, with the people in front."""
        flat = values.flatten(1)
        return cls((parameter,), flat, _norms(flat))

    @classmethod
    def together(cls, small: list[tuple[Tensor, Tensor]]) -> "_Kept":
        """The same of several parameters: tens of small operations become one."""
        flat = torch.cat([values.flatten(1) for _, values in small], dim=1)
        return cls(tuple(parameter for parameter, _ in small), flat, _norms(flat))

    def exact_squares(self) -> Tensor:
        """Squared norms that cannot overflow, float64 (B,)."""
        return _exact_squares(self.values)

    def add_to(self, totals: list[Tensor], factors: Tensor, broken: Tensor) -> None:
        """Add the scaled sum to each parameter's total; people `broken` are left out."""
        if len(broken):
            self.values[broken] = 0.0
        scale = factors.to(self.values.dtype)
        if len(totals) == 1:
            totals[0].view(-1).addmv_(self.values.T, scale)
            return
        found = torch.mv(self.values.T, scale).split([total.numel() for total in totals])
        for total, part in zip(totals, found, strict=True):
            total.view(-1).add_(part)


@dataclass(frozen=True)
class _Product:
    """People's gradients of a linear layer's weight as what they are the product of, where that is smaller."""

    parameters: tuple[Tensor]  # (O, I)
    given: Tensor  # (B, T, I)
    gradient: Tensor  # (B, T, O)
    norms: list[Tensor]  # of `_norms`

    @classmethod
    def of(cls, parameter: Tensor, given: Tensor, gradient: Tensor) -> "_Product":
        """From the layer's input and the gradient of its output."""
        if given.shape[1] == 1:  # the norm of an outer product is the product of the norms
            squares = _squares(_norms(given.flatten(1))) * _squares(_norms(gradient.flatten(1)))
            return cls((parameter,), given, gradient, [squares.sqrt()[:, None]])
        step = _people_at_once(parameter.numel(), given.device)
        parts = zip(given.split(step), gradient.split(step), strict=True)
        norms = [torch.cat(_norms(torch.bmm(g.mT, a).flatten(1)), dim=1) for a, g in parts]
        return cls((parameter,), given, gradient, [torch.cat(norms)])

    def exact_squares(self) -> Tensor:
        """Squared norms that cannot overflow, float64 (B,)."""
        each = zip(self.given, self.gradient, strict=True)
        return torch.cat([_exact_squares((g.double().T @ a.double()).flatten()[None]) for a, g in each])

    def add_to(self, totals: list[Tensor], factors: Tensor, broken: Tensor) -> None:
        """Add the scaled sum to the total; people `broken` are left out."""
        given, scaled = self.given, self.gradient * factors.to(self.gradient.dtype)[:, None, None]
        if len(broken):
            given = given.index_fill(0, broken, 0.0)
            scaled.index_fill_(0, broken, 0.0)
        totals[0].addmm_(scaled.flatten(0, 1).T, given.flatten(0, 1))


@dataclass(frozen=True)
class _Scores:
    """A product of states with a table, as what people's gradients of the table are made of."""

    states: Tensor  # (B, L, H) weighted
    delta: Tensor  # (B, L, K)
    candidates: Tensor | None = None  # (K,) rows of the table; None for all
    positives: Tensor | None = None  # (B, L) rows
    positive_delta: Tensor | None = None  # (B, L)


@dataclass(frozen=True)
class _Block:
    """Gradients of some rows of a table for some people; no row occurs twice for one person, but as zero."""

    values: Tensor  # (N, R, H)
    rows: Tensor | None  # (N, R) which; None for the rows of the scores in their order


class _Table:
    """People's gradients of a table, from its uses as embedding and as scores, formed for a few people at a time.

    Args:
        parameter: Shape (V, H).
        looked_up: Rows (B, T) and the gradients of what was read there (B, T, H).
        scores: Of the product with the table.
    """

    def __init__(self, parameter: Tensor, looked_up: tuple[Tensor, Tensor] | None, scores: _Scores | None) -> None:
        self.parameter, self._looked_up, self._scores = parameter, looked_up, scores
        self._column: Tensor | None = None
        self._candidate_sum: Tensor | None = None
        if scores is not None and scores.candidates is not None:
            candidates = scores.candidates
            self._column = candidates.new_full((len(parameter),), -1)
            self._column[candidates] = torch.arange(len(candidates), device=candidates.device)
            self._candidate_sum = parameter.new_zeros((len(candidates), parameter.shape[1]))

    @property
    def size(self) -> int:
        """Coordinates of one person's gradient as it is formed, near enough."""
        rows = 0 if self._scores is None else self._scores.delta.shape[2]
        rows += 0 if self._looked_up is None else self._looked_up[0].shape[1]
        return rows * self.parameter.shape[1]

    def chunks(self, people: int) -> Iterator[slice]:
        """Whom to form together."""
        step = _people_at_once(self.size, self.parameter.device)
        for start in range(0, people, step):
            yield slice(start, min(people, start + step))

    def blocks(self, people: slice) -> list[_Block]:
        """These people's gradients; their squares add up, for no row of a person is in two blocks."""
        scores = self._scores
        found = [] if self._looked_up is None else [(self._looked_up[0][people], self._looked_up[1][people])]
        if scores is None:
            return [self._merged(rows, values) for rows, values in found]
        states = scores.states[people]
        dense = torch.bmm(scores.delta[people].mT, states)  # (N, K, H)
        if scores.positives is not None and scores.positive_delta is not None:
            found.append((scores.positives[people], states * scores.positive_delta[people][..., None]))
        blocks = [_Block(dense, None)]
        if found:
            rows = torch.cat([ids for ids, _ in found], dim=1)  # (N, R)
            values = torch.cat([part for _, part in found], dim=1)  # (N, R, H)
            if self._column is None:
                _add_rows(dense, rows, values)
            else:
                column = self._column[rows]
                person, at = torch.nonzero(column >= 0, as_tuple=True)  # few: candidates are few of all items
                dense.index_put_((person, column[person, at]), values[person, at], accumulate=True)
                values[person, at] = 0.0
                blocks.append(self._merged(rows, values))
        return blocks

    def add_to(self, total: Tensor, blocks: list[_Block], factors: Tensor) -> None:
        """Add the scaled sum of these people's gradients; `finish` adds what it keeps back."""
        broken, scale = _broken(factors), factors.to(total.dtype)
        for block in blocks:
            if len(broken):
                block.values[broken] = 0.0
            if block.rows is None:
                into = total if self._candidate_sum is None else self._candidate_sum
                into.view(-1).addmv_(block.values.flatten(1).T, scale)
            else:
                scaled = block.values.mul_(scale[:, None, None])
                total.index_add_(0, block.rows.flatten(), scaled.flatten(0, 1))

    def finish(self, total: Tensor) -> None:
        """Add what the candidates got."""
        if self._scores is not None and self._scores.candidates is not None and self._candidate_sum is not None:
            total.index_add_(0, self._scores.candidates, self._candidate_sum)

    def _merged(self, rows: Tensor, values: Tensor) -> _Block:
        """Values (N, R, H) of the same row added up at one place, zero at the places left over."""
        ordered, order = rows.sort(dim=1)
        fresh = torch.ones_like(ordered, dtype=torch.bool)
        fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        place = torch.empty_like(rows).scatter_(1, order, fresh.cumsum(1) - 1)  # (N, R)
        merged = torch.zeros_like(values, memory_format=torch.contiguous_format)
        _add_rows(merged, place, values)
        return _Block(merged, torch.zeros_like(rows).scatter_(1, place, rows))


class _Pass:
    """What one forward and backward pass leaves: pieces of people's gradients, layer by layer.

    Args:
        tape: What the fused softmax fills.
        names: Of the trainable parameters, by `id`.
        shared: Those that an `nn.Embedding` and an `nn.Linear` share, by `id`.
    """

    def __init__(self, tape: Tape, names: dict[int, str], shared: frozenset[int]) -> None:
        self.people = -1  # known after the forward pass
        self.pieces: list[_Kept | _Product] = []
        self.tables: list[_Table] = []
        self.names = names
        self._tape, self._shared = tape, shared
        self._called: set[str] = set()
        self._inputs: dict[str, Tensor] = {}
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._small: list[tuple[Tensor, Tensor]] = []
        self._looked_up: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._scores: dict[int, tuple[Tensor, _Scores]] = {}

    def listen(self, name: str, layer: nn.Module) -> Iterator[RemovableHandle]:
        """Hooks that note the layer's input and, in the backward pass, the gradient of its output.

        The layer's parameters are frozen while it runs, so that no gradient of theirs is computed. One that arrives all
        the same comes from a use elsewhere.
        """
        own = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) in self.names]

        def before(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            for parameter in own:
                parameter.requires_grad_(False)

        def after(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            for parameter in own:
                parameter.requires_grad_(True)
            if not torch.is_grad_enabled():
                return None  # nothing flows back from here
            if len(args) != 1:
                raise ValueError(f"expected {name} to be called with one input by position, got {len(args)}")
            self._call(name)
            self._inputs[name] = args[0].detach()
            if isinstance(layer, nn.LayerNorm):
                self._moments[name] = _moments(layer, args[0], output)

            def arrived(gradient: Tensor) -> None:
                self._note(name, layer, self._inputs.pop(name), gradient)

            if output.requires_grad:
                output.register_hook(arrived)
                return None
            began: Tensor = _Begin.apply(output, torch.zeros((), device=output.device, requires_grad=True), arrived)
            return began

        yield layer.register_forward_pre_hook(before)
        yield layer.register_forward_hook(after)

    def bring_together(self) -> None:
        """Read what the fused softmax left, and join each table's uses."""
        while self._tape.scored:
            self._read(self._tape.scored.pop())
        for key, (parameter, rows, gradient) in self._looked_up.items():
            scores = self._scores.pop(key, (parameter, None))[1]
            count, width = parameter.shape
            if scores is None and count <= max(64, 4 * rows.shape[1]):
                every = gradient.new_zeros((self.people, count, width))
                _add_rows(every, rows, gradient)
                self._keep(parameter, every)
            else:
                self.tables.append(_Table(parameter, (rows, gradient), scores))
        self.tables += [_Table(parameter, None, scores) for parameter, scores in self._scores.values()]
        if self._small:
            self.pieces.append(_Kept.together(self._small))
        self._looked_up, self._scores, self._small = {}, {}, []
        self.tables.sort(key=lambda table: table.size)

    def forget(self) -> None:
        """Let go of everything, also where an error keeps the graph and its hooks alive."""
        self.pieces, self.tables, self._small = [], [], []
        self._inputs, self._moments, self._looked_up, self._scores = {}, {}, {}, {}
        self._tape.scored.clear()

    def _call(self, name: str) -> None:
        if name in self._called:
            raise ValueError(
                f"expected one use of {name} in a pass, got two, whose product enters the norm; "
                "use it once on everything together, or make two layers"
            )
        self._called.add(name)

    def _note(self, name: str, layer: nn.Module, given: Tensor, gradient: Tensor) -> None:
        for what in (given, gradient):
            if what.dim() == 0 or len(what) != self.people:
                raise ValueError(
                    f"expected the {self.people} people as the first axis of what goes through {name}, got shape "
                    f"{tuple(what.shape)}; give it one row a person"
                )
        if isinstance(layer, nn.Embedding):
            rows = given.reshape(self.people, -1)
            self._looked_up[id(layer.weight)] = (layer.weight, rows, gradient.reshape(*rows.shape, layer.embedding_dim))
        elif isinstance(layer, nn.LayerNorm):
            self._note_norm(layer, given, gradient, *self._moments.pop(name))
        elif isinstance(layer, nn.Linear):
            # The number of rows is said, because a layer without columns leaves it open.
            given = given.reshape(self.people, math.prod(given.shape[1:-1]), layer.in_features)
            gradient = gradient.reshape(self.people, -1, layer.out_features)
            if layer.bias is not None and id(layer.bias) in self.names:
                self._keep(layer.bias, gradient.sum(1))
            if id(layer.weight) in self._shared:
                self._score(name, layer.weight, _Scores(states=given, delta=gradient))
            elif id(layer.weight) in self.names:
                self._multiply(layer.weight, given, gradient)

    def _note_norm(self, layer: nn.LayerNorm, given: Tensor, gradient: Tensor, mean: Tensor, scale: Tensor) -> None:
        size = math.prod(layer.normalized_shape)
        gradient = gradient.reshape(self.people, -1, size)
        if id(layer.weight) in self.names:
            normal = given.sub(mean).mul_(scale).reshape(self.people, -1, size)
            self._keep(layer.weight, normal.mul_(gradient).sum(1))
        if layer.bias is not None and id(layer.bias) in self.names:
            self._keep(layer.bias, gradient.sum(1))

    def _multiply(self, parameter: Tensor, given: Tensor, gradient: Tensor) -> None:
        """A linear layer's weight (O, I): keep the gradients, or what they are made of where that is far smaller."""
        factors = given.shape[1] * (given.shape[2] + gradient.shape[2])
        if _FAR_SMALLER * factors < parameter.numel():
            self.pieces.append(_Product.of(parameter, given, gradient))
        else:
            self._keep(parameter, torch.bmm(gradient.mT, given))

    def _keep(self, parameter: Tensor, values: Tensor) -> None:
        if parameter.numel() <= _SMALL:
            self._small.append((parameter, values))
        else:
            self.pieces.append(_Kept.of(parameter, values))

    def _score(self, name: str, parameter: Tensor, scores: _Scores) -> None:
        if id(parameter) in self._scores:
            raise ValueError(f"expected one product with the table of {name} in a pass, got two; score once")
        self._scores[id(parameter)] = (parameter, scores)

    def _read(self, scored: ScoredItems) -> None:
        if len(scored.states) != self.people:
            raise ValueError(
                f"expected scores of the {self.people} people with a loss, got {len(scored.states)}; "
                "put the people in the first axis"
            )
        if (name := self.names.get(id(scored.table))) is not None:
            scores = _Scores(
                states=scored.states * scored.weights[..., None],
                delta=scored.delta,
                candidates=scored.candidates,
                positives=scored.positives,
                positive_delta=scored.positive_delta,
            )
            self._score(name, scored.table, scores)
        projection = scored.projection
        if projection is not None and (name := self.names.get(id(projection))) is not None:
            self._call(name.removesuffix(".weight"))
            if scored.content_gradient is not None:
                self._multiply(projection, scored.states, scored.content_gradient)


class _Begin(torch.autograd.Function):
    """The output of a layer whose input has no gradient, made the beginning of the graph."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, arrived: Callable[[Tensor], None]) -> Tensor:
        ctx.arrived = arrived
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ctx.arrived(gradient)
        return None, None, None


def _checked_layers(model: nn.Module) -> tuple[dict[str, nn.Module], frozenset[int]]:
    """The layers with trainable parameters by name, and which parameters two of them share.

    Raises:
        ValueError: If one has no exact rule.
    """
    layers: dict[str, nn.Module] = {}
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if p.requires_grad}
        kind = type(module).__name__
        if not own and not isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
            continue
        if type(module) not in (nn.Linear, nn.LayerNorm, nn.Embedding) or not own.keys() <= {"weight", "bias"}:
            instead = next(
                (text for part, text in _INSTEAD.items() if part in kind), "build it from those, or freeze it"
            )
            raise ValueError(
                f"expected trainable parameters in nn.Linear, nn.LayerNorm and nn.Embedding, got {kind} at "
                f"{name or 'the model itself'}, which has no exact norm a person; {instead}"
            )
        if isinstance(module, nn.Embedding):
            _check_embedding(name, module)
        for key, parameter in own.items():
            if parameter.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"expected float32 or float64 parameters, got {parameter.dtype} at {name}; convert them"
                )
            owners.setdefault(id(parameter), []).append(f"{kind} {name}.{key}")
        layers[name] = module
    for found in owners.values():
        kinds = sorted(owner.split()[0] for owner in found)
        if len(found) > 1 and kinds != ["Embedding", "Linear"]:
            raise ValueError(
                f"expected a parameter to be shared by one nn.Embedding and one nn.Linear, got {' and '.join(found)}; "
                "call one layer once on everything together, or give each its own parameter"
            )
    return layers, frozenset(key for key, found in owners.items() if len(found) == 2)


def _check_embedding(name: str, layer: nn.Embedding) -> None:
    for option, usual in (("max_norm", None), ("sparse", False), ("padding_idx", None), ("scale_grad_by_freq", False)):
        if getattr(layer, option) != usual:
            raise ValueError(
                f"expected nn.Embedding {name} with {option}={usual}, got {getattr(layer, option)}, for which there is "
                "no exact norm a person; leave the option out"
            )


def _moments(layer: nn.LayerNorm, given: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation that the layer used; autograd has kept them, and taking them anew is slow."""
    node: Any = output.grad_fn
    if node is not None and hasattr(node, "_saved_result1"):
        return node._saved_result1, node._saved_result2  # noqa: SLF001
    _, mean, scale = torch.native_layer_norm(given.detach(), layer.normalized_shape, None, None, layer.eps)
    return mean, scale


def _people_at_once(each: int, device: torch.device) -> int:
    return max(1, _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS_ELSEWHERE) // max(1, each))


def _add_rows(values: Tensor, rows: Tensor, added: Tensor) -> None:
    """`values[b, rows[b, t]] += added[b, t]`, for values (B, R, H), rows (B, T) and added (B, T, H)."""
    people, count, width = values.shape
    start = torch.arange(people, device=rows.device)[:, None] * count
    values.view(-1, width).index_add_(0, (start + rows).flatten(), added.reshape(-1, width))


def _norms(values: Tensor) -> list[Tensor]:
    """Norms (B, k) of blocks of (B, n): short enough that rounding stays under one part in 10**6."""
    whole = values.shape[1] // _BLOCK * _BLOCK
    found = []
    if whole:
        found.append(torch.linalg.vector_norm(values[:, :whole].unflatten(1, (-1, _BLOCK)), dim=2))
    if whole < values.shape[1] or not whole:
        found.append(torch.linalg.vector_norm(values[:, whole:], dim=1, keepdim=True))
    return found


def _squares(norms: list[Tensor]) -> Tensor:
    """Squared norms (B,) in float64 from those of blocks; infinite where the blocks' precision ended."""
    found: Tensor = torch.cat(norms, dim=1).double().square_().sum(1)
    return found


def _exact_squares(values: Tensor) -> Tensor:
    """Squared norms of (B, n) in float64, which holds the square of any float32."""
    found: Tensor = torch.linalg.vector_norm(values.double(), dim=1).square()
    return found


def _squares_of(blocks: list[_Block]) -> Tensor:
    found = _squares([norms for block in blocks for norms in _norms(block.values.flatten(1))])
    if not found.isfinite().all():
        found = torch.stack([_exact_squares(block.values.flatten(1)) for block in blocks]).sum(0)
    return found


def _broken(factors: Tensor) -> Tensor:
    """Who is left out, as row numbers: zero times infinity is no number, so a factor of zero is not enough."""
    return torch.nonzero(factors == 0).flatten()
