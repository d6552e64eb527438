"""A node with people of its own and a promoted model, as `node ingest` and `node take` leave them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from tests.client.ingest.shop_files import MAPPING as SHOP
from tests.client.ingest.shop_files import ingest, write
from tests.enrolled import House, deployed_plan, public_catalogue, send
from tests.people import LENGTHS

from silhouette_client.promoted import take_promoted
from silhouette_shared.cards import Alias, Card, pack_model
from silhouette_shared.cards.documents import card_digest
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.schema import BEHAVIOURS
from silhouette_shared.wire.offers import OFFER

PLAN = deployed_plan(mode="none")
USERS = tuple(f"user-{number}" for number in range(len(LENGTHS)))
_START = 1_700_000_000

MAPPING = SHOP.replace(
    'gender = { column = "sex", values = { w = "F", m = "M" } }',
    'gender = { column = "gender" }\nage = { column = "age" }',
)


class Profiled:
    """The node `east` of a house of three, with tables taken in and the run `run-1` agreed to.

    Args:
        folder: For all homes.
        without: Numbers of people who never were there.
    """

    def __init__(self, folder: Path, without: Collection[int] = ()) -> None:
        self.house = House(folder)
        self.home = folder / "east"
        self.files = folder / "files"
        self.files.mkdir()
        answer, _ = send(self.house.open("east"), OFFER, self.house.offered(PLAN).encode())
        assert not answer.has_error()
        draw = torch.Generator().manual_seed(3)
        rows = []
        for number, length in enumerate(LENGTHS):
            for event in range(length):
                item, deed = (int(torch.randint(1, high, (1,), generator=draw)) for high in (21, 11))
                if number not in without:
                    rows.append(self.event(number, event, item, BEHAVIOURS[deed - 1]))
        self.ingest("events-1.csv", *rows)
        people = [
            f"{user},{'fm'[n % 2]},{('young', 'middle', 'old')[n % 3]}"
            for n, user in enumerate(USERS)
            if n not in without
        ]
        self.ingest("users-1.csv", *people, header="who,gender,age")

    def event(self, person: int, hour: int, item: int, behaviour: str = "view", value: str = "2.5") -> str:
        return f"{USERS[person]},i{item},{behaviour},{_START + 3600 * hour + person},{value}"

    def ingest(self, name: str, *rows: str, header: str = "who,what,how,at,price") -> None:
        import tomllib

        from silhouette_client.ingest.mapping import parse_mapping

        file = write(self.files / name, *rows, header=header)
        ingest(self.home, file, rules=parse_mapping(tomllib.loads(MAPPING)))

    def promote(self, number: int, scale: float = 1.0) -> str:
        """Sign, and have the node take, a model; the name that profiles give it."""
        identity = self.house.office.identity()
        words = public_catalogue()
        encoder = ProfileEncoder(PLAN.model, words.vocabulary(), PLAN.data.history_length)
        encoder.initialise(ReproducibleSource(PLAN.seed).child("initial model").torch_generator())
        layout = Layout.of(encoder)
        content = pack_model(read_vector(encoder, layout) * scale, layout)
        card = Card(
            run="run-1",
            round=number,
            plan=PLAN.name,
            plan_digest=PLAN.digest,
            layout=layout.digest,
            parameters=layout.size,
            model=hashlib.sha256(content).hexdigest(),
            size=len(content),
            issued=_START,
        )
        signed = card.encode(identity)
        alias = Alias(
            name="promoted",
            number=number,
            run="run-1",
            round=number,
            card=card_digest(signed),
            model=card.model,
            reason="promotion",
            issued=_START,
        )
        folder = self.files / f"promoted-{number}"
        folder.mkdir()
        (folder / "alias.json").write_bytes(alias.encode(identity))
        (folder / "card.json").write_bytes(signed)
        (folder / "model.safetensors").write_bytes(content)
        take_promoted(self.house.home("east"), folder)
        return card.model[:16]
