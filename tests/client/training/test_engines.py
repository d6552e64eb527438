"""Both engines give the clipped sum of plain autograd, person by person."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from tests.people import LENGTHS, encoder, generator, histories, only, vocabulary
from torch import Tensor

from silhouette_client.training.engine import EngineName, Losses
from silhouette_client.training.local import train_plainly
from silhouette_client.training.step import make_engine
from silhouette_shared.config import Clipping, Training
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Batch, Histories
from silhouette_shared.model.objective import person_losses
from silhouette_shared.model.vector import Layout, read_vector, write_vector

WEIGHT = 0.7  # of the attributes; all are hidden, so that nothing is drawn
LONG = 16  # longer than every history
BOUND = 0.5

engines = pytest.mark.parametrize("name", get_args(EngineName))


def losses_of(model: ProfileEncoder, people: Histories, rows: Sequence[int] | None = None) -> Tensor:
    chosen = torch.arange(len(people)) if rows is None else torch.tensor(rows)
    return person_losses(
        model,
        people.training_batch(chosen, LONG, None),
        attribute_weight=WEIGHT,
        attribute_masking=1.0,
        generator=generator("unused"),
    )


def clipped(
    name: EngineName,
    people: Histories,
    *,
    bound: float = BOUND,
    clipping: Clipping = "flat",
    model: ProfileEncoder | None = None,
    parts: Sequence[Sequence[int]] | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """The sum over everybody as one vector, in so many virtual batches."""
    made = encoder(length=LONG, scale=10.0) if model is None else model
    engine = make_engine(name, made, clip_norm=bound, clipping=clipping, stability=0.01)
    try:
        for rows in [list(range(len(people)))] if parts is None else parts:
            batch = people.training_batch(torch.tensor(rows), LONG, None)
            engine.add(scaled_losses(made, batch, 1.0 if factor is None else factor))
        return Layout.of(made).flatten(engine.take())
    finally:
        engine.close()


def scaled_losses(model: ProfileEncoder, batch: Batch, factor: Tensor | float = 1.0) -> Losses:
    """What an engine runs."""
    return lambda tape: (
        factor
        * person_losses(
            model,
            batch,
            attribute_weight=WEIGHT,
            attribute_masking=1.0,
            generator=generator("unused"),
            per_person=True,
            tape=tape,
        )
    )


def gradients(people: Histories) -> list[Tensor]:
    """Each person's gradient by plain autograd, alone in the batch and on the other path of the loss."""
    found = []
    for row in range(len(people)):
        model = encoder(length=LONG, scale=10.0)
        losses_of(model, people, [row]).sum().backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


def clipped_sum(found: Sequence[Tensor], bound: float) -> Tensor:
    rows = torch.stack(list(found)).double()
    scaled: Tensor = (rows * (bound / rows.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(0)
    return scaled


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@engines
@pytest.mark.parametrize("bound", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("has_times", [True, False])
def test_the_clipped_sum_is_that_of_plain_autograd_one_person_at_a_time(
    name: EngineName, bound: float, has_times: bool
) -> None:
    people = histories(has_times=has_times)
    assert relative(clipped(name, people, bound=bound), clipped_sum(gradients(people), bound)) < 1e-5


def test_the_test_above_tells_a_tied_table_counted_once_from_one_counted_twice() -> None:
    """Its norms would differ by far more than the tolerance if either use of the item table were missed."""
    layout = Layout.of(encoder(length=LONG))
    share = [float(layout.split(g)["item.weight"].norm() / g.norm()) for g in gradients(histories())]
    assert max(share) > 0.3


@engines
def test_automatic_clipping_scales_everybody_to_nearly_the_clip_norm(name: EngineName) -> None:
    rows = torch.stack(gradients(histories())).double()
    expected = (rows * BOUND / (rows.norm(dim=1, keepdim=True) + 0.01)).sum(0)
    assert relative(clipped(name, histories(), clipping="automatic"), expected) < 1e-5
    for row in range(len(LENGTHS)):
        alone = float(clipped(name, only(histories(), [row]), clipping="automatic").norm())
        assert alone < BOUND
        assert alone > 0.5 * BOUND


@engines
def test_a_catalogue_without_content_or_categories_has_clipped_sums_too(name: EngineName) -> None:
    model = encoder(vocabulary(categories=0, content=0), length=LONG)
    assert set(model.dimension_names) == {"activity", "rhythm", "demographics"}
    assert clipped(name, histories(), model=model).isfinite().all()


@engines
@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_nobody_contributes_more_than_the_clip_norm(name: EngineName, row: int) -> None:
    assert float(clipped(name, only(histories(), [row])).double().norm()) <= BOUND * (1 + 1e-5)


@engines
@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_leaving_a_person_out_changes_the_sum_by_what_that_person_adds(name: EngineName, row: int) -> None:
    people = histories()
    rest = only(people, [other for other in range(len(people)) if other != row])
    difference = clipped(name, people) - clipped(name, rest)
    assert float(difference.norm()) <= BOUND * (1 + 1e-4)
    assert relative(difference, clipped_sum([gradients(people)[row]], BOUND)) < 1e-4


def test_clipping_is_not_vacuous_here() -> None:
    assert max(float(g.norm()) for g in gradients(histories())) > BOUND


@engines
def test_virtual_batches_give_the_sum_of_one_large_batch(name: EngineName) -> None:
    whole = clipped(name, histories())
    for parts in ([[0, 1, 2], [3, 4, 5, 6]], [[row] for row in range(len(LENGTHS))]):
        assert relative(clipped(name, histories(), parts=parts), whole) < 1e-5


@engines
def test_a_sum_without_anybody_is_zero_and_taking_starts_afresh(name: EngineName) -> None:
    assert not clipped(name, histories(), parts=[]).any()
    model, people = encoder(length=LONG, scale=10.0), histories()
    engine = make_engine(name, model, clip_norm=BOUND, clipping="flat", stability=0.01)
    layout = Layout.of(model)
    sums = []
    for _ in range(2):
        engine.add(scaled_losses(model, people.training_batch(torch.arange(3), LONG, None)))
        sums.append(layout.flatten(engine.take()))
    engine.close()
    assert torch.equal(*sums)


@engines
def test_a_person_whose_gradient_overflows_adds_nothing_and_spoils_nothing(name: EngineName) -> None:
    people = histories()
    expected = clipped_sum(gradients(people)[:3] + gradients(people)[4:], BOUND)
    huge = torch.where(torch.arange(len(people)) == 3, 1e38, 1.0)
    assert relative(clipped(name, people, factor=huge * huge), expected) < 1e-5


@engines
def test_the_encoder_trains_plainly_afterwards_as_a_fresh_one_does(name: EngineName) -> None:
    fresh, used = encoder(dropout=0.2, length=LONG), encoder(dropout=0.2, length=LONG)
    layout = Layout.of(fresh)
    start = read_vector(fresh, layout)
    clipped(name, histories(), model=used)
    write_vector(used, layout, start)
    plainly = [train_plainly(m, layout, histories(), Training(), 1, generator("plain")).vector for m in (fresh, used)]
    assert torch.equal(*plainly)
    assert traces(used) == traces(fresh)


@engines
def test_an_error_in_the_middle_leaves_nothing_behind(name: EngineName, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine recorded of a forward pass must not be added to the next one."""
    model, fresh = encoder(length=LONG, scale=10.0), encoder(length=LONG, scale=10.0)
    expected = clipped(name, histories(), model=model)
    forward = type(model).attribute_scores

    def failing(self: ProfileEncoder, profile: Tensor) -> Sequence[Tensor]:
        def fail(_: Tensor) -> None:
            raise RuntimeError("out of memory")

        scores = forward(self, profile)
        scores[0].register_hook(fail)
        profile.register_hook(fail)
        return scores

    monkeypatch.setattr(type(model), "attribute_scores", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        clipped(name, histories(), model=model)
    monkeypatch.undo()
    assert traces(model) == traces(fresh)
    assert torch.equal(clipped(name, histories(), model=model), expected)


def traces(model: ProfileEncoder) -> set[str]:
    """What an engine hangs onto parameters and modules, and what is left of its hooks."""
    found = {name for p in model.parameters() for name in vars(p) if vars(p)[name] is not None}
    found |= {f"{name} takes no gradient" for name, p in model.named_parameters() if not p.requires_grad}
    found |= {f"{name} has a gradient" for name, p in model.named_parameters() if p.grad is not None}
    for module in model.modules():
        found |= {name for name in ("activations", "max_batch_len") if hasattr(module, name)}
        found |= {"a hook"} if module._forward_hooks or module._backward_hooks else set()
    return found


@engines
def test_an_encoder_that_was_used_for_profiles_has_the_same_sums(name: EngineName) -> None:
    used = encoder(length=LONG, scale=10.0).eval()
    assert torch.equal(clipped(name, histories(), model=used), clipped(name, histories()))


@engines
def test_a_layer_without_a_gradient_of_its_own_for_each_person_is_refused(name: EngineName) -> None:
    model = encoder()
    model.add_module("bad", torch.nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"BatchNorm"):
        clipped(name, histories(), model=model)


@engines
def test_no_draw_comes_from_the_global_generator(name: EngineName) -> None:
    model = encoder(length=LONG)
    before = torch.get_rng_state()
    clipped(name, histories(), model=model)
    assert torch.equal(torch.get_rng_state(), before)


@engines
@pytest.mark.slow
def test_an_engine_warns_of_nothing(name: EngineName) -> None:
    """In a process of its own: pytest puts its own filters before ours."""
    program = f"from tests.client.training.test_engines import clipped, histories; clipped({name!r}, histories())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
