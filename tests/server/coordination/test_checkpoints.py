"""A checkpoint is the one before or the new one, whole, and damage is noticed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silhouette_server.coordination.checkpoints import (
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from silhouette_shared.errors import IntegrityError

CHECKPOINT = Checkpoint(
    run="plan/federated",
    plan_digest="p" * 64,
    round=3,
    tensors={"parameters": torch.arange(7.0), "optimiser.step": torch.tensor(3.0)},
    history=({"round": 1, "update_norm": 0.5, "seconds": 1.25}, {"round": 2, "update_norm": 1e-300, "seconds": 0.0}),
)


def same(one: Checkpoint | None, other: Checkpoint) -> bool:
    return (
        one is not None
        and replace(one, tensors={}) == replace(other, tensors={})
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    assert read_checkpoint(path) is None
    write_checkpoint(path, CHECKPOINT)
    assert same(read_checkpoint(path), CHECKPOINT)
    later = replace(CHECKPOINT, round=4, tensors={"parameters": torch.ones(2, 3).T})
    write_checkpoint(path, later)
    assert same(read_checkpoint(path), later)
    assert list(tmp_path.iterdir()) == [path]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full"])
def test_an_end_before_the_exchange_leaves_the_old_one(
    moment: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, CHECKPOINT)

    def end(*_: object, **__: object) -> None:
        raise error

    if moment == "write":
        monkeypatch.setattr("silhouette_server.coordination.checkpoints.save", end)
    elif moment == "fsync":
        monkeypatch.setattr(os, "fsync", end)
    else:
        monkeypatch.setattr(Path, "replace", end)
    with pytest.raises(type(error)):
        write_checkpoint(path, replace(CHECKPOINT, round=4))
    monkeypatch.undo()
    assert same(read_checkpoint(path), CHECKPOINT)
    assert list(tmp_path.iterdir()) == [path]


def test_a_leftover_of_a_killed_process_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.with_name(f".{path.name}.123.tmp").write_bytes(b"half")
    assert read_checkpoint(path) is None


def content(tmp_path: Path) -> bytes:
    path = tmp_path / "whole.safetensors"
    write_checkpoint(path, CHECKPOINT)
    return path.read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=100)
@given(st.data())
def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(content(tmp_path))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole)
    try:
        found = read_checkpoint(damaged)
    except IntegrityError as error:
        assert str(damaged) in str(error)  # noqa: PT017
        assert "expected a checkpoint, got a damaged file" in str(error)  # noqa: PT017
        return
    assert same(found, CHECKPOINT)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_noticed(share: float, tmp_path: Path) -> None:
    whole = content(tmp_path)
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(IntegrityError, match="start the run again in another folder"):
        read_checkpoint(path)
