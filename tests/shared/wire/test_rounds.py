"""Both sides work out the same layout and terms, and any difference between what they hold is a difference there."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.people import MECHANISM, plan, vocabulary

from silhouette_shared.config import Aggregation, Partition
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.secagg import Layout
from silhouette_shared.wire.codec import Vector
from silhouette_shared.wire.rounds import (
    SUM,
    UPDATE,
    WEIGHT,
    inputs_digest,
    noised_layout,
    round_terms,
    training_layout,
    vocabulary_digest,
    weighted_layout,
)

SECURE = plan(partition=Partition(partners=5), aggregation=Aggregation(protocol="sa-1"))
INPUTS = {"parameters": np.arange(6, dtype=np.float32)}


@pytest.mark.parametrize(("partners", "people", "limit"), [(3, 1, 1.0), (5, 190, 100.0), (50, 100_000, 0.5)])
def test_a_weighted_sum_fits_the_ring_to_the_last_unit_and_no_further(partners: int, people: int, limit: float) -> None:
    layout = weighted_layout(4, limit=limit, partners=partners, people=people)
    layout.check_ring(partners)
    update, weight = layout.sections
    assert (update.name, weight.name) == (UPDATE, WEIGHT)
    largest = math.floor(people * limit / update.scale)  # the largest coordinate times the largest weight
    assert largest <= people * update.high
    values = {UPDATE: np.array([largest, -largest, 0, 1]), WEIGHT: np.array([people])}
    words = sum((layout.encode(values).words.astype(np.uint64) for _ in range(partners)), np.zeros(5, np.uint64))
    sums = layout.decode((words % 2**32).astype(np.uint32), partners)
    assert sums[UPDATE].tolist() == [partners * largest, -partners * largest, 0, partners]
    finer = replace(update, low=update.low - 2, high=update.high + 2)
    with pytest.raises(UsageError):
        Layout((finer, weight)).check_ring(partners)


def test_the_rounding_of_a_mean_is_a_half_step_a_partner_over_the_people() -> None:
    layout = weighted_layout(1, limit=1.0, partners=5, people=200)
    scale = layout.sections[0].scale
    draw = np.random.Generator(np.random.PCG64(3))
    people = draw.integers(150, 201, 5)
    updates = draw.uniform(-1, 1, (5, 2000))
    integers = np.rint(updates * people[:, None] / scale).sum(0)
    apart = np.abs(integers * scale / people.sum() - (updates * people[:, None]).sum(0) / people.sum()).max()
    bound = 5 * 0.5 * scale / people.sum()
    assert 0.4 * bound < apart <= bound
    assert bound < 2e-9


def test_noise_leaves_its_section_with_no_chance_to_speak_of() -> None:
    grid = Grid.of(0.5, 16)
    mechanism = MECHANISM.on_grid(grid, 100)
    layout = noised_layout(100, mechanism, grid, people=10)
    (section,) = layout.sections
    assert section.name == SUM
    std = mechanism.noise_std / grid.step
    chance = 100 * math.erfc((section.slack - 1) / std / math.sqrt(2))
    assert chance < 2**-40
    assert chance > 2**-52, "and the bound is not loose without need"
    share = noised_layout(100, replace(mechanism, shares=4), grid, people=10).sections[0]
    assert share.slack == pytest.approx(section.slack / 2, abs=3)


def test_each_mode_has_its_layout() -> None:
    mechanism = MECHANISM.on_grid(Grid.of(0.5, 16), 7)
    shared = replace(SECURE, privacy=replace(SECURE.privacy, mode="distributed"))
    plain = training_layout(SECURE, 7, None, partners=5, people=10)
    local = training_layout(SECURE, 7, mechanism, partners=5, people=10)
    distributed = training_layout(shared, 7, mechanism, partners=5, people=10)
    assert [one.name for one in plain.sections] == [one.name for one in local.sections] == [UPDATE, WEIGHT]
    assert [one.name for one in distributed.sections] == [SUM]
    ratio = local.sections[0].scale / plain.sections[0].scale
    assert ratio == pytest.approx(SECURE.privacy.update_limit / SECURE.training.update_limit)


def test_whatever_differs_between_two_sides_is_in_the_terms() -> None:
    mechanism = MECHANISM.on_grid(Grid.of(0.5, 16), 6)
    layout = weighted_layout(6, limit=1.0, partners=5, people=10)
    usual = {
        "plan": SECURE,
        "vocabulary": vocabulary(),
        "purpose": "training",
        "number": 3,
        "layout": layout,
        "inputs": INPUTS,
        "mechanism": mechanism,
    }
    changes = {
        "plan": replace(SECURE, seed=8),
        "vocabulary": vocabulary(items=21),
        "purpose": "popularity",
        "number": 4,
        "layout": weighted_layout(6, limit=1.0, partners=5, people=20),
        "inputs": {"parameters": INPUTS["parameters"] + 1},
        "mechanism": replace(mechanism, noise_multiplier=1.4),
    }
    terms = round_terms(**usual)  # type: ignore[arg-type]
    assert terms == round_terms(**usual)  # type: ignore[arg-type]
    for name, value in changes.items():
        assert round_terms(**{**usual, name: value}) != terms, name  # type: ignore[arg-type]
    assert round_terms(**{**usual, "mechanism": None}).privacy != terms.privacy  # type: ignore[arg-type]
    assert round_terms(**{**usual, "plan": replace(SECURE, note="other words")}) == terms  # type: ignore[arg-type]


def test_the_digest_of_inputs_tells_names_types_lengths_and_bytes_apart() -> None:
    some = np.arange(4, dtype=np.float32)
    others: list[dict[str, Vector]] = [
        {"parameters": some},
        {"active": some},
        {"parameters": some.view(np.int32)},
        {"parameters": some[:-1]},
        {"parameters": some[::-1]},
        {"parameters": some, "active": some},
        {},
    ]
    assert len({inputs_digest(one) for one in others}) == len(others)
    assert inputs_digest({"parameters": np.arange(8, dtype=np.float32)[::2]}) == inputs_digest(
        {"parameters": np.array([0, 2, 4, 6], np.float32)}
    )


def test_the_digest_of_a_vocabulary_tells_any_change() -> None:
    usual = vocabulary()
    content = usual.content.clone()
    content[3, 1] += 1e-6
    others = [usual, replace(usual, content=content), replace(usual, attributes=(("gender", 3), ("age", 3)))]
    others.append(replace(usual, categories=torch.zeros_like(usual.categories)))
    assert len({vocabulary_digest(one) for one in others}) == len(others)
