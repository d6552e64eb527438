"""A recommender over successive slices of time: trained further, evaluated, promoted or not, by a real registry.

Each slice's run starts from the promoted model, is evaluated beside it on the newest event of everybody, and takes its
place if the registry lets it. Whether that was right is seen on what came next, which no deployment would have: there
both models rank the same people's next item.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from silhouette_client.training.figures import evaluation_rows
from silhouette_server.coordination.federation import Beside
from silhouette_server.registry import Registry, RunState, Submission
from silhouette_server.registry.appraisals import evaluation_of
from silhouette_server.registry.promotion import NotBetterError
from silhouette_server.registry.spending import released
from silhouette_shared.cards import PROMOTED, Card, unpack_model
from silhouette_shared.config import Plan, with_changes
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.files import write_atomically
from silhouette_shared.model.appraisal import Appraised, Sheet, read_appraisal
from silhouette_shared.model.evaluation import Interval, hit_rate, mean_interval, ndcg_gains
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.budget import budget_of
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.secagg import Identity
from silhouette_shared.secagg.keys import KEY_BYTES
from silhouette_simulations.models import load_encoder, new_encoder
from silhouette_simulations.repeatable import RepeatableBytes
from silhouette_simulations.rows import CUTOFF, rank_quickly
from silhouette_simulations.slicing import Slice
from silhouette_simulations.training import Machine, train_together
from silhouette_simulations.world import PartnerData

RESULTS = "slices.json"

UNTRAINED = "untrained"
"""The run whose model should not be promoted."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Turn:
    """How one slice ended.

    Args:
        name: Of the run.
        known: Events that it was trained on, the held-out ones among them.
        promoted: Whether the registry let it.
        why: Its verdict.
        run_epsilon: Of this run; None without privacy.
        epsilon: Of this run and all that it was started from.
        people: Who did something new afterwards.
        ndcg: Of this model on that.
        hits: Its hit rate.
        before: NDCG of the model that was promoted before, on the same; None where there was none.
        difference: This model's less that one's, paired over people, at 95 %.
    """

    name: str
    known: int
    promoted: bool
    why: str
    run_epsilon: float | None
    epsilon: float | None
    people: int
    ndcg: float
    hits: float
    before: float | None
    difference: Interval | None


class Succession:
    """Slices one after the other, in a folder; one that was killed goes on at the slice that was under way.

    Args:
        plan: Of every run.
        slices: In order.
        folder: For registry, models and results; made if missing.
        machine: Settings that change speed and nothing else.
        progress: Told what happens.

    Raises:
        UsageError: If a private plan has no share for the evaluation, or one without secure aggregation.
        IntegrityError: If the folder holds results of another plan.
    """

    def __init__(
        self, plan: Plan, slices: tuple[Slice, ...], folder: Path, machine: Machine, progress: Progress
    ) -> None:
        if plan.privacy.mode != "none" and not plan.analytics.evaluation_share:
            raise UsageError(
                "analytics.evaluation_share: expected a share of the budget for the evaluation that promotion decides "
                "by, got 0; give it one, such as 0.1"
            )
        if plan.aggregation.protocol != "sa-1":
            raise UsageError(
                f'aggregation.protocol: expected "sa-1", as in a deployment, got {plan.aggregation.protocol!r}'
            )
        self._plan, self._slices, self._folder = plan, slices, folder
        self._machine, self._progress = machine, progress
        folder.mkdir(parents=True, exist_ok=True)
        source = ReproducibleSource(plan.seed).child("slices", "coordinator")
        self._identity = Identity(RepeatableBytes(source).bytes(KEY_BYTES))

    def run(self) -> tuple[Turn, ...]:
        """Every slice that is left, and at last a model that was hardly trained."""
        turns = list(self._known_turns())
        with Registry.open(self._folder / "registry.sqlite", self._identity) as registry:
            for one in self._slices[len(turns) :]:
                self._progress(f"slice {one.number} of {len(self._slices)}: {one.events:,} events are known")
                turns.append(self._turn(registry, one, f"slice-{one.number}", self._plan, start=PROMOTED))
                self._keep(turns)
            if len(turns) == len(self._slices):
                self._progress("a model that was hardly trained")
                turns.append(self._turn(registry, self._slices[-1], UNTRAINED, _hardly_trained(self._plan), start=""))
                self._keep(turns)
        return tuple(turns)

    def _turn(self, registry: Registry, one: Slice, name: str, plan: Plan, *, start: str) -> Turn:
        before = _promoted(registry)
        layout = Layout.of(new_encoder(plan, one.world.vocabulary, torch.device("cpu")))
        earlier = None if before is None else unpack_model(before[1], layout)
        beside = None if before is None or earlier is None else Beside(earlier, before[0].model)
        model = self._commit(registry, one, name, plan, layout, beside, begins=earlier if start else None)
        try:
            promoted, why = True, registry.promote(name)[1].text
        except NotBetterError as error:
            promoted, why = False, str(error)
        card = registry.model(name).card
        gains, ranks = self._next(one, plan, model)
        difference, old = None, None
        if earlier is not None:
            old, _ = self._next(one, self._plan, earlier)
            generator = ReproducibleSource(0).child("bootstrap", name).torch_generator()
            difference = mean_interval(gains - old, generator=generator)
        return Turn(
            name=name,
            known=one.events,
            promoted=promoted,
            why=why,
            run_epsilon=None if card.spent is None else card.spent.run_epsilon,
            epsilon=None if card.spent is None else card.spent.epsilon,
            people=len(gains),
            ndcg=float(gains.mean()),
            hits=hit_rate(ranks, CUTOFF),
            before=None if old is None else float(old.mean()),
            difference=difference,
        )

    def _commit(
        self,
        registry: Registry,
        one: Slice,
        name: str,
        plan: Plan,
        layout: Layout,
        beside: Beside | None,
        *,
        begins: Tensor | None,
    ) -> Tensor:
        """Train, evaluate and commit a run's model as its one round; what a kill left of it is done again."""
        if name in registry.contents.runs and registry.run(name).last_committed:
            return unpack_model(registry.model(name).read(), layout)
        budget, folder = budget_of(plan), self._folder / name
        partners = one.world.partners if budget is not None else tuple(map(_held_out, one.world.partners))
        trained = train_together(
            plan,
            one.world,
            partners,
            name=name,
            budget=budget,
            folder=folder,
            machine=self._machine,
            on_round=lambda record, model: self._progress(f"{name}: round {record.round}, {record.seconds:.1f} s"),
            start=begins,
            beside=beside,
        )
        appraised = trained.appraisal
        if appraised is None:
            appraised = self._exactly(one, plan, trained.parameters, beside)
        if name not in registry.contents.runs:
            people = {partner.name: len(partner) for partner in partners}
            start = PROMOTED if begins is not None else ""
            registry.submit(plan, Submission(name=name, partners=people, start=start))
        if registry.run(name).state is RunState.submitted:
            registry.set_state(name, RunState.running)
        for number in registry.unfinished(name):
            registry.void_round(name, number, "interrupted")
        number = registry.last_begun(name) + 1
        registry.begin_round(name, number)
        registry.commit_round(
            name,
            number,
            trained.parameters,
            layout,
            releases=released(plan, plan.privacy.rounds, layout.size),
            evaluation=evaluation_of(appraised, "" if beside is None else beside.digest),
        )
        registry.set_state(name, RunState.completed)
        shutil.rmtree(folder, ignore_errors=True)
        return trained.parameters

    def _exactly(self, one: Slice, plan: Plan, model: Tensor, beside: Beside | None) -> Appraised:
        """The evaluation without privacy, as no deployment would see it: the same sums without noise."""
        models = [model] if beside is None else [model, beside.parameters]
        names = tuple(sorted(partner.name for partner in one.world.partners))
        sheet = Sheet(names, len(models))
        total = np.zeros(sheet.size)
        encoders = [load_encoder(plan, one.world.vocabulary, each, self._machine.device) for each in models]
        for partner in one.world.partners:
            rows = [evaluation_rows(encoder, partner.known.to(self._machine.device)) for encoder in encoders]
            cells = torch.cat([rows[0], *(each[:, :2] for each in rows[1:])], dim=1).sum(0)
            total[sheet.place(partner.name)] = cells.cpu().numpy() * sheet.weight
        return read_appraisal(sheet, total, 0.0, names)

    def _next(self, one: Slice, plan: Plan, model: Tensor) -> tuple[Tensor, Tensor]:
        """NDCG of each person who did something new after a slice, and the rank of it."""
        encoder = load_encoder(plan, one.world.vocabulary, model, self._machine.device)
        ranks = torch.cat([rank_quickly(encoder, partner, self._machine.device) for partner in one.asked])
        return ndcg_gains(ranks, CUTOFF), ranks

    def _known_turns(self) -> tuple[Turn, ...]:
        path = self._folder / RESULTS
        if not path.exists():
            return ()
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            known = tuple(_turn_of(one) for one in document["turns"])
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path}: expected results of slices, got a damaged file ({error}); remove it"
            ) from None
        if document.get("plan") != self._plan.digest or document.get("slices") != len(self._slices):
            raise IntegrityError(f"{path}: expected results of this plan, got others; name another folder")
        return known

    def _keep(self, turns: list[Turn]) -> None:
        document = describe(self._plan, self._slices, tuple(turns))
        write_atomically(self._folder / RESULTS, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def describe(plan: Plan, slices: tuple[Slice, ...], turns: tuple[Turn, ...]) -> dict[str, object]:
    """Everything as plain JSON values."""
    world = slices[0].world
    return {
        "plan": plan.digest,
        "name": plan.name,
        "mode": plan.privacy.mode,
        "dataset": world.dataset,
        "people": world.people,
        "items": len(world.catalogue.items),
        "slices": len(slices),
        "bounds": [one.until for one in slices],
        "turns": [
            {**vars(turn), "difference": None if turn.difference is None else vars(turn.difference)} for turn in turns
        ],
    }


def _turn_of(document: Mapping[str, object]) -> Turn:
    found = document["difference"]
    interval = Interval(**found) if isinstance(found, dict) else None
    return Turn(**{**document, "difference": interval})  # type: ignore[arg-type]


def _promoted(registry: Registry) -> tuple[Card, bytes] | None:
    found = registry.promoted()
    return None if found is None else (found[2].card, found[2].read())


def _held_out(partner: PartnerData) -> PartnerData:
    """Without the newest event of whoever has another, as an agent holds it out where there is privacy."""
    return replace(partner, known=partner.known.without_last((partner.known.lengths > 1).long()))


def _hardly_trained(plan: Plan) -> Plan:
    """One round that moves nothing, if there are any, and statistics that are nearly all noise."""
    table = "training" if plan.privacy.mode == "none" else "privacy"
    rounds = min(1, plan.training.rounds if plan.privacy.mode == "none" else plan.privacy.rounds)
    rates = dict.fromkeys((f"{table}.learning_rate", f"{table}.server_learning_rate"), 1e-7)
    noisy = dict.fromkeys(("statistics.popularity_share", "statistics.transition_share"), 0.001)
    return with_changes(
        plan,
        {f"{table}.rounds": rounds, f"{table}.warm_up_rounds": 0, **rates, **(noisy if plan.statistics.on else {})},
    )
