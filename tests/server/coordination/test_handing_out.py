"""Real nodes are told of the promoted model over Flower's messages, take it by themselves, and refuse anything else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from flwr.app import Message
from tests.enrolled import GENEROUS, House
from tests.server.coordination.grids import FakeGrid
from tests.server.registry.house import LAYOUT, OPEN, measured, vector
from tests.server.registry.offices import run_rounds

from silhouette_client.offers import Node, node_app
from silhouette_client.policy.terms import write_policy
from silhouette_client.promoted import held_model
from silhouette_server.coordination.handing_out import HandingOut, Promoted
from silhouette_server.registry import RunState
from silhouette_server.registry.home import open_registry
from silhouette_server.run_store import RegistryStore
from silhouette_shared.cards import Alias, Card, pack_model
from silhouette_shared.cards.documents import card_digest
from silhouette_shared.wire.promoted import MODEL, ModelHeld, ModelNotice
from silhouette_simulations.backend import answer


@dataclass
class Place:
    """A coordinator with a registry, its nodes, and the wire between them."""

    house: House
    nodes: dict[str, Node] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        with open_registry(self.house.office, write=True) as registry:
            for _ in range(2):
                registry.set_state(run_rounds(registry, OPEN, 1, evaluation=measured(0.1, 0.1)), RunState.completed)
        self.out = HandingOut(self.promoted, lambda: self.now)
        self.names = dict(enumerate(sorted(self.house.names), start=11))
        self.grid = FakeGrid({number: self._answer(name) for number, name in self.names.items()})

    def _answer(self, name: str):  # type: ignore[no-untyped-def]
        def reply(message: Message) -> list[Message]:
            if name not in self.nodes:
                return []
            message.metadata.__dict__["_message_id"] = "1"
            return [answer(node_app(self.nodes[name]), message, None)]  # type: ignore[arg-type]

        return reply

    def promoted(self) -> Promoted | None:
        with open_registry(self.house.office, write=False) as registry:
            return RegistryStore(registry).promoted()

    def promote(self, model: str) -> None:
        with open_registry(self.house.office, write=True) as registry:
            if model == "back":
                registry.rollback()
            else:
                registry.promote(model)

    def tell(self) -> int:
        """Tell whoever is to be told; how many messages went out."""
        before = len(self.grid.sent)
        self.out.tell(self.grid, self.out.waiting(self.names))
        return len(self.grid.sent) - before

    def held(self, name: str) -> tuple[str, int] | None:
        found = held_model(self.house.home(name))
        return None if found is None else (found.card.reference, found.alias.number)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(House(tmp_path))
    with ExitStack() as stack:
        for name in made.house.names:
            made.nodes[name] = made.house.open(name)
            stack.callback(made.nodes[name].close)
        yield made


def test_promoted_models_and_a_rollback_reach_every_node_and_the_bytes_only_who_has_them_not(place: Place) -> None:
    names = place.house.names
    assert place.tell() == 0, "nothing is promoted"
    for model, expected in (("open-1", ("open-1:1", 1)), ("open-2", ("open-2:1", 2)), ("back", ("open-1:1", 3))):
        place.promote(model)
        assert place.tell() == 6, "three are told, and three want the bytes"
        assert {place.held(name) for name in names} == {expected}
        assert place.tell() == 0
    place.out = HandingOut(place.promoted, lambda: place.now)  # a coordinator that was restarted
    assert place.tell() == 3, "they hold it"
    notices = [ModelNotice.decode(message.content) for message in place.grid.sent[-3:]]
    assert [notice.model for notice in notices] == [b"", b"", b""]


def test_a_node_that_was_away_gets_it_when_it_is_back(place: Place) -> None:
    away = place.nodes.pop("north")
    place.promote("open-1")
    assert place.tell() == 5
    assert (place.held("north"), place.held("south")) == (None, ("open-1:1", 1))
    place.nodes["north"] = away
    assert place.tell() == 0, "it was asked just now"
    place.now += 1000.0
    assert place.tell() == 2
    assert place.held("north") == ("open-1:1", 1)


def test_a_model_that_was_damaged_at_a_node_is_asked_for_again(place: Place) -> None:
    place.promote("open-1")
    place.tell()
    kept = place.house.home("north").folder / "model" / "1" / "model.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1])
    place.out = HandingOut(place.promoted, lambda: place.now)
    assert place.tell() == 4
    assert place.held("north") == ("open-1:1", 1)


def test_what_is_measured_after_a_promotion_does_not_change_what_is_handed_out(place: Place) -> None:
    place.promote("open-1")
    with open_registry(place.house.office, write=True) as registry:
        registry.amend("open-1", evaluation=measured(0.2, 0.2))
        assert registry.model("open-1").card.edition == 2
        found = registry.promoted()
        assert found is not None
        alias, _, model = found
        assert (model.card.edition, card_digest(model.signed_card)) == (1, alias.card)
    assert place.tell() == 6
    assert place.held("north") == ("open-1:1", 1)


def notice_of(place: Place) -> ModelNotice:
    found = place.promoted()
    assert found is not None
    return ModelNotice(found.alias, found.card, found.read())


def forged(place: Place, case: str) -> tuple[ModelNotice, str]:
    """What a hostile coordinator, or somebody on the way, sends in place of the promoted model."""
    honest, office = notice_of(place), place.house.office
    keys = [office.identity().public]
    alias, card = Alias.decode(honest.alias, keys), Card.decode(honest.card, keys)
    if case == "other bytes":
        return replace(honest, model=honest.model[:-1] + b"?"), "other_model"
    if case == "other model of the same card":
        return replace(honest, model=pack_model(vector(9), LAYOUT)), "other_model"
    if case == "other card":
        return replace(honest, card=replace(card, edition=7).encode(office.identity())), "other_model"
    if case == "a number twice":
        return replace(honest, alias=replace(alias, issued=alias.issued + 1).encode(office.identity())), "two_aliases"
    if case == "another signer":
        stranger = House(place.house.folder / "stranger").office.identity()
        return replace(honest, alias=alias.encode(stranger)), "forged_document"
    if case == "a model larger than the policy's":
        large = replace(card, parameters=10**9)
        signed = large.encode(office.identity())
        named = replace(alias, card=card_digest(signed), number=alias.number + 1)
        return replace(honest, card=signed, alias=named.encode(office.identity())), "largest_model"
    return replace(honest, alias=b"{}"), "malformed"


@pytest.mark.parametrize(
    "case",
    [
        "other bytes",
        "other model of the same card",
        "other card",
        "a number twice",
        "another signer",
        "a model larger than the policy's",
        "no alias",
    ],
)
def test_anything_but_the_promoted_model_is_refused_typed_and_logged_and_what_is_held_stays(
    place: Place, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    place.promote("open-1")
    place.tell()
    if case.startswith("other"):
        place.promote("open-2")  # not told yet, so that the bytes are looked at
    before = place.held("north")
    notice, code = forged(place, case)
    with caplog.at_level(logging.WARNING):
        held = place.nodes["north"].model(notice)
    assert held.refusal.startswith(f"{code}: "), held.refusal
    assert (held.number, held.wanted) == (1, False if code != "other_model" else held.wanted)
    assert place.held("north") == before
    assert f"a promoted model was refused: {code}" in caplog.text


def test_an_older_alias_is_refused(place: Place) -> None:
    place.promote("open-1")
    old = notice_of(place)
    place.promote("open-2")
    place.tell()
    held = place.nodes["north"].model(old)
    assert held == ModelHeld("north", 2, False, held.refusal)
    assert held.refusal.startswith("older_alias: expected the alias promoted number 2 or a later one, got 1")


def test_a_refusal_is_not_asked_again_at_once_and_is_in_the_coordinators_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.house.home("north").policy_path.write_text(write_policy(replace(GENEROUS, largest_model=1)))
    place.nodes["north"].close()
    place.nodes["north"] = place.house.open("north")
    place.promote("open-1")
    with caplog.at_level(logging.INFO):
        place.tell()
    assert "north keeps model number 0: largest_model: expected a model of at most 1 parameters" in caplog.text
    assert "south holds model number 1" in caplog.text
    assert place.tell() == 0
    place.now += 1000.0
    assert place.tell() == 1, "north alone, and it wants no bytes"
    assert place.grid.sent[-1].metadata.message_type == MODEL
    assert place.held("north") is None
