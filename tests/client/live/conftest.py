"""A node with the records of two people, a store, and a promoted model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client.ingest.shop_files import ingest, write
from tests.people import ITEMS, encoder

from silhouette_client.profiles.details import Words
from silhouette_client.profiles.keys import KeyFile
from silhouette_client.profiles.node_model import NodeModel
from silhouette_client.profiles.vault import Vault

ITEM = [f"i{number}" for number in range(1, ITEMS + 1)]


@pytest.fixture(scope="module")
def model() -> NodeModel:
    words = Words(
        items=tuple(ITEM),
        titles=tuple(f"Title {item}" for item in ITEM),
        categories=("A", "B", "C"),
        attributes={"gender": ("F", "M"), "age": ("young", "middle", "old")},
    )
    return NodeModel("m1", "run:1", encoder(scale=10.0).eval(), words, private=False)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    rows = [f"ann,{ITEM[k]},view,{1000 + k}," for k in range(5)] + [
        f"ben,{ITEM[k]},purchase,{2000 + k},3" for k in (7, 3)
    ]
    ingest(home, write(tmp_path / "events.csv", *rows))
    ingest(home, write(tmp_path / "users.csv", "ann,w", "ben,m", header="who,sex"))
    return home


@pytest.fixture
def vault(home: Path) -> Iterator[Vault]:
    with Vault.open(home, make=KeyFile()) as vault:
        yield vault
