"""Book-keeping gives the clipped sums of plain autograd, one person at a time, and refuses what it has no rule for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from tests.people import encoder, generator, histories, vocabulary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from silhouette_client.training import bookkeeping
from silhouette_client.training.bookkeeping import Bookkeeping
from silhouette_shared.config import DimensionName
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Batch
from silhouette_shared.model.objective import draw_negatives, person_losses
from silhouette_shared.model.softmax import Scorer, Tape, next_item_losses

LONG = 16  # longer than every history of `histories()`
DIMENSIONS: tuple[DimensionName, ...] = get_args(DimensionName)
Clipping = Literal["flat", "automatic"]


@dataclass(frozen=True)
class Case:
    """A model, people and the options of a step."""

    lengths: tuple[int, ...]
    history: int = LONG
    items: int = 20
    width: int = 8
    blocks: int = 1
    feed_forward: int = 2
    lags: int = 3
    dropout: float = 0.0
    content: int = 4
    dimensions: tuple[DimensionName, ...] = DIMENSIONS
    tied: bool = True
    negatives: int = 0
    attribute_weight: float = 0.7
    behaviour_head: bool = True
    text_width: int = 3
    masking: float = 1.0
    has_times: bool = True
    through_modules: bool = False  # scores from the modules, not from the fused softmax
    clipping: Clipping = "flat"
    clip_norm: float = 0.5
    at_once: int = 100
    double: bool = False
    seed: int = 0

    def model(self) -> ProfileEncoder:
        made = encoder(
            vocabulary(self.items, content=self.content),
            scale=4.0,
            length=self.history,
            width=self.width,
            blocks=self.blocks,
            feed_forward=self.feed_forward,
            lags=self.lags,
            dropout=self.dropout,
            dimensions=self.dimensions,
            behaviour_head=self.behaviour_head,
            text_width=self.text_width,
        )
        if not self.tied:
            made.score_item.weight = nn.Parameter(
                0.3 * torch.randn(made.item.weight.shape, generator=generator("untied"))
            )
        return made.double() if self.double else made

    def batches(self) -> list[Batch]:
        people = histories(self.lengths, seed=self.seed, items=self.items, has_times=self.has_times, texts=3)
        draw = generator("windows", self.seed)
        rows = torch.arange(len(people)).split(self.at_once)
        return [people.training_batch(part, self.history, draw) for part in rows]

    def losses(self, model: ProfileEncoder, batch: Batch, *, modules: bool, tape: Tape | None = None) -> Tensor:
        return person_losses(
            model,
            batch,
            attribute_weight=self.attribute_weight,
            behaviour_weight=0.5,
            attribute_masking=self.masking,
            generator=generator("objective", self.seed),
            negatives=draw_negatives(self.items, self.negatives, generator("negatives", self.seed)),
            per_person=modules,
            tape=None if modules else tape,
        )


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def rows_of_autograd(model: nn.Module, losses: Tensor) -> Tensor:
    """Each person's gradient, (B, D), one backward pass a person."""
    rows = []
    for loss in losses:
        parts = torch.autograd.grad(loss, list(named(model).values()), retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def rows_of_opacus(model: ProfileEncoder, run: Callable[[], Tensor]) -> Tensor:
    watched = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=True)
    try:
        losses = run()
        losses.sum().backward()
        parts = []
        for p in named(model).values():
            found: Tensor | None = getattr(p, "grad_sample", None)
            parts.append(p.new_zeros((len(losses), *p.shape)) if found is None else found)
        return torch.cat([part.detach().flatten(1) for part in parts], dim=1)
    finally:
        watched.cleanup()
        for p in model.parameters():
            p.grad = None
            if hasattr(p, "grad_sample"):
                del p.grad_sample


def clipped_sum(rows: Tensor, clip_norm: float, clipping: Clipping = "flat", stability: float = 0.01) -> Tensor:
    norms = rows.double().norm(dim=1, keepdim=True)
    factors = clip_norm / (norms + stability) if clipping == "automatic" else (clip_norm / norms).clamp(max=1.0)
    clipped: Tensor = (rows.double() * factors).sum(0)
    return clipped


def flat(sums: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in sums.values()])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def engine_of(case: Case, model: nn.Module) -> Bookkeeping:
    return Bookkeeping(model, clip_norm=case.clip_norm, clipping=case.clipping)


def run(case: Case, model: ProfileEncoder, engine: Bookkeeping, only: int | None = None) -> Tensor:
    """All people through the engine; with `only`, everybody else's loss counts nothing. Their norms."""
    norms, first = [], 0
    for batch in case.batches():
        people = torch.arange(first, first + len(batch.items))
        first += len(people)

        def losses(tape: Tape, batch: Batch = batch, people: Tensor = people) -> Tensor:
            found = case.losses(model, batch, modules=case.through_modules, tape=tape)
            return found if only is None else found * (people == only)

        engine.add(losses)
        norms.append(engine.norms)
    return torch.cat(norms)


def check(case: Case) -> None:
    """Norms, the clipped sum and the bound, against plain autograd and against Opacus' hooks."""
    tolerance = 1e-9 if case.double else 1e-5
    model = case.model()
    rows = torch.cat([rows_of_autograd(model, case.losses(model, b, modules=True)) for b in case.batches()])
    norms = rows.double().norm(dim=1)
    engine = engine_of(case, model)
    found = run(case, model, engine)
    assert torch.allclose(found, norms, rtol=tolerance, atol=1e-30)
    assert relative(flat(engine.take()), clipped_sum(rows, case.clip_norm, case.clipping)) < tolerance
    for person in range(min(3, len(case.lengths))):
        run(case, model, engine, only=person)
        mine = flat(engine.take())
        assert float(mine.double().norm()) <= case.clip_norm * (1 + 1e-5)
        assert relative(mine, clipped_sum(rows[person : person + 1], case.clip_norm, case.clipping)) < tolerance or (
            norms[person] == 0
        )
    hooks = torch.cat(
        [rows_of_opacus(model, lambda b=b: case.losses(model, b, modules=True)) for b in case.batches()]  # type: ignore[misc]
    )
    assert relative(hooks, rows) < tolerance


@st.composite
def cases(draw: st.DrawFn) -> Case:
    items = draw(st.sampled_from([3, 20, 150]))
    lengths = draw(st.lists(st.sampled_from([1, 2, 3, 7, 12, 40]), min_size=1, max_size=6))
    dimensions = draw(st.lists(st.sampled_from(DIMENSIONS), min_size=1, max_size=len(DIMENSIONS), unique=True))
    return Case(
        lengths=tuple(lengths),
        history=draw(st.sampled_from([2, 9, 16])),
        items=items,
        width=draw(st.sampled_from([4, 8, 24])),
        blocks=draw(st.integers(1, 2)),
        feed_forward=draw(st.integers(1, 2)),
        lags=draw(st.integers(0, 3)),
        dropout=draw(st.sampled_from([0.0, 0.3])),
        content=draw(st.sampled_from([1, 4])),
        dimensions=tuple(dimensions),
        tied=draw(st.booleans()),
        negatives=draw(st.sampled_from([0, 1, items // 2, items])),
        attribute_weight=draw(st.sampled_from([0.0, 0.7])),
        behaviour_head=draw(st.booleans()),
        text_width=draw(st.sampled_from([0, 3])),
        masking=draw(st.sampled_from([0.5, 1.0])),
        has_times=draw(st.booleans()),
        through_modules=draw(st.integers(0, 3)) == 0,
        clipping=draw(st.sampled_from(["flat", "automatic"])),
        clip_norm=draw(st.sampled_from([1e-3, 0.5, 100.0])),
        at_once=draw(st.sampled_from([1, 2, 100])),
        double=draw(st.booleans()),
        seed=draw(st.integers(0, 50)),
    )


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_clipped_sums_are_those_of_plain_autograd_and_of_opacus(case: Case) -> None:
    check(case)


PEOPLE = (3, 9, 1, 12, 5, 2, 7)


@pytest.mark.parametrize(
    "case",
    [
        Case(PEOPLE),
        Case(PEOPLE, double=True),
        Case(PEOPLE, negatives=8, at_once=3),
        Case(PEOPLE, negatives=20, clipping="automatic", double=True),
        Case(PEOPLE, tied=False, negatives=5),
        Case(PEOPLE, tied=False, items=150, width=24, history=2),
        Case(PEOPLE, through_modules=True),
        Case(PEOPLE, through_modules=True, negatives=8, tied=False),
        Case(PEOPLE, dropout=0.3, masking=0.5, at_once=2, attribute_weight=0.0),
        Case((1,), attribute_weight=0.0),
        Case((40, 40), items=3, history=16, blocks=2),
    ],
)
def test_clipped_sums_are_those_of_plain_autograd_in_every_kind_of_case(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [Case(PEOPLE), Case(PEOPLE, negatives=8)])
def test_the_check_above_notices_a_norm_understated_by_a_hundredth(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = bookkeeping._squares
    monkeypatch.setattr(bookkeeping, "_squares", lambda norms: honest(norms) / 1.01**2)
    with pytest.raises(AssertionError):
        check(case)


@pytest.mark.parametrize("negatives", [0, 8])
def test_the_check_above_notices_a_table_without_its_cross_term(
    negatives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The squares of the two uses, added up without their product: what ghost clipping of a shared table does."""
    honest = bookkeeping._Table.blocks

    def apart(self: bookkeeping._Table, people: slice) -> list[bookkeeping._Block]:
        if self._scores is None:
            return honest(self, people)
        looked_up, self._looked_up = self._looked_up, None
        blocks = honest(self, people)
        self._looked_up = looked_up
        assert looked_up is not None
        return [*blocks, self._merged(looked_up[0][people], looked_up[1][people])]

    monkeypatch.setattr(bookkeeping._Table, "blocks", apart)
    with pytest.raises(AssertionError):
        check(Case(PEOPLE, negatives=negatives))


@pytest.mark.parametrize("negatives", [0, 8])
def test_however_people_are_split_into_virtual_batches_the_sum_is_the_same(negatives: int) -> None:
    found = []
    for at_once in (1, 2, 3, 7):
        case = Case(PEOPLE, negatives=negatives, at_once=at_once)
        model = case.model()
        with engine_of(case, model) as engine:
            run(case, model, engine)
            found.append(flat(engine.take()))
    for other in found[1:]:
        assert relative(other, found[0]) < 1e-6


@pytest.mark.parametrize("case", [Case(PEOPLE, dropout=0.3, masking=0.5), Case(PEOPLE, negatives=8, tied=False)])
@pytest.mark.parametrize("person", [0, 3, 6])
def test_everybody_elses_records_do_not_change_a_persons_clipped_gradient_in_a_single_bit(
    case: Case, person: int
) -> None:
    (batch,), (strangers,) = case.batches(), replace(case, lengths=(9, 12, 4, 12, 8, 7, 9), seed=7).batches()
    keep = torch.arange(len(PEOPLE)) == person

    def mix(name: str) -> Tensor:
        mine, theirs = getattr(batch, name), getattr(strangers, name)
        return torch.where(keep.view(-1, *[1] * (mine.dim() - 1)), mine, theirs)

    changed = replace(batch, **{name: mix(name) for name in Batch.__dataclass_fields__})
    assert not torch.equal(changed.items, batch.items)
    found = []
    for given_batch in (batch, changed):
        model = case.model()
        engine = engine_of(case, model)

        def losses(tape: Tape, model: ProfileEncoder = model, chosen: Batch = given_batch) -> Tensor:
            return case.losses(model, chosen, modules=False, tape=tape) * keep

        engine.add(losses)
        found.append((engine.norms[person], engine.take()))
    (norm, sums), (other_norm, other_sums) = found
    assert torch.equal(norm, other_norm)
    assert float(norm) > 0
    for name in sums:
        assert torch.equal(sums[name], other_sums[name]), name


def test_a_persons_events_a_hundred_times_over_do_not_pass_the_bound() -> None:
    people = histories((9,), items=20)
    times = 100
    many = replace(
        people,
        items=people.items.repeat(times),
        behaviours=people.behaviours.repeat(times),
        values=people.values.repeat(times),
        timestamps=people.timestamps.repeat(times),
        offsets=people.offsets * times,
    )
    for clipping in ("flat", "automatic"):
        for negatives in (0, 8):
            case = Case((9,), history=1000, clip_norm=1e-2, clipping=clipping, negatives=negatives)
            for record in (people, many):
                batch = record.training_batch(torch.tensor([0]), case.history, None)
                model = case.model()
                engine = engine_of(case, model)
                engine.add(lambda tape, m=model, b=batch, c=case: c.losses(m, b, modules=False, tape=tape))  # type: ignore[misc]
                assert float(engine.norms[0]) > case.clip_norm
                norm = float(flat(engine.take()).double().norm())
                assert 0.9 * case.clip_norm < norm <= case.clip_norm * (1 + 1e-5)


class Large(nn.Module):
    """Ten million parameters in one table and one layer."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(rows, width), nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.table.weight.fill_(0.01)
            self.layer.weight.fill_(0.01)

    def losses(self, items: Tensor, targets: Tensor, tape: Tape) -> Tensor:
        states = self.layer(self.table(items))
        return next_item_losses(states, Scorer(self.table.weight, None, None), targets, tape=tape)


@pytest.mark.parametrize(("rows", "width"), [(156_250, 64), (64, 3_200)])
def test_ten_million_parameters_do_not_carry_a_person_past_the_bound(rows: int, width: int) -> None:
    """Equal coordinates, whose squares round the same way each time: the worst for a sum in float32."""
    model = Large(rows, width)
    assert sum(p.numel() for p in model.parameters()) >= 10_000_000
    items = torch.tensor([[1, 2, 1, 4], [5, 6, 7, 8]])
    engine = Bookkeeping(model, clip_norm=1e-4)
    for person in range(2):
        one = items[person : person + 1]
        engine.add(lambda tape, one=one: model.losses(one, one.roll(-1, 1), tape))  # type: ignore[misc]
        assert float(engine.norms[0]) > 1e-4
        assert float(flat(engine.take()).double().norm()) == pytest.approx(1e-4, rel=1e-5)
    engine.add(lambda tape: model.losses(items, items.roll(-1, 1), tape))
    together = rows_of_autograd_of_large(model, items)
    assert torch.allclose(engine.norms, together, rtol=1e-5)


def rows_of_autograd_of_large(model: Large, items: Tensor) -> Tensor:
    norms = []
    for one in items.split(1):
        scores = model.layer(model.table(one)) @ model.table.weight[1:].T
        loss = F.cross_entropy(scores.flatten(0, 1), one.roll(-1, 1).flatten() - 1)
        parts = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(torch.stack([part.double().square().sum() for part in parts]).sum().sqrt())
    return torch.stack(norms)


def test_a_norm_of_equal_coordinates_is_right_at_ten_million() -> None:
    for value in (0.1, 1.0 / 3.0, 7e-4):
        values = torch.full((1, 10_000_000), value)
        exact = 10_000_000 * float(values[0, 0].double()) ** 2
        assert float(bookkeeping._squares(bookkeeping._norms(values))[0]) == pytest.approx(exact, rel=2e-6)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, list | tuple) else (found,):
            if isinstance(value, Tensor):
                self.size = max(self.size, value.untyped_storage().nbytes() // value.element_size())
        return found


@pytest.mark.parametrize("negatives", [0, 100])
def test_nothing_of_the_size_of_people_times_items_times_width_is_made(negatives: int) -> None:
    case = Case((5,) * 40, history=4, items=4000, width=32, negatives=negatives)
    model = case.model()
    engine = engine_of(case, model)
    with Largest() as largest:
        run(case, model, engine)
    assert largest.size >= 40 * 4 * 100  # it looked, also at the scores
    assert largest.size <= bookkeeping._CHUNK_ELEMENTS["cpu"] * 1.05
    assert largest.size < 40 * 4000 * 32 / 2


# --- people whose gradient is not a number, and layers that nobody reaches


@pytest.mark.parametrize("negatives", [0, 8])
@pytest.mark.parametrize("factor", [1e30, math.inf, math.nan])
def test_a_person_whose_gradient_is_not_finite_adds_exactly_zero_and_a_huge_one_is_clipped(
    factor: float, negatives: int
) -> None:
    """1e30 squared overflows float32: the norm must be taken in more."""
    case = Case(PEOPLE, negatives=negatives)
    model = case.model()
    (batch,) = case.batches()
    rows = rows_of_autograd(model, case.losses(model, batch, modules=True)).double()
    rows[3] = 0.0 if not math.isfinite(factor) else rows[3] * factor
    engine = engine_of(case, model)
    scale = torch.where(torch.arange(7) == 3, factor, 1.0)
    engine.add(lambda tape: case.losses(model, batch, modules=False, tape=tape) * scale)
    assert relative(flat(engine.take()), clipped_sum(rows, case.clip_norm)) < 1e-5
    assert math.isfinite(float(engine.norms[3])) == math.isfinite(factor)


@pytest.mark.parametrize("events", [1, 2, 50])
def test_a_persons_own_infinite_record_leaves_everybody_else_alone(events: int) -> None:
    """Whether gradients are kept or made again: zero times infinity must enter neither."""
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6, bias=False))
    record = torch.randn(3, events, 6, generator=generator("record"))
    rows = rows_of_autograd(model, model(record).square().sum((1, 2)))
    record[1, 0, 0] = torch.inf
    engine = Bookkeeping(model, clip_norm=1.0)
    engine.add(lambda tape: model(record).square().sum((1, 2)))
    assert engine.norms.isfinite().tolist() == [True, False, True]
    assert relative(flat(engine.take()), clipped_sum(rows[[0, 2]], 1.0)) < 1e-5


def test_a_layer_that_no_loss_reaches_gets_zeros_and_so_does_everything_before_the_first_person() -> None:
    case = Case(PEOPLE, attribute_weight=0.0, masking=0.5)
    model = case.model()
    engine = engine_of(case, model)
    assert set(engine.take()) == set(named(model))
    run(case, model, engine)
    sums = engine.take()
    for name, parameter in named(model).items():
        assert sums[name].shape == parameter.shape
        assert sums[name].any() != name.startswith("attribute_heads"), name
    assert not any(part.any() for part in engine.take().values())


def test_nobody_at_all_adds_nothing() -> None:
    model = Tied()
    engine = Bookkeeping(model, clip_norm=1.0)
    engine.add(lambda tape: model.losses(torch.zeros(0, 2, dtype=torch.int64)))
    engine.add(lambda tape: torch.zeros(3))  # losses that depend on no parameter
    assert engine.norms.tolist() == [0.0, 0.0, 0.0]
    assert not flat(engine.take()).any()


def test_a_frozen_layer_stays_out_and_stays_frozen() -> None:
    case = Case(PEOPLE)
    model = case.model()
    model.position.weight.requires_grad_(False)
    model.score_norm.bias.requires_grad_(False)
    named(model)["blocks.0.expand.weight"].requires_grad_(False)
    check_against_autograd(case, model)
    assert not model.position.weight.requires_grad
    assert "position.weight" not in engine_of(case, model).take()


def check_against_autograd(case: Case, model: ProfileEncoder) -> None:
    (batch,) = case.batches()
    rows = rows_of_autograd(model, case.losses(model, batch, modules=True))
    engine = engine_of(case, model)
    run(case, model, engine)
    assert relative(flat(engine.take()), clipped_sum(rows, case.clip_norm)) < 1e-5


def test_automatic_clipping_scales_everybody_to_nearly_the_bound() -> None:
    case = Case(PEOPLE, clipping="automatic", clip_norm=2.0)
    model = case.model()
    engine = Bookkeeping(model, clip_norm=2.0, clipping="automatic", stability=0.5)
    norms = run(case, model, engine, only=4)
    expected = 2.0 * float(norms[4]) / (float(norms[4]) + 0.5)
    assert float(flat(engine.take()).norm()) == pytest.approx(expected, rel=1e-5)


# --- the model is left as it came


def traces(model: nn.Module) -> list[str]:
    found = [name for name, p in model.named_parameters() if not p.requires_grad or p.grad is not None or vars(p)]
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            found.append(name)
    return found


@pytest.mark.parametrize("where", ["in the losses", "between forward and backward", "in the backward pass"])
def test_an_error_anywhere_leaves_the_model_and_the_sum_as_they_were(where: str) -> None:
    case = Case(PEOPLE)
    model = case.model()
    (batch,) = case.batches()
    engine = engine_of(case, model)
    run(case, model, engine)
    expected = flat(engine.take())
    run(case, model, engine)

    def stop(gradient: Tensor) -> None:
        raise RuntimeError("stop")

    def losses(tape: Tape) -> Tensor:
        found = case.losses(model, batch, modules=False, tape=tape)
        if where == "in the losses":
            raise RuntimeError("stop")
        if where == "in the backward pass":
            found.register_hook(stop)
            return found
        return found.sum()  # no loss a person

    with pytest.raises((RuntimeError, ValueError)):
        engine.add(losses)
    assert traces(model) == []
    assert torch.equal(flat(engine.take()), expected)
    run(case, model, engine)
    assert torch.equal(flat(engine.take()), expected)
    assert traces(model) == []


def test_close_forgets_what_was_not_taken() -> None:
    case = Case(PEOPLE)
    model = case.model()
    with engine_of(case, model) as engine:
        run(case, model, engine)
    assert traces(model) == []
    assert not flat(engine.take()).any()


# --- what has no rule is refused by name


class Tied(nn.Module):
    """A table of six rows, read and scored with; `losses` may be replaced by worse ones."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)
        self.score = nn.Linear(4, 6, bias=False)
        self.score.weight = self.table.weight
        self.norm = nn.LayerNorm(4)
        if extra is not None:
            self.extra = extra

    def losses(self, items: Tensor) -> Tensor:
        scores = self.score(self.norm(self.table(items)))
        found: Tensor = (scores.logsumexp(-1) - scores[..., 0]).sum(1)
        return found


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (nn.MultiheadAttention(4, 2), r"got MultiheadAttention at extra.*build it from nn.Linear"),
        (nn.BatchNorm1d(4), r"got BatchNorm1d at extra.*use nn.LayerNorm"),
        (nn.BatchNorm1d(4, affine=False), r"got BatchNorm1d at extra.*one person's record into another's"),
        (nn.Conv1d(4, 4, 3), r"got Conv1d at extra.*nn.Linear for each shift"),
        (nn.GRU(4, 4), r"got GRU at extra.*write its steps"),
        (nn.EmbeddingBag(4, 4), r"got EmbeddingBag at extra.*use nn.Embedding"),
        (nn.PReLU(), r"got PReLU at extra.*build it from those, or freeze it"),
        (Bare(), r"got Bare at extra"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), r"got ParametrizedLinear at extra|at extra.param"),
        (nn.Embedding(4, 4, max_norm=1.0), r"Embedding extra with max_norm=None, got 1.0"),
        (nn.Embedding(4, 4, sparse=True), r"Embedding extra with sparse=False, got True"),
        (nn.Embedding(4, 4, padding_idx=0), r"Embedding extra with padding_idx=None, got 0"),
        (nn.Embedding(4, 4, scale_grad_by_freq=True), r"extra with scale_grad_by_freq=False, got True"),
        (nn.Linear(4, 4).half(), r"expected float32 or float64 parameters, got torch.float16 at extra"),
    ],
)
def test_a_layer_without_an_exact_rule_is_refused_by_name_with_what_to_use_instead(
    extra: nn.Module, message: str
) -> None:
    model = Tied(extra)
    with pytest.raises(ValueError, match=message):
        Bookkeeping(model, clip_norm=1.0)
    assert traces(model) == []
    for parameter in extra.parameters():
        parameter.requires_grad_(False)
    if not isinstance(extra, nn.BatchNorm1d):
        Bookkeeping(model, clip_norm=1.0)  # frozen it may stay


def test_a_parameter_shared_in_another_way_is_refused() -> None:
    model = Tied(nn.Linear(4, 6))
    model.extra.weight = model.table.weight
    with pytest.raises(
        ValueError, match=r"shared by one nn.Embedding and one nn.Linear, got Embedding table.weight and"
    ):
        Bookkeeping(model, clip_norm=1.0)
    other = Tied(nn.Embedding(6, 4))
    other.score.weight = nn.Parameter(torch.zeros(6, 4))
    other.extra.weight = other.table.weight
    with pytest.raises(ValueError, match=r"got Embedding table.weight and Embedding extra.weight; call one layer once"):
        Bookkeeping(other, clip_norm=1.0)


ITEMS = torch.tensor([[1, 2], [3, 4], [5, 1]])


def twice(model: Tied, tape: Tape) -> Tensor:
    found: Tensor = (model.table(ITEMS) + model.table(ITEMS.flip(1))).sum((1, 2))
    return found


def scored_twice(model: Tied, tape: Tape) -> Tensor:
    states, scorer = model.table(ITEMS), Scorer(model.table.weight, None, None)
    fused = next_item_losses(states, scorer, ITEMS, tape=tape)
    found: Tensor = fused + model.score(states).logsumexp(-1).sum(1)
    return found


def fused_twice(model: Tied, tape: Tape) -> Tensor:
    states, scorer = model.table(ITEMS), Scorer(model.table.weight, None, None)
    first, second = (next_item_losses(states, scorer, ITEMS, tape=tape) for _ in range(2))
    return first + second


def without_people(model: Tied, tape: Tape) -> Tensor:
    found: Tensor = model.losses(ITEMS) + model.extra(torch.arange(2)).sum() * torch.ones(3)
    return found


def people_second(model: Tied, tape: Tape) -> Tensor:
    found: Tensor = model.score(model.norm(model.table(ITEMS.T.contiguous()))).logsumexp(-1).sum(0)
    return found


def fused_without_people(model: Tied, tape: Tape) -> Tensor:
    states = model.table(ITEMS)
    scorer = Scorer(model.table.weight, None, None)
    return next_item_losses(states.flatten(0, 1)[:, None], scorer, ITEMS.view(-1, 1), tape=tape).view(3, 2).sum(1)


def functional_tying(model: Tied, tape: Tape) -> Tensor:
    found: Tensor = (model.norm(model.table(ITEMS)) @ model.table.weight.T).logsumexp(-1).sum(1)
    return found


def functional_call(model: Tied, tape: Tape) -> Tensor:
    return F.linear(model.norm(model.table(ITEMS)), model.score.weight).logsumexp(-1).sum(1)


def in_a_list(model: Tied, tape: Tape) -> Tensor:
    return model.losses(ITEMS) + torch.cat([model.table.weight, model.table.weight]).sum() * torch.ones(3)


def penalty(model: Tied, tape: Tape) -> Tensor:
    return model.losses(ITEMS) + model.norm.weight.square().sum()


def by_name(model: Tied, tape: Tape) -> Tensor:
    found: Tensor = model.norm(input=model.table(ITEMS)).sum((1, 2))
    return found


def one_loss(model: Tied, tape: Tape) -> Tensor:
    return model.losses(ITEMS).sum()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (twice, r"expected one use of table in a pass, got two.*use it once on everything together"),
        (scored_twice, r"expected one product with the table of .* in a pass, got two; score once"),
        (fused_twice, r"expected one product with the table of .* in a pass, got two; score once"),
        (without_people, r"expected the 3 people as the first axis of what goes through extra, got shape \(2,\)"),
        (people_second, r"expected the 3 people as the first axis of what goes through score, got shape \(2, 3, 4\)"),
        (fused_without_people, r"expected scores of the 3 people with a loss, got 6"),
        (functional_tying, r"expected table.weight to be used by calling its layer"),
        (functional_call, r"expected table.weight to be used by calling its layer"),
        (in_a_list, r"expected table.weight to be used by calling its layer"),
        (penalty, r"expected norm.weight to be used by calling its layer, got a use of it elsewhere"),
        (by_name, r"expected norm to be called with one input by position, got 0"),
        (one_loss, r"expected one loss a person, shape \(B,\), got shape \(\)"),
    ],
)
def test_a_pass_that_would_be_miscounted_is_refused_and_adds_nobody(
    losses: Callable[[Tied, Tape], Tensor], message: str
) -> None:
    model = Tied(nn.Embedding(2, 4))
    engine = Bookkeeping(model, clip_norm=1.0)
    with pytest.raises(ValueError, match=message):
        engine.add(lambda tape: losses(model, tape))
    assert traces(model) == []
    assert not flat(engine.take()).any()
    engine.add(lambda tape: model.losses(ITEMS))  # and goes on
    assert relative(flat(engine.take()), clipped_sum(rows_of_autograd(model, model.losses(ITEMS)), 1.0)) < 1e-6


def test_reading_a_parameters_shape_or_running_without_gradients_is_no_use_of_it() -> None:
    model = Tied()
    engine = Bookkeeping(model, clip_norm=1.0)

    def losses(tape: Tape) -> Tensor:
        with torch.no_grad():
            model.score(model.table(ITEMS))
        assert model.table.weight.shape == (6, 4)
        assert model.table.weight.detach().sum().isfinite()
        return model.losses(ITEMS)

    engine.add(losses)
    assert relative(flat(engine.take()), clipped_sum(rows_of_autograd(model, model.losses(ITEMS)), 1.0)) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "expected a positive, finite clip_norm, got 0.0"),
        ({"clip_norm": math.inf}, "expected a positive, finite clip_norm, got inf"),
        ({"clip_norm": math.nan}, "expected a positive, finite clip_norm, got nan"),
        ({"clip_norm": 1.0, "clipping": "none"}, "expected clipping flat or automatic, got none"),
        ({"clip_norm": 1.0, "stability": 0.0}, "expected a positive, finite stability, got 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bookkeeping(Tied(), **options)


class Shapes(nn.Module):
    """Layers in the shapes that the encoder does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(500, 6)  # large, and nobody scores with it
        self.few = nn.Embedding(5, 6)
        self.one = nn.Linear(6, 9)
        self.norm = nn.LayerNorm((2, 6))
        self.bare = nn.LayerNorm(6, bias=False)
        self.two = nn.Linear(6, 30)
        self.three = nn.Linear(6, 3)

    def losses(self, ids: Tensor, few: Tensor, sides: Sequence[Tensor]) -> Tensor:
        states = self.table(ids) + self.few(few)[:, None, None]  # (B, 3, 2, 6)
        states = self.bare(self.norm(states))
        wide = self.two(states).tanh().sum((1, 2, 3))
        found: Tensor = wide + self.one(states[:, 0, 0]).square().sum(1) + self.three(sides[0]).sin().sum(1)
        return found


def test_layers_on_inputs_of_any_number_of_axes_are_exact() -> None:
    draw = generator("shapes")
    model = Shapes().double()
    ids = torch.randint(0, 4, (5, 3, 2), generator=draw)
    few = torch.randint(0, 5, (5,), generator=draw)
    sides = [torch.randn(5, 6, generator=draw, dtype=torch.float64)]
    rows = rows_of_autograd(model, model.losses(ids, few, sides))
    engine = Bookkeeping(model, clip_norm=0.1)
    engine.add(lambda tape: model.losses(ids, few, sides))
    assert torch.allclose(engine.norms, rows.norm(dim=1), rtol=1e-12)
    assert relative(flat(engine.take()), clipped_sum(rows, 0.1)) < 1e-12
