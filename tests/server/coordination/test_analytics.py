"""Figures and the federated evaluation through secure rounds: exact but for the noise that was charged, each once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from tests.consortium import Consortium, Passed, secure_plan
from tests.people import histories, vocabulary

from silhouette_client.training.figures import evaluation_rows, evaluation_sum, figure_sum
from silhouette_server.coordination.book import NoBook
from silhouette_server.coordination.federation import Beside, CheckedStrategy
from silhouette_shared.config import Analytics, Plan, PrivacyMode, Statistics, with_changes
from silhouette_shared.errors import RefusedError, UsageError
from silhouette_shared.model.appraisal import Appraised, Sheet
from silhouette_shared.model.figures import FIGURES, Released
from silhouette_shared.privacy.accounting import epsilon
from silhouette_shared.privacy.budget import Budget, budget_of
from silhouette_shared.privacy.ledger import Charge
from silhouette_shared.privacy.price import price_document, price_plan
from silhouette_shared.secagg import Encoded
from silhouette_shared.wire.exchange import STEPS
from silhouette_simulations.runner import statistics_alone

FIVE = ("attributes", "behaviours", "lengths", "pace", "value")
ASKED = Analytics(share=0.5, evaluation_share=0.2)
PEOPLE = {f"partner-{number}": histories([9] * 60, seed=number) for number in range(3)}


def plan_of(mode: PrivacyMode, **analytics: object) -> Plan:
    plan = secure_plan(rounds=1, partners=3, mode=mode, epsilon=8.0)
    return replace(plan, analytics=replace(ASKED, **analytics))  # type: ignore[arg-type]


def charges(house: Consortium, name: str) -> list[Charge]:
    ledger = house.agent(name)._ledger
    assert ledger is not None
    return [entry.content for entry in ledger.entries if isinstance(entry.content, Charge)]


def played(folder: Path, mode: PrivacyMode) -> tuple[Consortium, Mapping[str, Released], Budget]:
    plan = plan_of(mode)
    budget = budget_of(plan)
    assert budget is not None
    house = Consortium(folder, plan, budget, partners=3, people=PEOPLE)
    return house, house.run().figures, budget


@pytest.fixture(scope="module", params=["local", "distributed"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    return played(tmp_path_factory.mktemp("a") / "nodes", request.param)


def exact(house: Consortium, name: str) -> np.ndarray:
    """The sum without noise, in the units of the bound; the newest event of everybody is held out."""
    words = house.agent("partner-0")._vocabulary
    if name == "evaluation":
        parts = list(evaluated(house).values())
    else:
        parts = [
            figure_sum(name, people.without_last(1), words).vector  # type: ignore[arg-type]
            for people in PEOPLE.values()
        ]
    total: np.ndarray = torch.stack(parts).sum(0).numpy()
    return total


def evaluated(house: Consortium) -> dict[str, torch.Tensor]:
    """Each partner's cells of the evaluation without noise, in the units of the bound."""
    strategy = house.strategy()
    strategy._resume()
    agent = house.agent("partner-0")
    agent._take_over(strategy.model)
    sheet = Sheet(tuple(PEOPLE))
    return {
        name: evaluation_sum([evaluation_rows(agent._encoder, people)], sheet).vector for name, people in PEOPLE.items()
    }


def test_every_figure_is_the_exact_sum_with_noise_of_the_charged_size(run) -> None:  # type: ignore[no-untyped-def]
    house, figures, budget = run
    assert list(figures) == [*FIVE, "evaluation"]
    shares = 2 if house.plan.privacy.mode == "distributed" else 1  # h of three partners
    errors = []
    for name, found in figures.items():
        mechanism = budget.figures[name]
        weight = FIGURES[name].weight(vocabulary())
        expected = mechanism.noise_std * math.sqrt(3 / shares)
        if name == "evaluation" and shares > 1:
            expected *= math.sqrt(3)  # everybody's share is in each of three places
        assert all(cell.noise == pytest.approx(expected / weight, rel=1e-3) for cell in found.cells)
        assert found.partners == 3
        difference = np.array([cell.people for cell in found.cells]) * weight - exact(house, name)
        errors += (difference / expected).tolist()
    assert len(errors) > 100
    # Both ways: noise a quarter too small or too large would be outside.
    assert 0.8 < np.std(errors) < 1.2
    assert float(np.abs(errors).max()) < 5


def test_the_evaluation_tells_each_partners_figure_with_the_noise_that_its_people_need(run) -> None:  # type: ignore[no-untyped-def]
    house, _, budget = run
    strategy = house.strategy()
    strategy._resume()
    found, mechanism = strategy.appraisal, budget.evaluation
    assert found is not None
    assert list(found.apart) == list(PEOPLE)
    distributed = house.plan.privacy.mode == "distributed"
    # In the mode `local` a partner's whole noise is in its own place; else three shares, of which two are honest.
    expected = mechanism.noise_std * (math.sqrt(3 / 2) if distributed else 1.0)
    weight, errors = Sheet(tuple(PEOPLE)).weight, []
    for name, part in evaluated(house).items():
        cells = found.apart[name].cells
        assert all(cell.noise == pytest.approx(expected / weight, rel=1e-3) for cell in cells)
        errors += [(cell.people * weight - float(exact)) / expected for cell, exact in zip(cells, part, strict=True)]
    assert 0.2 < np.std(errors) < 2.5, "nine draws"
    assert float(np.abs(errors).max()) < 5


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_model_beside_is_asked_for_on_the_same_people_for_one_charge(tmp_path: Path, mode: PrivacyMode) -> None:
    plan = plan_of(mode, share=0.0, evaluation_share=0.6)
    budget = budget_of(plan)
    house = Consortium(tmp_path / "a", plan, budget, partners=3, people=PEOPLE)
    told: list[tuple[Appraised, str]] = []

    class Book(NoBook):
        def evaluate(self, appraised: Appraised, beside: str) -> None:
            told.append((appraised, beside))

    other = Beside(house.strategy().model, "ab" * 32)  # the model that the run starts from
    job = replace(house.job, beside=lambda: other, book=Book())
    CheckedStrategy(job).start(house.wire)
    ((found, digest),) = told
    assert digest == other.digest
    assert found.beside
    assert [cell.name for cell in found.together.cells] == list(Sheet(tuple(PEOPLE), 2).cells)
    asked = [charge for charge in charges(house, "partner-0") if charge.purpose == "evaluation"]
    assert len(asked) == 1
    agent = house.agent("partner-0")
    agent._take_over(other.parameters)
    rows = torch.cat([evaluation_rows(agent._encoder, people) for people in PEOPLE.values()])
    cells = {cell.name: cell for cell in found.together.cells}
    assert abs(cells["ndcg beside"].people - float(rows[:, 1].sum())) < 5 * cells["ndcg beside"].noise
    assert abs(cells["people"].people - float(rows[:, 2].sum())) < 5 * cells["people"].noise
    # Gone on with, nothing is asked again, and the same is told once more.
    CheckedStrategy(job).start(house.wire)
    assert told[1] == told[0]
    assert len([one for one in charges(house, "partner-0") if one.purpose == "evaluation"]) == 1


def test_a_model_of_another_size_is_not_evaluated_beside(tmp_path: Path) -> None:
    plan = plan_of("local", share=0.0, evaluation_share=0.5)
    house = Consortium(tmp_path / "a", plan, budget_of(plan), partners=3, people=PEOPLE)
    strategy = CheckedStrategy(replace(house.job, beside=lambda: Beside(torch.zeros(7), "ab" * 32)))
    strategy.start(house.wire)
    assert strategy.appraisal is not None
    assert not strategy.appraisal.beside


def test_a_partner_refuses_an_evaluation_of_anything_but_one_or_two_models_of_its_shape(tmp_path: Path) -> None:
    plan = plan_of("local")
    house = Consortium(tmp_path / "a", plan, budget_of(plan), partners=3, people=PEOPLE)
    agent, model = house.agent("partner-0"), house.strategy().model.numpy()
    assert agent._checked_inputs("evaluation", {"parameters": model}) == 1
    assert agent._checked_inputs("evaluation", {"parameters": model, "beside": model}) == 2
    for inputs in ({"beside": model}, {"parameters": model, "third": model}, {}):
        with pytest.raises(RefusedError, match="expected one or two models to evaluate, got"):
            agent._checked_inputs("evaluation", inputs)
    with pytest.raises(RefusedError, match="expected a model of"):
        agent._checked_inputs("evaluation", {"parameters": model, "beside": model[:-1]})


def test_every_vector_that_a_partner_contributes_was_charged_for_its_purpose_and_nothing_else_leaves(
    tmp_path: Path,
) -> None:
    plan = plan_of("local")
    house = Consortium(tmp_path / "a", plan, budget_of(plan), partners=3, people=PEOPLE)
    contributed: list[tuple[str, str, int]] = []
    for name in house.names:
        agent = house.agent(name)
        inner = agent.contribute

        def contribute(asked, terms, name=name, inner=inner) -> Encoded:  # type: ignore[no-untyped-def]
            before = len(charges(house, name))
            encoded = inner(asked, terms)
            (charge,) = charges(house, name)[before:]
            assert (charge.purpose, charge.round) == (asked.purpose, asked.round)
            contributed.append((name, asked.purpose, asked.round))
            return encoded  # type: ignore[no-any-return]

        agent.contribute = contribute  # type: ignore[method-assign]
    house.run()
    expected = [*((name, 0) for name in FIVE), ("training", 1), ("evaluation", 0)]
    for partner in house.names:
        assert [(one.purpose, one.round) for one in charges(house, partner)] == expected
        assert [(purpose, number) for name, purpose, number in contributed if name == partner] == expected
    answered = {one.kind for one in house.wire.passed if one.answer}
    assert answered == {"query.describe", *(f"train.{step}" for step in STEPS)}


def test_all_of_it_is_in_the_plans_epsilon_and_in_its_price() -> None:
    plan = plan_of("local")
    budget = budget_of(plan)
    assert budget is not None
    assert set(budget.parts) == {*FIVE, "evaluation", "training"}
    assert epsilon(budget.spending, plan.privacy.delta) == pytest.approx(8.0, abs=0.02)
    price = price_plan(plan)
    listed = price_document(plan, price)["statistics"]
    assert [one["name"] for one in listed] == [*FIVE, "evaluation"]  # type: ignore[attr-defined]
    assert [one["noise_std"] for one in listed] == [budget.figures[name].noise_std for name in budget.figures]  # type: ignore[attr-defined]
    assert price.accountants["pld"] <= 8.02
    # A part with a tenth of the budget has sqrt(2) times the noise of one with two tenths.
    assert budget.figures["value"].noise_std == pytest.approx(math.sqrt(2) * budget.figures["evaluation"].noise_std)
    counted = budget_of(
        statistics_alone(replace(plan, statistics=Statistics(popularity_share=0.1, transition_share=0.0)))
    )
    assert counted is not None
    assert set(counted.parts) == {"popularity"}


def test_what_was_released_is_not_asked_for_again_after_a_kill(tmp_path: Path) -> None:
    plan = plan_of("local", figures=("value", "behaviours"))
    house = Consortium(tmp_path / "a", plan, budget_of(plan), partners=3, people=PEOPLE)

    def killed(passed: Passed, message: Message) -> Message:
        if passed.group == "evaluation 0":
            raise KeyboardInterrupt
        return message

    house.wire.trouble = killed
    with pytest.raises(KeyboardInterrupt):
        house.run()
    house.wire.trouble = lambda passed, message: message
    figures = house.run().figures
    assert set(figures) == {"value", "behaviours", "evaluation"}
    asked = [one.purpose for one in charges(house, "partner-0")]
    assert asked == ["behaviours", "value", "training", "evaluation"]
    assert house.run().figures == figures


def test_a_partner_refuses_a_figure_that_its_plan_has_not(tmp_path: Path) -> None:
    asked = plan_of("local", figures=("value",), evaluation_share=0.0)
    house = Consortium(tmp_path / "a", asked, budget_of(asked), partners=3, people=PEOPLE)
    agent = house.agent("partner-0")
    for name in ("behaviours", "evaluation"):
        with pytest.raises(RefusedError, match=f"got one for {name}, which has no budget in it"):
            agent._statistic(name, 0)
    with pytest.raises(RefusedError, match="or for one of attributes, behaviours"):
        agent._release_name("salaries")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"analytics.share": 1.5}, "analytics.share: expected a share from 0 to 1"),
        ({"analytics.figures": []}, "analytics.figures: expected at least one figure, each once"),
        ({"analytics.figures": ["value", "value"]}, "analytics.figures: expected at least one figure, each once"),
        ({"analytics.figures": ["salary"]}, "analytics.figures"),
        ({"aggregation.protocol": "none"}, "aggregation.protocol: expected sa-1 with a share for analytics"),
        ({"analytics.share": 0.9}, "analytics.share: expected shares of statistics and analytics of at most 1"),
        ({"analytics.share": 0.8}, "shares below 1 together, to leave something for the training"),
    ],
)
def test_a_plan_that_asks_for_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_changes(plan_of("local"), changes)
