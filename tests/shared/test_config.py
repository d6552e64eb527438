"""A plan is read whole or refused with every table at fault, and its digest is what both sides agree on."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from silhouette_shared.config import (
    Data,
    DimensionName,
    Evaluation,
    Model,
    Partition,
    Plan,
    Privacy,
    Promotion,
    Replies,
    Training,
    parse_plan,
    plan_document,
    read_plan,
    with_changes,
    write_toml,
)
from silhouette_shared.errors import UsageError

PLAN = Plan(name="tiny")
DIGEST_BEFORE = "5de38def98c158feb9decd91c8d2f00331fcd9fa1d2ec2d590d150629da4df5f"

positive = st.floats(1e-9, 1e9)
fraction = st.floats(0, 1)
schedules = {
    "rounds": st.integers(5, 1000),
    "learning_rate": positive,
    "final_learning_rate": st.floats(1e-6, 1),
    "warm_up_rounds": st.integers(0, 4),
    "server_optimiser": st.sampled_from(["average", "momentum", "adam"]),
    "server_momentum": st.floats(0, 0.999),
    "update_limit": positive,
}
dimensions = st.lists(st.sampled_from(get_args(DimensionName)), min_size=1, unique=True).map(tuple)
rows = st.lists(st.sampled_from(["popularity", "ease", "federated", "pooled"]), min_size=1, unique=True).map(tuple)
plans = st.builds(
    Plan,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True),
    seed=st.integers(0, 2**63 - 1),
    note=st.text(st.characters(exclude_categories=["Cs"])),
    data=st.builds(Data, dataset=st.text(st.characters(exclude_categories=["Cs"])), history_length=st.integers(2, 9)),
    partition=st.builds(
        Partition,
        partners=st.just(2),
        scheme=st.sampled_from(["random", "dirichlet", "sizes"]),
        concentration=positive,
        ratios=st.tuples(positive, positive),
    ),
    model=st.builds(Model, width=st.just(8), heads=st.sampled_from([1, 2, 4]), dimensions=dimensions),
    training=st.builds(Training, **schedules, weight_decay=positive, attribute_masking=fraction),
    privacy=st.builds(Privacy, **schedules, epsilon=st.floats(1e-3, 100), delta=st.floats(1e-12, 0.5)),
    replies=st.builds(Replies, minimum=st.integers(1, 2), timeout_seconds=positive),
    evaluation=st.builds(Evaluation, target=st.sampled_from(["test", "validation"]), rows=rows),
)


@settings(max_examples=150)
@given(plans)
def test_a_plan_comes_back_from_toml_as_it_was(plan: Plan) -> None:
    again = parse_plan(tomllib.loads(write_toml(plan)), source="here")
    assert again == plan
    assert again.digest == plan.digest


@pytest.mark.parametrize("note", ["\U0001f600", "\x7f\x00\x1f", 'a"b\\c\n\t', "\u2028é"])
def test_every_character_of_a_note_survives_toml(note: str) -> None:
    plan = Plan(name="tiny", note=note)
    assert parse_plan(tomllib.loads(write_toml(plan)), source="here") == plan


def test_a_plan_comes_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(write_toml(PLAN), encoding="utf-8")
    assert read_plan(path) == PLAN


def test_the_shortest_plan_is_a_name_and_has_privacy_on() -> None:
    plan = parse_plan({"name": "tiny"}, source="here")
    assert plan == PLAN
    assert plan.privacy.mode == "local"


def test_a_whole_number_may_stand_for_a_number_and_means_the_same_plan() -> None:
    one, other = ({"name": "a", "privacy": {"epsilon": value}} for value in (4, 4.0))
    assert parse_plan(one, source="here").digest == parse_plan(other, source="here").digest


@given(plans, st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 99))
@settings(max_examples=30)
def test_the_digest_is_blind_to_the_note_and_that_of_the_family_to_the_seed_too(
    plan: Plan, note: str, seed: int
) -> None:
    noted = dataclasses.replace(plan, note=note)
    assert noted.digest == plan.digest
    assert dataclasses.replace(plan, promotion=Promotion(margin=0.5)).digest == plan.digest
    reseeded = dataclasses.replace(noted, seed=seed)
    assert reseeded.family_digest == plan.family_digest
    assert (reseeded.digest == plan.digest) == (seed == plan.seed)


def leaves(document: dict[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in document.items():
        found |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


UNDIGESTED = ("note", "seed", "promotion.margin", "promotion.confidence")  # the seed is in one of the two

OTHER_VALUES: dict[str, object] = {
    "aggregation.protocol": "sa-1",
    "analytics.share": 0.1,
    "analytics.figures": ["value"],
    "analytics.evaluation_share": 0.1,
    "name": "other",
    "data.dataset": "ml-1m",
    "data.behaviours": ["rate"],
    "evaluation.split": "random",
    "partition.scheme": "dirichlet",
    "partition.ratios": [1.0],
    "partition.attribute": "age",
    "model.dimensions": ["activity"],
    "model.behaviour_head": True,
    "model.heads": 4,
    "model.width": 32,
    "privacy.mode": "none",
    "privacy.optimiser": "adam",
    "statistics.estimator": "posterior",
    "privacy.clipping": "automatic",
    "privacy.delta": 1e-6,
    "evaluation.target": "validation",
    "evaluation.rows": ["ease"],
    "training.patience": 5,
    "training.server_optimiser": "adam",
    "privacy.server_optimiser": "average",
    "training.final_learning_rate": 0.7,
    "privacy.final_learning_rate": 0.7,
}


@pytest.mark.parametrize("key", [key for key in leaves(plan_document(PLAN)) if key not in UNDIGESTED])
def test_every_other_key_changes_both_digests(key: str) -> None:
    value = leaves(plan_document(PLAN))[key]
    if key in OTHER_VALUES:
        other = OTHER_VALUES[key]
    else:
        assert isinstance(value, int | float)
        other = value + 1 if isinstance(value, int) else value / 2 or 0.5
    before = with_changes(PLAN, {"aggregation.protocol": "sa-1"}) if key.startswith("analytics.") else PLAN
    changed = with_changes(before, {key: other})
    assert changed.digest != before.digest
    assert changed.family_digest != before.family_digest


@pytest.mark.parametrize(
    ("active", "power", "epsilon", "expected"),
    [
        (100, 0.0, 2.0, 100),
        (1000, 0.7, 8.0, 1000),
        (1000, 0.7, 2.0, 379),
        (3, 2.0, 0.01, 2),
        (20_000, 1.0, 80.0, 20_000),
    ],
)
def test_the_items_that_are_counted_between_grow_with_epsilon_as_the_plan_says(
    active: int, power: float, epsilon: float, expected: int
) -> None:
    changes = {
        "statistics.active_items": active,
        "statistics.active_power": power,
        "privacy.epsilon": epsilon,
    }
    assert with_changes(PLAN, changes).active_items == expected


def test_a_plan_from_before_the_estimator_keeps_its_digest() -> None:
    assert Plan(name="tiny").digest == DIGEST_BEFORE


POSITIVE = "expected a positive number, got"
REFUSALS: list[tuple[str, object, str]] = [
    ("data.history_length", 1, "data.history_length: expected 2 to 10000 events, got 1"),
    ("data.history_length", 10_001, "data.history_length: expected 2 to 10000 events, got 10001"),
    ("partition.partners", 0, "partition.partners: expected 1 to 1000 partners, got 0"),
    ("partition.partners", 1001, "partition.partners: expected 1 to 1000 partners, got 1001"),
    ("partition.concentration", 0, f"partition.concentration: {POSITIVE} 0"),
    ("partition.scheme", "sizes", "partition.ratios: expected 5 positive numbers, one a partner, got []"),
    ("partition.scheme", "attribute", "partition.attribute: expected the name of a declared attribute, got ''"),
    ("partition.scheme", "fair", "partition.scheme: input should be 'random', 'dirichlet', 'sizes' or 'attribute'"),
    ("model.width", 0, "model.width: expected at least 1, got 0"),
    ("model.text_width", -1, "model.text_width: expected 0 to 4096, got -1"),
    ("training.behaviour_weight", -1, "training.behaviour_weight: expected 0 or more, got -1"),
    ("model.blocks", 0, "model.blocks: expected at least 1, got 0"),
    ("model.heads", 3, "model.heads: expected a divisor of the width 64, got 3"),
    ("model.heads", 0, "model.heads: expected a divisor of the width 64, got 0"),
    ("model.feed_forward", 0, "model.feed_forward: expected at least 1, got 0"),
    ("model.dropout", 1, "model.dropout: expected a number from 0 to below 1, got 1"),
    ("model.dropout", -0.1, "model.dropout: expected a number from 0 to below 1, got -0.1"),
    ("model.content_width", 0, "model.content_width: expected at least 1, got 0"),
    ("model.dimensions", [], "model.dimensions: expected at least one dimension, each once, got []"),
    ("model.dimensions", ["content", "content"], "model.dimensions: expected at least one dimension, each once"),
    ("model.dimensions", ["social"], "model.dimensions.0: input should be 'activity', 'browsing'"),
    ("training.local_epochs", 0, "training.local_epochs: expected at least 1, got 0"),
    ("training.batch_size", 0, "training.batch_size: expected at least 1, got 0"),
    ("training.weight_decay", -1, "training.weight_decay: expected 0 or more, got -1"),
    ("training.attribute_weight", -1, "training.attribute_weight: expected 0 or more, got -1"),
    ("training.attribute_masking", 1.5, "training.attribute_masking: expected a number from 0 to 1, got 1.5"),
    ("privacy.mode", "off", "privacy.mode: input should be 'local', 'distributed' or 'none', got 'off'"),
    ("privacy.epsilon", -1.0, "privacy.epsilon: expected a positive number, at most 100 (`--mode none` trains"),
    ("privacy.epsilon", 0, "privacy.epsilon: expected a positive number, at most 100"),
    ("privacy.epsilon", 101, "privacy.epsilon: expected a positive number, at most 100"),
    ("privacy.epsilon", math.nan, "privacy.epsilon: input should be a finite number, got nan"),
    ("privacy.epsilon", math.inf, "privacy.epsilon: input should be a finite number, got inf"),
    ("privacy.epsilon", "8", "privacy.epsilon: input should be a valid number, got '8'"),
    ("privacy.epsilon", True, "privacy.epsilon: input should be a valid number, got True"),
    ("privacy.delta", 0, "privacy.delta: expected a number between 0 and 1, got 0"),
    ("privacy.delta", 1, "privacy.delta: expected a number between 0 and 1, got 1"),
    ("privacy.clip_norm", 0, f"privacy.clip_norm: {POSITIVE} 0"),
    ("privacy.clip_norm", math.inf, "privacy.clip_norm: input should be a finite number, got inf"),
    ("privacy.sampling_rate", 0, "privacy.sampling_rate: expected a fraction above 0, at most 1, got 0"),
    ("privacy.sampling_rate", 1.01, "privacy.sampling_rate: expected a fraction above 0, at most 1, got 1.01"),
    ("privacy.local_steps", 0, "privacy.local_steps: expected at least 1, got 0"),
    ("privacy.local_steps", 1.0, "privacy.local_steps: input should be a valid integer, got 1.0"),
    ("privacy.noise_multiplier", 1.0, "privacy.noise_multiplier: unknown key; remove it or correct its spelling"),
    ("training.patience", 4, "training.patience: expected 0, or at least the 5 rounds of evaluation.every_rounds"),
    ("replies.minimum", 0, "replies.minimum: expected at least 1, got 0"),
    ("replies.minimum", 6, "replies.minimum: expected at most the 5 partners, got 6"),
    ("replies.timeout_seconds", 0, "replies.timeout_seconds: expected a positive number of seconds, got 0"),
    ("evaluation.every_rounds", 0, "evaluation.every_rounds: expected at least 1, got 0"),
    ("evaluation.rows", [], "evaluation.rows: expected at least one row, each once, got []"),
    ("evaluation.rows", ["ease", "ease"], "evaluation.rows: expected at least one row, each once"),
    ("evaluation.target", "train", "evaluation.target: input should be 'test' or 'validation', got 'train'"),
    ("seed", -1, "seed: expected a whole number from 0 to 2^63 - 1, got -1"),
    ("seed", 2**63, "seed: expected a whole number from 0 to 2^63 - 1"),
    ("seed", True, "seed: input should be a valid integer, got True"),
    ("seed", "3", "seed: input should be a valid integer, got '3'"),
    ("name", "", "name: expected 1 to 64 letters from a to z, digits, hyphens or underscores, got ''"),
    ("name", "a/b", "name: expected 1 to 64 letters"),
    ("name", "..", "name: expected 1 to 64 letters"),
    ("name", "--", "name: expected 1 to 64 letters"),
    ("name", "é", "name: expected 1 to 64 letters"),
    ("name", "a\n", "name: expected 1 to 64 letters"),
    ("name", "a" * 65, "name: expected 1 to 64 letters"),
    ("name", 5, "name: input should be a valid string, got 5"),
    ("bogus", 1, "bogus: unknown key; remove it or correct its spelling"),
    ("model.wdth", 8, "model.wdth: unknown key; remove it or correct its spelling"),
    ("model", 3, "model: input should be an object, got 3"),
    ("name.x", 3, "name.x: name is not a table; remove it or correct its spelling"),
    ("nothing.x", 3, "nothing: unknown key"),
]
for table, fewest in (("training", 1), ("privacy", 0)):
    REFUSALS += [
        (f"{table}.rounds", -1, f"{table}.rounds: expected {fewest} to 100000 rounds, got -1"),
        (f"{table}.learning_rate", 0, f"{table}.learning_rate: {POSITIVE} 0"),
        (f"{table}.server_learning_rate", -1, f"{table}.server_learning_rate: {POSITIVE} -1"),
        (f"{table}.update_limit", 0, f"{table}.update_limit: {POSITIVE} 0"),
        (f"{table}.final_learning_rate", 0, f"{table}.final_learning_rate: expected a fraction above 0, at most 1"),
        (f"{table}.final_learning_rate", 1.1, f"{table}.final_learning_rate: expected a fraction above 0, at most 1"),
        (f"{table}.warm_up_rounds", -1, f"{table}.warm_up_rounds: expected 0 to below the "),
        (f"{table}.warm_up_rounds", 100_000, f"{table}.warm_up_rounds: expected 0 to below the "),
        (f"{table}.server_momentum", 1, f"{table}.server_momentum: expected a number from 0 to below 1, got 1"),
        (
            f"{table}.server_optimiser",
            "sgd",
            f"{table}.server_optimiser: input should be 'average', 'momentum', 'adam'",
        ),
    ]


@pytest.mark.parametrize(("key", "value", "message"), REFUSALS)
def test_a_value_that_no_plan_may_have_is_refused_by_its_name(key: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_changes(PLAN, {key: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics.rank": 65}, "statistics.rank: expected at most the model's width 64 with item_start"),
        ({"statistics.transition_share": 0.0}, "statistics.transition_share: expected a share above 0 with item_start"),
    ],
)
def test_a_start_of_the_item_table_that_cannot_be_is_refused_before_anybody_is_asked(
    changes: dict[str, object], message: str
) -> None:
    fitting = {"statistics.item_start": 1.0, "statistics.rank": 64}
    assert with_changes(PLAN, fitting).statistics.item_start == 1.0
    assert with_changes(PLAN, changes).statistics.item_start == 0
    with pytest.raises(UsageError, match=message):
        with_changes(PLAN, fitting | changes)


def test_ratios_are_checked_one_by_one() -> None:
    for ratios, message in (
        ([1.0, 0.0], "2 positive numbers"),
        ([1.0, math.inf], "ratios.1: input should be a finite"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_plan({"name": "a", "partition": {"partners": 2, "scheme": "sizes", "ratios": ratios}}, source="x")


def test_a_missing_name_is_named_and_nothing_else_is_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_plan({"seed": 3}, source="plan.toml")
    assert str(caught.value) == "plan.toml: not a plan: name: expected a value, got none; add it"


def test_every_table_at_fault_is_named() -> None:
    document = {"name": "a", "training": {"batch_size": 0}, "privacy": {"epsilon": -1}, "odd": 1}
    with pytest.raises(UsageError) as caught:
        parse_plan(document, source="plan.toml")
    for message in ("training.batch_size", "privacy.epsilon", "odd: unknown key"):
        assert message in str(caught.value)


def test_a_time_in_a_plan_is_refused() -> None:
    for key in ("name", "note", "seed"):
        document = tomllib.loads(f'name = "a"\n{key} = 1979-05-27' if key != "name" else "name = 1979-05-27")
        with pytest.raises(UsageError, match=f"{key}: input should be a valid"):
            parse_plan(document, source="plan.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a plan file, found none; check the path"),
        (b"name = ", "expected TOML, got a file that does not parse"),
        (b"name = '\xff'", "expected TOML, got a file that does not parse"),
        (b"", "not a plan: name: expected a value, got none"),
        (b"name = 'a'\n[privacy]\nepsilon = nan", "privacy.epsilon: input should be a finite number"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_its_path(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_plan(path)
    assert str(caught.value).startswith(f"{path}:")
    assert message in str(caught.value)


def test_a_folder_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_plan(tmp_path)


def test_a_plan_is_also_checked_when_python_builds_it() -> None:
    with pytest.raises(ValidationError, match=r"privacy\.epsilon"):
        Privacy(epsilon=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.seed = 3  # type: ignore[misc]


def test_changes_leave_the_plan_and_everything_else_alone() -> None:
    changed = with_changes(PLAN, {"privacy.epsilon": 2, "seed": 9, "model.dimensions": ("activity",)})
    assert (changed.privacy.epsilon, changed.seed, changed.model.dimensions) == (2.0, 9, ("activity",))
    assert Plan(name="tiny") == PLAN
    back = with_changes(changed, {"privacy.epsilon": 8.0, "seed": 0, "model.dimensions": list(PLAN.model.dimensions)})
    assert back == PLAN
    assert with_changes(PLAN, {}) == PLAN


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    schedule = Training(rounds=7, warm_up_rounds=2, final_learning_rate=0.2)
    expected = [1 / 3, 2 / 3, 1.0, 0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2]
    assert [schedule.learning_rate_factor(number) for number in range(1, 8)] == pytest.approx(expected)


def test_one_round_and_a_constant_rate_have_factor_one() -> None:
    assert Training(rounds=1, final_learning_rate=0.1).learning_rate_factor(1) == 1.0
    constant = Privacy(rounds=9, final_learning_rate=1.0)
    assert {constant.learning_rate_factor(number) for number in range(1, 10)} == {1.0}


def test_every_local_step_of_every_round_is_charged() -> None:
    assert Privacy(rounds=7, local_steps=3).steps == 21
