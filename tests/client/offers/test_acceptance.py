"""An offer is obeyed when it is signed, current, within the policy and fits; each other one is refused by its code."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.enrolled import GENEROUS, NAMES, PEOPLE, FixedPeople, House, deployed_plan, public_catalogue, send
from tests.people import ITEMS, histories

from silhouette_client.enrolment.installing import update_roster
from silhouette_client.offers import Node, TablesOnDisk
from silhouette_client.offers.node import RoundDiary
from silhouette_client.offers.sizes import largest_vector, least_parameters
from silhouette_client.policy.terms import Policy, write_policy
from silhouette_server.enrolment.issuing import LIFE
from silhouette_shared.config import write_toml
from silhouette_shared.enrolment.offers import Offer, OfferedBudget, OfferedMechanism
from silhouette_shared.enrolment.refusals import ExpiredError
from silhouette_shared.errors import UsageError
from silhouette_shared.secagg import Identity
from silhouette_shared.wire import DescribeRequest, Description
from silhouette_shared.wire.offers import OFFER, ROSTER, OfferAnswer, OfferRequest, Refusal, RosterHeld, RosterNotice

PLAN = deployed_plan(mode="local")
WITHIN_SECONDS = 5.0


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def asked(node: Node, request: OfferRequest) -> Description | Refusal:
    """The answer to an offer that went through Flower's messages both ways, and in time."""
    answer, seconds = send(node, OFFER, request.encode())
    assert not answer.has_error()
    assert seconds < WITHIN_SECONDS
    return OfferAnswer.decode(answer.content).content


def refused(node: Node, request: OfferRequest) -> Refusal:
    found = asked(node, request)
    assert isinstance(found, Refusal), found
    return found


def test_an_offer_within_everything_opens_the_run(house: House) -> None:
    node = house.open("east")
    found = asked(node, house.offered(PLAN))
    assert found == node.describe(DescribeRequest(run="run-1", plan_digest=PLAN.digest))
    assert isinstance(found, Description)
    assert (found.partner, found.people, found.plan_digest) == ("east", PEOPLE, PLAN.digest)
    folder = house.home("east").runs / "run-1"
    assert {path.name for path in folder.iterdir()} == {
        "offer.json",
        "roster.json",
        "catalogue.json",
        "plan.toml",
        "catalogue.safetensors",
        "terms.json",
    }
    node.close()


def test_the_same_offer_again_opens_the_same_run_and_another_of_its_name_is_refused(house: House) -> None:
    node = house.open("east")
    request = house.offered(PLAN)
    first = asked(node, request)
    assert asked(node, request) == first
    other = house.offered(deployed_plan(mode="none"))
    assert refused(node, other).code == "other_offer"
    forged = replace(other, offer=other.offer.replace(b'"issued"', b'"issuer"'))
    assert refused(node, forged).code in ("forged_document", "malformed")
    node.close()


def test_an_unknown_signer_is_refused_and_it_is_in_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    node = house.open("east")
    request = house.offered(PLAN)
    stranger = replace(request, offer=house.offer(PLAN).encode(Identity(bytes([7]) * 32)))
    found = refused(node, stranger)
    assert (found.code, found.exit_code, found.partner) == ("forged_document", 5, "east")
    assert "an offer was refused: forged_document" in caplog.text
    assert not (house.home("east").runs / "run-1").exists()
    assert house.people["east"].asked == 0  # nobody's record was looked at
    node.close()


def with_people(changes: dict[str, int]) -> Callable[[House], Offer]:
    return lambda house: house.offer(PLAN, people={**house.offer(PLAN).people, **changes})


def looser_clip(house: House) -> Offer:
    budget = house.offer(PLAN).budget
    assert budget is not None
    assert budget.training is not None
    return house.offer(PLAN, budget=replace(budget, training=replace(budget.training, clip_norm=5.0)))


def countless(house: House) -> Offer:
    return house.offer(PLAN, plan=write_toml(replace(PLAN, model=replace(PLAN.model, width=10**6))))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda house: house.offer(PLAN, consortium="other"), "roster"),
        (lambda house: house.offer(PLAN, roster_version=3), "roster"),
        (lambda house: house.offer(PLAN, roster="0" * 64), "roster"),
        (with_people({"east": 999}), "people"),
        (with_people({"stranger": 10}), "not_a_member"),
        (lambda house: house.offer(PLAN, people={"east": PEOPLE, "north": PEOPLE}), "partners_minimum"),
        (lambda house: house.offer(deployed_plan(mode="local", partners=5)), "plan_partners"),
        (lambda house: house.offer(PLAN, plan="name = 1"), "malformed"),
        (lambda house: house.offer(PLAN, plan='name = "short"\n'), "malformed"),
        (lambda house: house.offer(PLAN, catalogue="0" * 64), "catalogue"),
        (lambda house: house.offer(PLAN, budget=None), "budget"),
        (looser_clip, "budget"),
        (countless, "largest_model"),
        (lambda house: house.offer(PLAN, issued=int(datetime.now(UTC).timestamp()) - 8 * 86_400), "clock"),
        (lambda house: house.offer(PLAN, issued=int(datetime.now(UTC).timestamp()) + 2 * 3600), "clock"),
    ],
)
def test_an_offer_with_one_thing_wrong_is_refused_by_its_code(
    house: House, caplog: pytest.LogCaptureFixture, make: Callable[[House], Offer], code: str
) -> None:
    node = house.open("east")
    found = refused(node, house.request_for(make(house)))
    assert found.code == code, found
    assert f"an offer was refused: {code}" in caplog.text
    assert list(house.home("east").runs.iterdir()) == []
    assert house.people["east"].asked == 0
    node.close()


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (replace(GENEROUS, epsilon_per_run=1.0), "epsilon_per_run"),
        (replace(GENEROUS, epsilon_per_year=1.0), "epsilon_per_year"),
        (replace(GENEROUS, modes=("none",)), "mode"),
        (replace(GENEROUS, without=("north",)), "without"),
        (replace(GENEROUS, largest_model=100), "largest_model"),
        (replace(GENEROUS, partners_minimum=4), "partners_minimum"),
    ],
)
def test_a_policy_has_the_say(house: House, policy: Policy, code: str) -> None:
    house.home("east").policy_path.write_text(write_policy(policy), encoding="utf-8")
    node = house.open("east")
    found = refused(node, house.offered(PLAN))
    assert (found.code, found.exit_code) == (code, 3)
    node.close()


def test_a_revoked_member_an_old_roster_and_two_rosters_of_a_number_are_refused(house: House) -> None:
    old = house.offered(PLAN)
    house.office.revoke("north")
    nodes = {name: house.open(name) for name in NAMES}
    held, _ = send(nodes["south"], ROSTER, RosterNotice(house.office.roster_bytes()).encode())
    assert RosterHeld.decode(held.content) == RosterHeld("south", 5)
    assert refused(nodes["south"], old).code == "older_roster"
    named = house.request_for(house.offer(PLAN, people=dict.fromkeys(NAMES, PEOPLE)))
    assert refused(nodes["south"], named).code == "revoked"
    assert refused(nodes["north"], named).code == "revoked"
    held, _ = send(nodes["south"], ROSTER, RosterNotice(old.roster).encode())
    assert RosterHeld.decode(held.content).version == 5
    assert RosterHeld.decode(held.content).refusal.startswith("older_roster: ")
    twin = house.office.roster()
    twin = replace(twin, issued=twin.issued + 1)
    two = replace(named, roster=twin.encode(house.office.identity()))
    assert refused(nodes["south"], two).code == "two_rosters"
    for node in nodes.values():
        node.close()


def test_a_revoked_node_does_not_start(house: House) -> None:
    house.office.revoke("north")
    with pytest.raises(Exception, match="is revoked"):
        update_roster(house.home("north"), house.office.roster_bytes())
    with pytest.raises(Exception, match="ask the coordinator why"):
        house.open("north")


def test_a_run_is_offered_again_with_its_old_roster_or_a_newer_one(house: House) -> None:
    """A coordinator that was restarted repeats what it had offered."""
    node = house.open("east")
    request = house.offered(PLAN)
    first = asked(node, request)
    house.office.sign(house.request("south"), renew=True)
    assert asked(node, replace(request, roster=house.office.roster_bytes())) == first
    assert house.home("east").roster().version == 5
    assert asked(node, request) == first
    node.close()


def test_the_year_is_counted_over_runs(house: House) -> None:
    spent = PLAN.privacy.epsilon
    policy = replace(GENEROUS, epsilon_per_run=spent * 1.5, epsilon_per_year=spent * 1.5)
    house.home("east").policy_path.write_text(write_policy(policy), encoding="utf-8")
    node = house.open("east")
    assert isinstance(asked(node, house.offered(PLAN, "run-1")), Description)
    # Nothing is charged yet, so a second one fits as well; each round is looked at when it is charged.
    assert isinstance(asked(node, house.offered(PLAN, "run-2")), Description)
    node.close()


def test_tables_that_do_not_fit_are_told_to_the_partner_alone(house: House, caplog: pytest.LogCaptureFixture) -> None:
    home = house.home("east")
    home.people.mkdir(mode=0o700)
    node = Node.open(house.folder / "east")
    assert refused(node, house.offered(PLAN)).code == "people_tables"
    assert "expected this partner's events, found none" in caplog.text
    events = pd.DataFrame(
        {
            "user": ["secret-user"] * 3,
            "item": ["i1", "i2", "secret-item"],
            "behaviour": ["view"] * 3,
            "timestamp": [1, 2, 3],
            "value": [None, 1.0, 2.0],
        }
    )
    users = pd.DataFrame({"user": ["secret-user"], "gender": ["f"], "age": ["old"]})
    events.to_parquet(home.people / "events.parquet")
    users.to_parquet(home.people / "users.parquet")
    found = refused(node, house.offered(PLAN))
    assert found.code == "people_tables"
    assert found.figures == {}
    assert not any(digit in found.reason for digit in "0123456789")
    assert "secret" not in caplog.text
    assert "secret" not in str(found)
    events.assign(item=["i1", "i2", "i3"]).to_parquet(home.people / "events.parquet")
    assert isinstance(asked(node, house.offered(PLAN)), Description)
    node.close()


def test_ranks_are_no_times(tmp_path: Path) -> None:
    source = TablesOnDisk(tmp_path)
    pd.DataFrame({"user": ["u"], "item": ["i1"], "behaviour": ["view"], "timestamp": [3], "value": [1.0]}).to_parquet(
        tmp_path / "events.parquet"
    )
    pd.DataFrame({"user": ["u"]}).to_parquet(tmp_path / "users.parquet")
    assert source.histories({"i1": 1}, {}).has_times
    for times, has_times in (("utc", True), ("rank", False), ("none", False)):
        (tmp_path / "people.json").write_text(json.dumps({"times": times}))
        assert source.histories({"i1": 1}, {}).has_times is has_times
    (tmp_path / "people.json").write_text("{}")
    with pytest.raises(UsageError, match="expected"):
        source.histories({"i1": 1}, {})
    (tmp_path / "users.parquet").write_bytes(b"no table")
    with pytest.raises(UsageError, match="expected a Parquet table"):
        source.histories({"i1": 1}, {})


def test_a_node_without_people_takes_no_part(house: House) -> None:
    some = histories((1,))
    nobody = replace(
        some,
        items=some.items[:0],
        behaviours=some.behaviours[:0],
        values=some.values[:0],
        timestamps=some.timestamps[:0],
        offsets=some.offsets[:1],
        attributes=some.attributes[:0],
    )
    house.people["east"] = FixedPeople(nobody)
    node = house.open("east")
    assert refused(node, house.offered(PLAN)).code == "people_tables"
    node.close()


def test_a_lower_bound_on_parameters_is_one() -> None:
    vocabulary = public_catalogue().vocabulary()
    for changes in ({}, {"width": 16, "blocks": 3}, {"feed_forward": 4}, {"dimensions": ("activity",)}, {"lags": 0}):
        plan = replace(PLAN, model=replace(PLAN.model, **changes))
        assert 0 < least_parameters(plan, ITEMS) <= largest_vector(plan, vocabulary)


def test_an_offered_budget_is_read_back_and_an_impossible_one_refused(house: House) -> None:
    offer = house.offer(PLAN)
    assert offer.budget is not None
    assert OfferedBudget.of(offer.budget.budget()) == offer.budget
    assert offer.budget.training is not None
    bad: OfferedMechanism = replace(offer.budget.training, noise_multiplier=-1.0)
    node = house.open("east")
    assert (
        refused(node, house.request_for(replace(offer, budget=replace(offer.budget, training=bad)))).code == "malformed"
    )
    node.close()


@pytest.mark.parametrize("kill_at", [1, 3, 7, "before", "after"])
def test_a_kill_leaves_a_run_whole_or_none(house: House, kill_at: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process dies by SIGKILL at a flush, before the folder gets its name, and after."""
    request = house.offered(PLAN)
    child = os.fork()
    if child == 0:
        _accept_and_die(house, request, kill_at)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    folder = house.home("east").runs / "run-1"
    assert folder.exists() is (kill_at == "after")
    node = house.open("east")
    assert [path.name for path in house.home("east").runs.iterdir()] == (["run-1"] if kill_at == "after" else [])
    if kill_at == "after":  # it is opened from its folder, before anybody offers it again
        assert node.describe(DescribeRequest(run="run-1", plan_digest=PLAN.digest)).partner == "east"
    assert isinstance(asked(node, request), Description)
    node.close()


def _accept_and_die(house: House, request: OfferRequest, kill_at: Any) -> None:
    try:
        logging.disable(logging.CRITICAL)
        from silhouette_client.offers import run_folder

        flush, rename, calls = run_folder._flush, Path.rename, [0]

        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def flush_or_die(path: Path) -> None:
            calls[0] += 1
            if calls[0] == kill_at:
                die()
            flush(path)

        def rename_and_die(self: Path, target: Path) -> Path:
            if kill_at == "before":
                die()
            moved = rename(self, target)
            die()
            return moved

        run_folder._flush = flush_or_die
        Path.rename = rename_and_die  # type: ignore[method-assign, assignment]
        house.open("east").offer(request)
    finally:
        os._exit(1)  # not reached: the test sees that the child did not die as it should


def test_rounds_of_a_day_are_remembered_and_a_clock_set_back_frees_none(tmp_path: Path) -> None:
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    diary = RoundDiary(tmp_path / "rounds.json")
    for hours in (0, 1, 2):
        diary.note(now + timedelta(hours=hours))
    again = RoundDiary(tmp_path / "rounds.json")
    assert again.count(now + timedelta(hours=2)) == 3
    assert again.count(now - timedelta(days=3)) == 3
    assert again.count(now + timedelta(hours=25, minutes=30)) == 1
    (tmp_path / "rounds.json").write_text("[1,")
    assert RoundDiary(tmp_path / "rounds.json").count(now) == 0


def test_a_certificate_that_ends_soon_is_said_and_one_that_has_ended_stops_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    times = [now - LIFE + timedelta(days=20)]
    house = House(tmp_path, clock=lambda: times[-1])
    times.append(now)
    house.open("east").close()
    assert "expires soon" in caplog.text
    times.append(now + timedelta(days=21))
    with pytest.raises(ExpiredError, match="ask the coordinator for a new kit"):
        house.open("east")
