"""The private update is the clipped, noised sum that accounting assumes, person by person."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.people import LENGTHS, encoder, generator, histories, only, vocabulary
from torch import Tensor

from silhouette_client.training import private
from silhouette_client.training.local import train_plainly
from silhouette_client.training.private import train_privately
from silhouette_client.training.release import PrivateUpdate
from silhouette_shared.config import Privacy, Training
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.objective import person_losses
from silhouette_shared.model.vector import Layout, read_vector, write_vector
from silhouette_shared.privacy.mechanism import SampledGaussian

# Without draws in the objective: all attributes are hidden, nothing is dropped, and no history exceeds the window.
TRAINING = Training(attribute_weight=0.7, attribute_masking=1.0)
# A power of two, taken out again: a small step would be lost in the rounding of the parameters it is added to.
RATE = 64.0
PRIVACY = Privacy(learning_rate=RATE, optimiser="sgd")
SILENT = SampledGaussian(noise_multiplier=1e-12, sampling_rate=1.0, steps=1, clip_norm=0.5)
LONG = 16  # longer than every history


def update(
    people: Histories,
    mechanism: SampledGaussian = SILENT,
    *,
    model: ProfileEncoder | None = None,
    training: Training = TRAINING,
    sampling: str = "sampling",
    noise: str = "noise",
) -> Tensor:
    """The noised, clipped sum over the expected people, with its sign turned."""
    made = encoder(length=LONG, scale=10.0) if model is None else model
    release = train_privately(
        made,
        Layout.of(made),
        people,
        training,
        PRIVACY,
        mechanism,
        1,
        sampling=generator(sampling),
        noise=generator(noise),
        objective=generator("objective"),
    )
    return release.vector / RATE


def gradients(people: Histories, training: Training = TRAINING) -> list[Tensor]:
    """Each person's gradient by plain autograd, alone in the batch and on the other path of the loss."""
    found = []
    for row in range(len(people)):
        model = encoder(length=LONG, scale=10.0)
        loss = person_losses(
            model,
            people.training_batch(torch.tensor([row]), LONG, None),
            attribute_weight=training.attribute_weight,
            attribute_masking=training.attribute_masking,
            generator=generator("unused"),
        )
        loss.sum().backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


def clipped_sum(found: Sequence[Tensor], bound: float) -> Tensor:
    rows = torch.stack(list(found)).double()
    # Opacus adds 1e-6 to a norm, so that none is zero; its contributions are that much below the bound.
    clipped: Tensor = (rows * (bound / (rows.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)).sum(0).float()
    return clipped


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def untouched(model: ProfileEncoder, vector: Tensor) -> Tensor:
    """The coordinates that no record here touches: the padding item's row and values that nobody gave."""
    parts = Layout.of(model).split(vector)
    return torch.cat([parts["item.weight"][0], parts["value.weight"][20:].flatten()])


@pytest.mark.parametrize("bound", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("has_times", [True, False])
def test_the_clipped_sum_is_that_of_plain_autograd_one_person_at_a_time(bound: float, has_times: bool) -> None:
    people = histories(has_times=has_times)
    mechanism = replace(SILENT, clip_norm=bound, noise_multiplier=1e-12 / bound)
    expected = -clipped_sum(gradients(people), bound) / len(people)
    assert relative(update(people, mechanism), expected) < 1e-5


def test_the_test_above_tells_a_tied_table_counted_once_from_one_counted_twice() -> None:
    """Its norms would differ by far more than the tolerance if either use of the item table were missed."""
    layout = Layout.of(encoder(length=LONG))
    share = [float(layout.split(g)["item.weight"].norm() / g.norm()) for g in gradients(histories())]
    assert max(share) > 0.3


def test_a_catalogue_without_content_or_categories_trains_privately_too() -> None:
    words = vocabulary(categories=0, content=0)
    made = encoder(words, length=LONG)
    assert set(made.dimension_names) == {"activity", "rhythm", "demographics"}
    assert update(histories(), model=made).isfinite().all()


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_nobody_contributes_more_than_the_clip_norm(row: int) -> None:
    assert float(update(only(histories(), [row])).norm()) <= SILENT.clip_norm * (1 + 1e-5)


@pytest.mark.parametrize("row", range(len(LENGTHS)))
def test_leaving_a_person_out_changes_the_sum_by_at_most_the_clip_norm(row: int) -> None:
    people = histories()
    rest = only(people, [other for other in range(len(people)) if other != row])
    difference = update(people) * len(people) - update(rest) * len(rest)
    contribution = clipped_sum([gradients(people)[row]], SILENT.clip_norm)
    assert float(difference.norm()) <= SILENT.clip_norm * (1 + 1e-4)
    assert relative(-difference, contribution) < 1e-4


def test_clipping_is_not_vacuous_here() -> None:
    norms = [float(g.norm()) for g in gradients(histories())]
    assert max(norms) > SILENT.clip_norm


@pytest.mark.parametrize("true_over_claimed", [1.0, 0.5, 1.2])
def test_where_no_record_reaches_the_noise_has_the_accounted_size_and_no_other(true_over_claimed: float) -> None:
    made, people = encoder(length=LONG), histories()
    claimed = SampledGaussian(noise_multiplier=2.0, sampling_rate=0.3, steps=1, clip_norm=0.5)
    used = replace(claimed, noise_multiplier=claimed.noise_multiplier * true_over_claimed)
    start = read_vector(made, Layout.of(made))
    draws = []
    for number in range(12):
        write_vector(made, Layout.of(made), start)
        draws.append(untouched(made, update(people, used, model=made, noise=f"noise {number}")))
    drawn = torch.cat(draws).double() * (claimed.sampling_rate * len(people)) / claimed.noise_std
    # 4416 draws: the standard error of their deviation is 1 / sqrt(8832), about 0.011.
    assert drawn.numel() == 12 * (8 + 45 * 8)
    assert (abs(float(drawn.std()) - 1) < 5 / (2 * drawn.numel()) ** 0.5) == (true_over_claimed == 1.0)
    assert abs(float(drawn.mean())) < 5 * true_over_claimed / drawn.numel() ** 0.5
    parts = Layout.of(made).split(update(people, used, model=made))
    assert (parts["value.weight"][[5, 7, 9]] != 0).all()  # those that somebody gave do move


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_every_coordinate_gets_noise_also_of_layers_that_no_loss_reaches(weight: float) -> None:
    training = replace(TRAINING, attribute_weight=weight)
    mechanism = replace(SILENT, noise_multiplier=3.0)
    one = update(histories(), mechanism, training=training)
    other = update(histories(), mechanism, training=training, noise="another")
    assert (one != other).float().mean() > 0.9999  # two float32 draws may coincide
    layout = Layout.of(encoder(length=LONG))
    for name, part in layout.split(one - other).items():
        assert (part != 0).any(), name


def test_an_empty_sample_is_noised_like_any_other() -> None:
    people = only(histories(), [0])
    mechanism = SampledGaussian(noise_multiplier=2.0, sampling_rate=1e-9, steps=1, clip_norm=0.5)
    drawn = update(people, mechanism) * (mechanism.sampling_rate * len(people)) / mechanism.noise_std
    assert abs(float(drawn.std()) - 1) < 5 / (2 * drawn.numel()) ** 0.5
    assert (drawn == 0).sum() == 0


def test_partners_and_rounds_draw_different_noise() -> None:
    from tests.people import MECHANISM, agent

    people = only(histories(), [0])
    mechanism = replace(MECHANISM, sampling_rate=1e-9)  # nobody takes part: the update is noise alone
    drawn = [
        agent(people, partner=partner, mechanism=mechanism)._update(number).vector
        for partner in ("partner-0", "partner-1")
        for number in (1, 2)
    ]
    for one in range(4):
        for other in range(one):
            correlation = float(torch.corrcoef(torch.stack([drawn[one], drawn[other]]))[0, 1])
            assert abs(correlation) < 5 / drawn[0].numel() ** 0.5


def test_no_draw_comes_from_the_global_generator() -> None:
    model = encoder(length=4, dropout=0.3)  # windows and dropout are drawn
    before = torch.get_rng_state()
    update(histories(), replace(SILENT, noise_multiplier=1.0, sampling_rate=0.5), model=model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampling_rate", [1.0, 0.6])
def test_the_size_of_a_part_does_not_change_the_result(sampling_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    mechanism = replace(SILENT, noise_multiplier=1.0, sampling_rate=sampling_rate)
    whole = update(histories(), mechanism)
    for size in (1, 2, 3):
        monkeypatch.setattr(private, "PEOPLE_AT_ONCE", size)
        assert relative(update(histories(), mechanism), whole) < 1e-6


def test_the_sum_is_divided_by_the_expected_people_never_by_those_drawn() -> None:
    people = histories()
    mechanism = replace(SILENT, sampling_rate=0.5)
    found = gradients(people)
    sizes = set()
    for number in range(6):
        draw = torch.rand(len(people), generator=generator(f"sample {number}"), dtype=torch.float64) < 0.5
        sizes.add(int(draw.sum()))
        drawn = [g for g, there in zip(found, draw, strict=True) if there]
        expected = -clipped_sum(drawn, mechanism.clip_norm) / (0.5 * len(people))
        assert relative(update(people, mechanism, sampling=f"sample {number}"), expected) < 1e-5
    assert len(sizes) > 2


def test_several_steps_are_several_samples_and_all_are_charged() -> None:
    model, people = encoder(length=LONG, scale=10.0), histories()
    mechanism = SampledGaussian(noise_multiplier=1.0, sampling_rate=0.5, steps=40, clip_norm=0.5)
    release = train_privately(
        model,
        Layout.of(model),
        people,
        TRAINING,
        replace(PRIVACY, local_steps=3),
        mechanism,
        1,
        sampling=generator("s"),
        noise=generator("n"),
        objective=generator("o"),
    )
    assert isinstance(release, PrivateUpdate)
    assert release.mechanism == mechanism.after(3)
    noise = untouched(model, release.vector / RATE).double() * (0.5 * len(people)) / mechanism.noise_std
    assert abs(float(noise.std()) / 3**0.5 - 1) < 5 / (2 * noise.numel()) ** 0.5  # three draws in each coordinate


def test_the_encoder_trains_plainly_afterwards_as_a_fresh_one_does() -> None:
    fresh, used = encoder(dropout=0.2), encoder(dropout=0.2)
    layout = Layout.of(fresh)
    start = read_vector(fresh, layout)
    update(histories(), model=used)
    write_vector(used, layout, start)
    plainly = [train_plainly(m, layout, histories(), Training(), 1, generator("plain")).vector for m in (fresh, used)]
    assert torch.equal(*plainly)
    assert traces(used) == traces(fresh) == set()


def test_an_error_in_the_middle_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus keeps what it recorded of the forward pass, and would add it to the next one."""
    model, layout = encoder(length=LONG, scale=10.0), Layout.of(encoder(length=LONG))
    start = read_vector(model, layout)
    expected = update(histories(), model=model)
    write_vector(model, layout, start)
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
        update(histories(), model=model)
    monkeypatch.undo()
    assert traces(model) == set()
    write_vector(model, layout, start)
    assert torch.equal(update(histories(), model=model), expected)


def traces(model: ProfileEncoder) -> set[str]:
    """What Opacus hangs onto parameters and modules, and what is left of its hooks."""
    found = {name for p in model.parameters() for name in vars(p)}
    for module in model.modules():
        found |= {name for name in ("activations", "max_batch_len") if hasattr(module, name)}
        found |= {"a hook"} if module._forward_hooks or module._backward_hooks else set()
    return found


def test_a_person_whose_gradient_overflows_adds_nothing_and_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    people = histories()
    expected = -clipped_sum(gradients(people)[:3] + gradients(people)[4:], SILENT.clip_norm) / len(people)
    honest = person_losses

    def overflowing(*args: object, **settings: object) -> Tensor:
        losses = honest(*args, **settings)  # type: ignore[arg-type]
        huge = torch.where(torch.arange(len(losses)) == 3, 1e38, 1.0)
        return losses * huge * huge

    monkeypatch.setattr(private, "person_losses", overflowing)
    assert relative(update(people), expected) < 1e-5


def test_an_encoder_that_was_used_for_profiles_can_be_trained_again() -> None:
    used = encoder(length=LONG, scale=10.0).eval()
    assert torch.equal(update(histories(), model=used), update(histories()))


def test_a_layer_without_a_gradient_of_its_own_for_each_person_is_refused() -> None:
    model = encoder()
    model.add_module("bad", torch.nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"expected layers with per-person gradients, got .*BatchNorm"):
        update(histories(), model=model)


@pytest.mark.slow
def test_training_privately_warns_of_nothing() -> None:
    """In a process of its own: pytest puts its own filters before ours."""
    program = "from tests.client.training.test_private import histories, update; update(histories())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
