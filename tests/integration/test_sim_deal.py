"""Dealt tables are what a simulation's partners train on, event for event."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from tests.integration.desk import Desk

from silhouette_client.offers import TablesOnDisk
from silhouette_server.runs import read_public_catalogue
from silhouette_shared.config import read_plan
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_simulations import datasets
from silhouette_simulations.world import build_world


def test_a_node_that_reads_dealt_tables_holds_the_simulations_histories(desk: Desk) -> None:
    plan, out = desk.plan(), desk.out / "dealt"
    done = desk.here("sim", "deal", plan, "--out", out, "--format", "json")
    assert done.code == 0, done.err
    read = read_plan(plan)
    world = build_world(read, datasets.load(read.data.dataset, home=desk.home))
    public = read_public_catalogue(out / "catalogue.safetensors")
    assert public.vocabulary().attributes == world.vocabulary.attributes
    torch.testing.assert_close(public.vocabulary().content, world.vocabulary.content, rtol=0.0, atol=0.0)
    for partner in world.partners:
        source = TablesOnDisk(out / partner.name / "people")
        found = source.histories(public.catalogue.index, public.attributes)
        for field in fields(found):
            mine, theirs = getattr(found, field.name), getattr(partner.known, field.name)
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, field.name
        declared = json.loads(done.out)["people"][partner.name]
        assert len(partner) <= declared < len(partner) + 10


def test_a_folder_that_is_there_is_refused_and_left_alone(desk: Desk) -> None:
    out = desk.out / "dealt"
    out.mkdir(parents=True)
    done = desk.here("sim", "deal", desk.plan(), "--out", out)
    assert done.code == 2
    assert "expected a folder that is to be made, found one; name another" in done.err
    assert list(out.iterdir()) == []


def test_a_public_catalogue_that_is_missing_or_damaged_is_refused_by_name(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a public catalogue, found no file"):
        read_public_catalogue(tmp_path / "nothing.safetensors")
    out = desk.out / "dealt"
    assert desk.here("sim", "deal", desk.plan(), "--out", out).code == 0
    path = out / "catalogue.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="expected a whole public catalogue, got a damaged or another file"):
        read_public_catalogue(path)
