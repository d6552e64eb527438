"""Canaries and made-up people are people to the trainer, and everything that is said of them holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.client.audit.small import PLAN, SHORT, audited, repeatable

from silhouette_client.audit.gradients import examine, kept
from silhouette_client.audit.people import made_up_people, made_up_vocabulary, with_newcomers
from silhouette_client.audit.rehearsal import CANARY_NORM, CanaryEncoder, rehearse
from silhouette_client.audit.run import PLANNED, Settings, audit, secure
from silhouette_client.training.engine import EngineName
from silhouette_client.training.private import step_losses
from silhouette_shared.config import Plan, Privacy, Statistics
from silhouette_shared.errors import UsageError
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.audit import judge
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.randomness import ReproducibleSource, SecureSource

SOURCE = ReproducibleSource(3)
ITEMS, WINDOW, PEOPLE = 50, PLAN.data.history_length, 240


def encoder(coordinates: int = 40) -> CanaryEncoder:
    made = CanaryEncoder(PLAN, made_up_vocabulary(ITEMS, PLAN.model.content_width, SOURCE), coordinates)
    made.initialise(SOURCE.child("model").torch_generator())
    return made


def test_made_up_people_are_of_every_kind() -> None:
    people = made_up_people(PEOPLE, ITEMS, WINDOW, SOURCE)
    assert len(people) == PEOPLE
    lengths = people.lengths
    assert int(lengths.min()) == 1
    assert int((lengths == 1).sum()) == PEOPLE / 10
    assert int((lengths > WINDOW).sum()) >= PEOPLE / 15
    assert int(people.items.min()) >= 1
    assert int(people.items.max()) <= ITEMS
    assert (people.attributes == 0).any()
    assert (people.attributes > 0).any()
    for person in range(PEOPLE):
        own = people.timestamps[people.offsets[person] : people.offsets[person + 1]]
        assert (own.diff() >= 0).all()


def test_the_same_seed_makes_the_same_people() -> None:
    one, other = (made_up_people(30, ITEMS, WINDOW, ReproducibleSource(1)) for _ in range(2))
    assert torch.equal(one.items, other.items)
    assert not torch.equal(one.items, made_up_people(30, ITEMS, WINDOW, ReproducibleSource(2)).items[: len(one.items)])


def test_newcomers_come_last_and_have_no_gradient() -> None:
    people = made_up_people(20, ITEMS, WINDOW, SOURCE)
    everybody = with_newcomers(people, 3)
    assert len(everybody) == 23
    assert torch.equal(everybody.lengths[:20], people.lengths)
    model = encoder()
    losses = step_losses(model, everybody, PLAN.training, SOURCE.torch_generator())(torch.tensor([20, 21, 22]))(None)
    assert torch.equal(losses, torch.zeros(3))
    losses.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_canaries_are_sampled_clipped_and_released_on_their_own_coordinate_alone() -> None:
    """With next to no noise the scores are whole numbers: how often each included canary was drawn."""
    included = np.arange(30) % 2 == 0
    model = encoder(coordinates=40)
    layout = Layout.of(model)
    plan = replace(PLAN, privacy=replace(PLAN.privacy, clip_norm=0.5))
    grid = Grid.of(0.5, plan.privacy.grid_bits)
    quiet = SampledGaussian(noise_multiplier=0.01, sampling_rate=0.3, steps=12, clip_norm=0.5)
    found = rehearse(
        model,
        made_up_people(20, ITEMS, WINDOW, SOURCE),
        included,
        plan,
        quiet.on_grid(grid, layout.size),
        engine="bookkeeping",
        secret=repeatable(1)(0),
    )
    assert found.people == 20 + included.sum()
    times = np.zeros(30)
    for rows in found.samples:
        for row in rows[rows >= 20]:
            times[np.flatnonzero(included)[row - 20]] += 1
    assert times.sum() > 0
    assert np.abs(found.scores - times).max() < 0.01 * 6 * 12**0.5
    assert found.meter.noise().untouched.samples == 12 * (41 - included.sum())


def test_clipping_leaves_a_canary_its_clip_norm() -> None:
    assert kept(Privacy(clip_norm=0.3), CANARY_NORM) == pytest.approx(1.0)
    automatic = Privacy(clip_norm=0.5, clipping="automatic", clip_stability=0.1)
    assert kept(automatic, CANARY_NORM) == pytest.approx(2.5 / 2.6)


@pytest.mark.parametrize(
    ("engine", "clipping", "negatives"),
    [("bookkeeping", "flat", 0), ("bookkeeping", "automatic", 9), ("opacus", "automatic", 0), ("opacus", "flat", 9)],
)
def test_an_engine_and_plain_autograd_agree(engine: EngineName, clipping: str, negatives: int) -> None:
    privacy = replace(PLAN.privacy, clipping=clipping, clip_norm=0.7)  # type: ignore[arg-type]
    plan = replace(PLAN, privacy=privacy, training=replace(PLAN.training, negatives=negatives))
    model = encoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    people = made_up_people(PEOPLE, ITEMS, WINDOW, SOURCE)
    norms = examine(model, people, plan, alone=24, engine=engine, source=SOURCE)
    assert norms.clipped >= 20
    assert 0.9 < norms.largest_alone <= 1 + 1e-5
    assert norms.largest_neighbour <= 1 + 1e-5
    assert norms.difference_alone < 1e-5
    assert norms.difference_together < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.shape.dropout == PLAN.model.dropout


VARIANTS: dict[str, tuple[Plan, EngineName]] = {
    "opacus": (PLAN, "opacus"),
    "automatic": (replace(PLAN, privacy=replace(PLAN.privacy, clipping="automatic")), "bookkeeping"),
    "sampled softmax": (replace(PLAN, training=replace(PLAN.training, negatives=20)), "bookkeeping"),
    "distributed": (
        replace(
            PLAN,
            privacy=replace(PLAN.privacy, mode="distributed", epsilon=2.0),
            aggregation=replace(PLAN.aggregation, protocol="sa-1"),
        ),
        "bookkeeping",
    ),
    "with a prior": (replace(PLAN, statistics=Statistics()), "bookkeeping"),
    "everybody in each step": (
        replace(PLAN, privacy=replace(PLAN.privacy, sampling_rate=1.0, epsilon=3.0)),
        "bookkeeping",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trainer_passes_in_its_other_forms(variant: str) -> None:
    plan, engine = VARIANTS[variant]
    everybody = variant == "everybody in each step"
    result = audited(replace(SHORT, people=20, canaries=200) if everybody else SHORT, plan=plan, engine=engine)
    verdict = judge(result.evidence)
    failed = {gate.name: gate.failures for gate in verdict.gates if not gate.passed}
    too_short: dict[str, tuple[str, ...]] = {"clipping": ("people alone",)}
    if everybody:
        too_short |= {"shift": ("canaries",), "bounds": ("canaries",)}
    assert failed == too_short
    if variant == "distributed":
        assert result.claimed_epsilon > result.evidence.epsilons[PLANNED].pld  # alone it is worth less than in the sum


def test_a_plan_without_privacy_has_nothing_to_audit() -> None:
    with pytest.raises(UsageError, match="expected a plan that trains with privacy"):
        audit(replace(PLAN, privacy=replace(PLAN.privacy, mode="none")), SHORT)


@pytest.mark.parametrize("name", ["steps", "canaries", "people", "alone", "items"])
def test_an_audit_too_short_to_show_anything_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"expected at least [0-9]+ {name}, got 3; raise it"):
        Settings(**{name: 3})


def test_by_itself_an_audit_takes_fresh_secret_bytes_for_each_purpose() -> None:
    one, other = secure(0)("noise"), secure(0)("noise")
    assert isinstance(one, SecureSource)
    assert one.bytes(16) != other.bytes(16)
