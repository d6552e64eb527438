"""The registry as the conductor of a deployment uses it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.server.registry.house import LAYOUT, OPEN, committed, opened, started, vector

from silhouette_server.coordination.book import Commitment, StopRequestedError
from silhouette_server.coordination.federation import RoundRecord
from silhouette_server.registry import RunState, Submission
from silhouette_server.registry.promotion import NotBetterError
from silhouette_server.run_store import RegistryBook, RegistryStore
from silhouette_shared.cards import unpack_model
from silhouette_shared.model.appraisal import Appraised, Sheet, read_appraisal
from silhouette_shared.model.vector import Layout

STEPS: tuple[dict[str, float | int | str], ...] = (
    {"step": "mask", "seconds": 1.0, "sent": 70, "received": 40},
    {"step": "agree", "sent": 7, "received": 4},
)


def test_a_round_is_committed_with_what_it_took_and_who_was_in_it(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = registry.submit(OPEN).name
        store = RegistryStore(registry)
        assert store.next_run() == run
        store.started(run)
        book = RegistryBook(registry, run, LAYOUT, lambda: None)
        book.begin(1)
        record = RoundRecord(round=1, replies=2, refused=1, update_norm=0.5, seconds=3.0, steps=STEPS)
        book.commit(Commitment(record, vector(1), b"transcript", ("north", "south")))
        commitment = registry.run(run).rounds[1].commitment
        assert commitment is not None
        assert (commitment.sent, commitment.received, commitment.seconds) == (77, 44, 3.0)
        assert commitment.survivors == ("north", "south")
        assert commitment.metrics == {"update_norm": 0.5, "partners": 2.0}
        assert sorted(registry.contacts()) == ["north", "south"]
        store.ended(run, "completed", "")
        assert store.next_run() is None


def test_a_run_that_is_to_stop_begins_no_round(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = registry.submit(OPEN).name
        RegistryStore(registry).started(run)
        book = RegistryBook(registry, run, LAYOUT, lambda: None)
        book.begin(1)
        book.void(1, "west did not answer")
        registry.request_stop(run)
        with pytest.raises(StopRequestedError, match="go on with `silhouette run resume`"):
            book.begin(2)
        assert (book.last_begun(), book.unfinished()) == (1, ())
        RegistryStore(registry).ended(run, "stopped", "it was asked to stop")
        assert registry.run(run).state is RunState.stopped


def appraised(ndcg: float, beside: float | None = None, people: float = 100.0) -> Appraised:
    """Three partners with so much NDCG a person, the last one with half of it."""
    sheet = Sheet(("north", "south", "west"), 1 if beside is None else 2)
    cells = [2 * ndcg * people, ndcg * people, people, *([] if beside is None else [0.0, beside * people])]
    rows = np.array([cells, cells, [cells[0], cells[1] / 2, *cells[2:]]])
    return read_appraisal(sheet, rows.reshape(-1) * sheet.weight, 0.01, sheet.partners)


def test_the_evaluation_goes_onto_the_last_models_card_once(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry, OPEN)
        first, last = (committed(registry, run, number) for number in (1, 2))
        book = RegistryBook(registry, run, LAYOUT, lambda: None)
        for _ in range(2):  # the second time as after a kill before the run was completed
            book.evaluate(appraised(0.1, 0.08), first.model)
        card = registry.model(run).card
        assert (card.round, card.edition, card.model) == (2, 2, last.model)
        found = card.evaluation
        assert found is not None
        assert found.metric == "ndcg@10"
        assert found.quality.overall.value == pytest.approx(0.25 / 3)
        assert found.quality.worst is not None
        assert found.quality.worst.value == pytest.approx(0.05)
        assert found.quality.overall.noise_std > 0
        assert found.beside[first.model].overall.value == pytest.approx(0.08)
        assert registry.verify() == ()


def test_promotion_decides_by_the_evaluation_that_a_run_brought(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        good, worse = started(registry, OPEN), started(registry, OPEN)
        committed(registry, good, 1)
        RegistryBook(registry, good, LAYOUT, lambda: None).evaluate(appraised(0.10), "")
        promoted = registry.promote(good)[0]
        committed(registry, worse, 2)
        RegistryBook(registry, worse, LAYOUT, lambda: None).evaluate(appraised(0.05, 0.10), promoted.model)
        with pytest.raises(NotBetterError, match=r"ndcg@10 -0\.\d+ \(overall"):
            registry.promote(worse)
        assert registry.model("promoted").card.run == good
        better = started(registry, OPEN)
        committed(registry, better, 3)
        # Alone it would be worse: on the people of this evaluation the promoted model is worse than it was.
        RegistryBook(registry, better, LAYOUT, lambda: None).evaluate(appraised(0.06, 0.02), promoted.model)
        assert "overall +0.03" in registry.promote(better)[1].text


def test_an_evaluation_whose_noise_leaves_nobody_is_on_no_card(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as registry:
        run = started(registry, OPEN)
        committed(registry, run, 1)
        RegistryBook(registry, run, LAYOUT, lambda: None).evaluate(appraised(0.1, people=-3.0), "")
        assert registry.model(run).card.evaluation is None
        assert "give it a larger share" in caplog.text
        empty = started(registry, OPEN)
        RegistryBook(registry, empty, LAYOUT, lambda: None).evaluate(appraised(0.1), "")
        assert "no round was committed" in caplog.text


def test_the_promoted_model_is_evaluated_beside_where_it_has_the_same_shape_and_catalogue(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        run = started(registry, OPEN)
        store = RegistryStore(registry)
        assert store.beside(run, LAYOUT) is None
        committed(registry, run, 1)
        registry.promote(run)
        later = started(registry, OPEN)
        found = store.beside(later, LAYOUT)
        assert found is not None
        assert found.digest == registry.model(run).card.model
        assert torch.equal(found.parameters, unpack_model(registry.model(run).read(), LAYOUT))
        assert store.beside(later, Layout(names=("table",), shapes=((4, 3),))) is None
        longer = replace(OPEN, data=replace(OPEN.data, history_length=7))
        assert store.beside(registry.submit(longer).name, LAYOUT) is None, "it would read the model another way"
        other = registry.submit(OPEN, Submission(catalogue="cd" * 32)).name
        assert store.beside(other, LAYOUT) is None
