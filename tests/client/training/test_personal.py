"""Local parameters are a partner's own: they help its people, never leave, and the global model stays as it came."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import encoder, generator, histories

from silhouette_client.training.personal import LocalParameters, PersonalSettings, fine_tune, personalised
from silhouette_client.training.release import encode_update
from silhouette_shared.config import Training
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector

TRAINING = Training(batch_size=8, attribute_weight=0.0)


def habits(people: int = 24) -> Histories:
    """Everybody goes round the same five items of twenty."""
    base = histories([9] * people)
    starts = torch.arange(people)[:, None]
    return replace(base, items=((starts + torch.arange(9)) % 5 + 1).flatten())


def test_it_learns_a_partners_habits_and_the_global_model_stays_bit_by_bit() -> None:
    model = encoder(scale=2.0)
    layout = Layout.of(model)
    before = read_vector(model, layout).clone()
    tuned = fine_tune(
        model, habits(), TRAINING, PersonalSettings(epochs=20, patience=20, learning_rate=1e-2), generator("tune")
    )
    assert tuned.epochs > 0
    assert torch.equal(read_vector(model, layout), before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(name.partition(".")[0] in PersonalSettings().parts for name in tuned.values)
    with personalised(model, tuned):
        assert not torch.equal(read_vector(model, layout), before)
    assert torch.equal(read_vector(model, layout), before)


def test_where_nothing_is_better_the_global_model_is_kept() -> None:
    model = encoder()
    tuned = fine_tune(model, habits(), TRAINING, PersonalSettings(epochs=2, learning_rate=1e-12), generator("tune"))
    assert tuned == LocalParameters({}, 0)
    with personalised(model, tuned):
        pass


def test_equal_draws_give_equal_parameters() -> None:
    settings = PersonalSettings(epochs=3, learning_rate=1e-2)
    one, other = (fine_tune(encoder(), habits(), TRAINING, settings, generator("tune")) for _ in range(2))
    assert one.epochs == other.epochs
    assert all(torch.equal(one.values[name], other.values[name]) for name in one.values)


def test_they_have_no_way_out_and_unknown_parts_are_refused() -> None:
    with pytest.raises((AttributeError, TypeError)):
        encode_update(LocalParameters({}, 0), 1, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected parts of the encoder, got fusio"):
        fine_tune(encoder(), habits(), TRAINING, PersonalSettings(parts=("fusio",)), generator("tune"))
