"""Tastes are what the formulas say, of one person alone once learnt, and absent where nobody can teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from tests.people import ITEMS, generator, histories, only

from silhouette_client.profiles.tastes import LEAST_PEOPLE, learn_tastes
from silhouette_shared.model.histories import UNKNOWN, Histories
from silhouette_shared.schema import BEHAVIOURS, FEEDBACK

PEOPLE = 60


def people(count: int = PEOPLE) -> Histories:
    lengths = (3 + torch.arange(count) % 9).tolist()
    return histories(lengths)


def by_hand(made: Histories, items: int) -> NDArray[np.float64]:
    """The matrix of choices and values, person by person, without sparse algebra."""
    deeds = {BEHAVIOURS.index(name) + 1 for name in FEEDBACK}
    records = []
    for row in range(len(made)):
        a, b = made.offsets[row : row + 2].tolist()
        lines = zip(made.items[a:b].tolist(), made.behaviours[a:b].tolist(), made.values[a:b].tolist(), strict=True)
        records.append(list(lines))
    valued = [(item, value) for own in records for item, deed, value in own if deed in deeds and value != UNKNOWN]
    overall = np.mean([value for _, value in valued])
    usual = {
        item: np.mean([value for other, value in valued if other == item]) - overall for item in {i for i, _ in valued}
    }
    holders = {item: sum(any(i == item for i, _, _ in own) for own in records) for item in range(1, items + 1)}
    found = np.zeros((len(records), 2 * items))
    for row, own in enumerate(records):
        likes = [value for _, deed, value in own if deed in deeds and value != UNKNOWN]
        for item, deed, value in own:
            rare = np.log((1 + len(records)) / (1 + holders[item])) + 1
            times = sum(i == item for i, _, _ in own)
            found[row, item - 1] = (1 + np.log(times)) * rare
            if deed in deeds and value != UNKNOWN:
                found[row, items + item - 1] += (value - np.mean(likes) - usual[item]) * rare
    for part, weight in ((slice(0, items), 1.0), (slice(items, None), 0.5)):
        lengths = np.linalg.norm(found[:, part], axis=1, keepdims=True)
        found[:, part] *= weight / np.where(lengths > 1e-9, lengths, 1.0)
    return found


def test_tastes_are_the_leading_directions_of_choices_and_values() -> None:
    made = people()
    learnt = learn_tastes(made, ITEMS, seed=0, columns=10)
    assert learnt is not None
    tastes = learnt(made).astype(np.float64)
    assert tastes.shape == (PEOPLE, 10)
    left, sizes, _ = np.linalg.svd(by_hand(made, ITEMS), full_matrices=False)
    best = left[:, :10] * sizes[:10]
    assert np.allclose(tastes @ tastes.T, best @ best.T, atol=2e-2)
    assert np.allclose((tastes**2).sum(), (sizes[:10] ** 2).sum(), rtol=1e-2)


def test_once_learnt_a_persons_tastes_do_not_change_with_anybody_elses_record() -> None:
    made = people()
    learnt = learn_tastes(made, ITEMS, seed=0)
    assert learnt is not None
    assert learnt.basis.shape[1] == PEOPLE // 4  # one column for four people
    whole = learnt(made)
    changed = made.items.clone()
    changed[made.offsets[6] :] = torch.randint(1, ITEMS + 1, (len(changed) - int(made.offsets[6]),))
    others = replace(made, items=changed, values=made.values.flip(0))
    others = replace(others, values=torch.cat([made.values[: made.offsets[6]], others.values[made.offsets[6] :]]))
    assert np.array_equal(learnt(only(made, [5]))[0], whole[5])
    assert np.array_equal(learnt(others)[5], whole[5])
    assert not np.array_equal(learnt(others)[6], whole[6])


def test_people_of_one_taste_lie_nearer_than_people_of_two_and_opposite_likes_apart() -> None:
    draw = generator("tastes")
    group = torch.arange(PEOPLE) % 2
    items = torch.stack([torch.randperm(10, generator=draw)[:6] + 1 + 10 * int(g) for g in group])
    values = torch.where(torch.arange(6) % 2 == 0, 5, 11).expand(PEOPLE, 6)
    base = histories([6] * PEOPLE)
    made = replace(
        base,
        items=items.flatten(),
        behaviours=torch.full_like(base.items, BEHAVIOURS.index("rate") + 1),
        values=values.flatten().clone(),
    )
    learnt = learn_tastes(made, ITEMS, seed=0)
    assert learnt is not None
    found = learnt(made)
    near = found @ found.T
    same = near[(group[:, None] == group).numpy()].mean()
    assert same > near[(group[:, None] != group).numpy()].mean() + 0.3
    turned = replace(made, values=(16 - made.values))
    assert np.linalg.norm(learnt(turned) - found, axis=1).min() > 0.1


def test_too_few_people_have_no_tastes_and_items_nobody_had_add_nothing() -> None:
    assert learn_tastes(people(LEAST_PEOPLE - 1), ITEMS, seed=0) is None
    learnt = learn_tastes(people(), ITEMS + 5, seed=0)
    assert learnt is not None
    stranger = replace(histories([3], items=ITEMS), items=torch.full((3,), ITEMS + 5), behaviours=torch.zeros(3).long())
    assert np.array_equal(learnt(stranger), np.zeros((1, learnt.basis.shape[1]), np.float32))
    silent = replace(people(), values=torch.zeros_like(people().values))
    quiet = learn_tastes(silent, ITEMS, seed=0)
    assert quiet is not None
    assert np.isfinite(quiet(silent)).all()
