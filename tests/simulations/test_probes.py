"""Probes of frozen profiles are held out, read what is there and nothing that is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.people import encoder, generator, histories, plan, vocabulary
from torch import Tensor

from silhouette_client.profiles.tastes import learn_tastes
from silhouette_shared.catalogue import Catalogue
from silhouette_shared.config import Evaluation, Model, Privacy, Training
from silhouette_shared.errors import UsageError
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_simulations.models import new_encoder
from silhouette_simulations.probes import compress, examine, probe_attributes, profile_features
from silhouette_simulations.world import PartnerData, World

CLASSES = {"gender": ("F", "M"), "age": ("young", "middle", "old")}
PEOPLE = 120


def people() -> Histories:
    """Half of them have odd items only, and say so in their first attribute; the second is chance."""
    made = histories([8] * PEOPLE)
    owner = torch.arange(PEOPLE).repeat_interleave(8)
    odd = (made.items - 1) // 2 * 2 + 1
    attributes = torch.stack([1 + torch.arange(PEOPLE) % 2, 1 + torch.arange(PEOPLE) // 2 % 3], dim=1)
    return replace(made, items=torch.where(owner % 2 == 0, odd, odd + 1), attributes=attributes)


def partner() -> PartnerData:
    known = people()
    targets = torch.randint(1, 21, (PEOPLE,), generator=generator("targets"))
    return PartnerData(
        "partner-0",
        tuple(map(str, range(PEOPLE))),
        known,
        targets,
        torch.arange(PEOPLE),
        torch.zeros((0, 2), dtype=torch.int64),
    )


def world() -> World:
    words = vocabulary()
    catalogue = Catalogue(
        items=tuple(map(str, range(1, 21))),
        titles=("",) * 20,
        categories=("a", "b", "c"),
        category_matrix=words.categories[1:].numpy(),
        texts=("",) * 20,
        content=words.content[1:].numpy(),
    )
    return World("made up", "0" * 64, catalogue, words, CLASSES, (partner(),), 8 * PEOPLE)


def test_a_probe_reads_what_the_items_show_and_not_what_is_chance() -> None:
    model = encoder(scale=10.0, dimensions=("activity", "interests", "content"))
    known = people()
    features = profile_features(model, known)
    assert features.shape == (PEOPLE, 8 + 3 + 3 * 8)
    learnt = learn_tastes(known, 20, 0)
    assert learnt is not None
    scores = probe_attributes(features, learnt(known), known, CLASSES, 20)
    found = {(one.score.attribute, one.source): one.score for one in scores}
    for source in ("encoder", "tastes", "profile", "tf-idf of the items"):
        gender, age = found["gender", source], found["age", source]
        assert gender.auc is not None
        assert gender.auc > 0.9
        assert age.accuracy < 0.5
        assert (gender.people, age.classes) == (PEOPLE, 3)


def test_a_persons_features_do_not_depend_on_what_was_declared_or_on_others() -> None:
    known = people()
    model = encoder(scale=10.0)
    features = profile_features(model, known)
    other = replace(known, attributes=known.attributes % 2 + 1)
    assert torch.equal(features, profile_features(model, other))
    alone = profile_features(model, known.of_people(torch.tensor([5])))
    assert torch.allclose(alone[0], features[5], atol=1e-5)


def test_people_with_an_unknown_class_are_left_out_of_the_probe() -> None:
    known = people()
    attributes = known.attributes.clone()
    attributes[:10, 0] = 0
    partly = replace(known, attributes=attributes)
    (score, *_) = probe_attributes(profile_features(encoder(), partly), None, partly, {"gender": ("F", "M")}, 20)
    assert score.score.people == PEOPLE - 10


def test_rounding_is_measured_and_leaves_the_encoder_as_it_was() -> None:
    model = encoder(scale=10.0)
    layout = Layout.of(model)
    before = read_vector(model, layout)
    found = compress(model, partner(), torch.device("cpu"))
    assert torch.equal(read_vector(model, layout), before)
    assert found.bytes_before == 4 * layout.size
    assert found.bytes_after < found.bytes_before
    assert found.difference.mean == pytest.approx(found.ndcg_after - found.ndcg_before)


def parameters(model: Model) -> Tensor:
    made = new_encoder(plan(model=model), vocabulary(), torch.device("cpu"))
    return read_vector(made, Layout.of(made))


def test_a_finished_model_is_examined_and_one_trained_on_attributes_refused() -> None:
    blind = Model(width=8, blocks=1, heads=2, dropout=0.0, content_width=4, dimensions=("activity", "interests"))
    asked = plan(
        model=blind,
        training=Training(attribute_weight=0.0),
        privacy=Privacy(mode="none"),
        evaluation=Evaluation(rows=("pooled",)),
    )
    found = examine(asked, world(), parameters(blind), torch.device("cpu"), people=5)
    assert found.faithful.people == 5
    assert {one.score.attribute for one in found.probes} == set(CLASSES)
    assert found.int8.ndcg_before == found.ndcg_at_10
    for sighted in (
        replace(asked, training=Training(attribute_weight=0.1)),
        replace(asked, model=replace(blind, dimensions=("activity", "demographics"))),
    ):
        with pytest.raises(UsageError, match="expected a plan that reads no declared attribute, for a probe to be"):
            examine(sighted, world(), parameters(blind), torch.device("cpu"), people=5)
