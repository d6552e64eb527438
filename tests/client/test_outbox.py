"""Whatever leaves is written down before it does, and a line that was changed is found."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.supercore.task_identity import TaskIdentity
from tests.enrolled import GENEROUS, House
from tests.ledgers import charge

from silhouette_client.outbox import OUTBOX_NAME, Outbox, read_outbox
from silhouette_client.policy.ledger_store import LEDGER_NAME, Ledger
from silhouette_client.policy.witness import FileWitness
from silhouette_shared.cli import main
from silhouette_shared.errors import IntegrityError, UnavailableError
from silhouette_shared.wire.exchange import Answer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def reply(content: RecordDict | None = None, error: Error | None = None) -> Message:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    asked = Message(RecordDict(), 2, "train.mask")
    asked.metadata.__dict__["_message_id"] = "1"
    return Message(content or RecordDict(), reply_to=asked) if error is None else Message(error, reply_to=asked)


def masked(number: int = 1, run: str = "run-1") -> Message:
    words = np.arange(50, dtype=np.uint32) + number
    parts = {"manifest": b"m", "signature": b"s"}
    answer = Answer(run=run, purpose="training", round=number, step="mask", parts=parts, words=words)
    return reply(answer.encode())


def test_a_message_is_written_down_with_its_round_its_bytes_and_their_hash(tmp_path: Path) -> None:
    path = tmp_path / OUTBOX_NAME
    box, message = Outbox(path, "demo", lambda: NOW), masked()
    box.note(message)
    content = message_to_proto(message).SerializeToString(deterministic=True)
    box.note(reply(error=Error(code=2, reason="RefusedError: no")))
    first, second = read_outbox(path)
    assert (first.number, first.time, first.to, first.kind) == (1, "2026-03-01T12:00:00Z", "demo", "train.mask")
    assert (first.run, first.purpose, first.round, first.step) == ("run-1", "training", 1, "mask")
    assert (first.size, first.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (second.kind, second.run, second.round) == ("error", "", 0)
    assert path.stat().st_mode & 0o077 == 0
    Outbox(path, "demo", lambda: NOW).note(masked(2))  # of another start
    assert [one.number for one in read_outbox(path)] == [1, 2, 3]


@pytest.mark.parametrize("change", ["flip", "drop", "swap"])
def test_a_changed_line_is_found_and_named(tmp_path: Path, change: str) -> None:
    path = tmp_path / OUTBOX_NAME
    box = Outbox(path, "demo", lambda: NOW)
    for number in range(1, 5):
        box.note(masked(number))
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "flip":
        lines[1] = lines[1].replace(b'"round": 2', b'"round": 9')
    elif change == "drop":
        del lines[1]
    else:
        lines[1], lines[2] = lines[2], lines[1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match=r"line [23]: expected a line that continues the one before it"):
        list(read_outbox(path))
    with pytest.raises(IntegrityError, match="expected a line that continues"):
        Outbox(path, "demo")


def test_half_a_line_that_a_kill_left_is_dropped_because_nothing_was_sent(tmp_path: Path) -> None:
    path = tmp_path / OUTBOX_NAME
    Outbox(path, "demo", lambda: NOW).note(masked())
    with path.open("ab") as file:
        file.write(b'{"number": 2, "ti')
    assert [one.round for one in read_outbox(path)] == [1], "as for whoever reads while a line is being written"
    Outbox(path, "demo", lambda: NOW).note(masked(2))
    assert [one.round for one in read_outbox(path)] == [1, 2]


def test_what_cannot_be_written_down_is_an_error_and_leaves_no_line(tmp_path: Path) -> None:
    box = Outbox(tmp_path / OUTBOX_NAME, "demo", lambda: NOW)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
            try:
                box.note(masked())
            except UnavailableError as error:
                code = 0 if "nothing leaves before" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(read_outbox(tmp_path / OUTBOX_NAME)) == []


def test_the_command_lists_what_left_with_what_the_run_had_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = House(tmp_path).home("east")
    folder = home.folder
    (folder / "witness").mkdir(exist_ok=True)
    times = iter([NOW, NOW])
    with Ledger.open(
        folder / LEDGER_NAME,
        node="east",
        limits=GENEROUS.limits,
        witness=FileWitness(folder / "witness"),
        clock=lambda: next(times, NOW),
    ) as ledger:
        ledger.charge(charge(1, delta=GENEROUS.limits.delta))
    box = Outbox(folder / OUTBOX_NAME, "demo", lambda: NOW)
    box.note(masked())
    box.note(masked(1, run="run-2"))
    assert main(["node", "outbox", "--home", str(folder.parent), "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["sent"]
    assert 0 < first["epsilon"] < 8
    assert second["epsilon"] is None
    assert main(["node", "outbox", "--run", "run-1", "--home", str(folder.parent)]) == 0
    out = capsys.readouterr().out
    assert "to demo" in out
    assert f"epsilon {first['epsilon']:.3f}" in out
    assert out.splitlines()[-1].startswith("1 messages, ")
