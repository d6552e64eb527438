"""One simulation from plan to run folder.

Each row of the comparison is computed on its own and kept as soon as it is there, each training keeps a checkpoint a
round, and every draw is a function of the plan's seed, the training, the partner and the round. So a run that was
killed goes on where it was and ends with the same rows.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

import torch
from torch import Tensor

from silhouette_client.profiles.transitions import learn_transitions
from silhouette_server.coordination.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from silhouette_server.coordination.federation import RoundRecord
from silhouette_shared.config import Plan, RowName, with_changes
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.budget import Budget, budget_of
from silhouette_simulations.datasets import Dataset
from silhouette_simulations.mixing import counts_of, rank_with_counts
from silhouette_simulations.models import load_encoder, new_encoder
from silhouette_simulations.outputs import analytics_document, write_outputs
from silhouette_simulations.progress import Progress
from silhouette_simulations.report import write_report
from silhouette_simulations.rows import (
    LABELS,
    PRIVATE_ROWS,
    WITH_COUNTS,
    WITH_OWN_COUNTS,
    ModelRanking,
    Ranking,
    mean_figures,
    rank_baseline,
    rank_model,
    rank_quickly,
)
from silhouette_simulations.run_folder import RunFolder
from silhouette_simulations.training import Machine, Trained, train_together
from silhouette_simulations.world import PartnerData, build_world

_BASELINES: frozenset[RowName] = frozenset({"popularity", "transition_counts", "ease", "own_counts"})
_ADDED_TO: Mapping[RowName, RowName] = {**WITH_COUNTS, **WITH_OWN_COUNTS}  # whose model a row with counts has


@dataclass(frozen=True)
class RowResult:
    """What one row found, for every partner."""

    rankings: dict[str, Ranking]
    attributes: dict[str, tuple[Tensor, ...]]  # empty for counting methods
    parameters: Tensor | None  # of the one model behind it, if there is one


def rows_of(plan: Plan) -> tuple[RowName, ...]:
    """The rows that this plan can have: without privacy no private one, with it none with exact counts of all."""
    missing: set[RowName] = set()
    if plan.privacy.mode == "none":
        missing |= PRIVATE_ROWS
    else:
        missing |= set(WITH_COUNTS)
    if not plan.statistics.on:
        missing |= {"private_statistics", "private_statistics_with_own_counts"}
    return tuple(row for row in plan.evaluation.rows if row not in missing)


def statistics_alone(plan: Plan) -> Plan:
    """The plan with all of its budget spent on the statistics."""
    return with_changes(
        plan,
        {
            "privacy.rounds": 0,
            "privacy.warm_up_rounds": 0,
            "analytics.share": 0.0,
            "analytics.evaluation_share": 0.0,
        },
    )


def run(plan: Plan, dataset: Dataset, folder: RunFolder, machine: Machine, progress: Progress) -> None:
    """Run or go on with a simulation; `result.read_result` reads what came out.

    A run that is complete stays as it is.

    Raises:
        UsageError: If the plan does not fit the data, or the data are not those the run began with; nothing was
            trained.
        UnavailableError: If too few partners answered, or another process works in the folder; the run can be resumed.
        IntegrityError: If a file of an unfinished run is damaged.
        OSError: If the disk is full; the run can be resumed.
    """
    with folder.claimed(), _threads(machine):
        earlier = folder.read_json("run.json")
        before = earlier.get("dataset_digest", dataset.digest)
        if before != dataset.digest:
            raise UsageError(
                f"{folder.path}: expected the {dataset.name} that the run began with (SHA-256 {str(before)[:12]}), "
                f"got another ({dataset.digest[:12]}); put that one back, or start a new run"
            )
        state = earlier.get("state", "running")
        if state not in ("running", "complete"):
            raise IntegrityError(f"{folder.path / 'run.json'}: expected a run, got state {state!r}; start a new run")
        if state == "running":
            _Simulation(plan, dataset, folder, machine, progress).run()
        elif folder.state.exists() or not (folder.path / "report.html").is_file():  # killed just before the end
            _finish(folder)


def _finish(folder: RunFolder) -> None:
    write_report(folder.path)
    folder.forget_state()


@contextmanager
def _threads(machine: Machine) -> Iterator[None]:
    """One thread an operation: partners and rows run beside each other instead, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Simulation:
    def __init__(self, plan: Plan, dataset: Dataset, folder: RunFolder, machine: Machine, progress: Progress) -> None:
        self.plan, self.folder, self.machine, self.progress = plan, folder, machine, progress
        self.world = build_world(plan, dataset)
        self.budget = budget_of(plan)
        self.rows = rows_of(plan)
        self.stopped = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        earlier = self.folder.read_json("run.json")
        seconds_before = float(str(earlier.get("seconds", 0.0)))
        row_seconds: dict[str, float] = {
            str(name): float(value)
            for name, value in dict(earlier.get("row_seconds") or {}).items()  # type: ignore[call-overload]
        }
        self._write_run("running", seconds_before, row_seconds)
        results: dict[RowName, RowResult] = {}
        for group in self._groups():
            with ThreadPoolExecutor(len(group)) as pool:
                futures = {row: pool.submit(self._row, row, len(group)) for row in group}
                try:
                    for row, future in futures.items():
                        results[row], seconds = future.result()
                        row_seconds[row] = row_seconds.get(row, 0.0) + seconds
                except BaseException:  # Ctrl-C too: nobody waits for the other trainings to reach their ends
                    self.stopped.set()
                    raise
            self._write_run("running", seconds_before + time.monotonic() - started, row_seconds)
        self.progress.say("writing profiles and tables")
        ordered = {row: results[row] for row in self.rows}
        write_outputs(
            self.plan,
            self.world,
            self.folder,
            rankings={row: result.rankings for row, result in ordered.items()},
            attributes={row: result.attributes for row, result in ordered.items()},
            model_row=self._model_row(),
            parameters=self._model_parameters(ordered),
            budget=self.budget,
            rounds=self._rounds(),
            device=self.machine.device,
        )
        self._write_run("complete", seconds_before + time.monotonic() - started, row_seconds)
        _finish(self.folder)

    def _groups(self) -> list[list[RowName]]:
        """Rows that run beside each other: trainings of one partner use one core each."""
        alone: list[RowName] = [row for row in self.rows if row in ("pooled", "local_only")]
        groups: list[list[RowName]] = [[row] for row in self.rows if row not in alone and row not in _ADDED_TO]
        if alone:
            groups.append(alone)
        # Last: these find the trainings of the others done.
        return groups + [[row] for row in self.rows if row in _ADDED_TO]

    def _row(self, row: RowName, beside: int) -> tuple[RowResult, float]:
        started = time.monotonic()
        result = self._kept(row)
        if result is None:
            result = self._baseline(row) if row in _BASELINES else self._trained(row, beside)
            path = self.folder.row(row)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, Checkpoint(f"row/{row}", self.plan.digest, 0, _to_tensors(result), ()))
        return result, time.monotonic() - started

    def _kept(self, row: RowName) -> RowResult | None:
        """The row as an earlier process left it, or None."""
        path = self.folder.row(row)
        kept = read_checkpoint(path)
        if kept is None:
            return None
        if (kept.run, kept.plan_digest) != (f"row/{row}", self.plan.digest):
            raise IntegrityError(f"{path}: expected the row {row} of this run, got another; remove the file and resume")
        return _from_tensors(kept.tensors)

    def _baseline(self, row: RowName) -> RowResult:
        self.progress.say(f"counting: {LABELS[row].lower()}")
        return RowResult(rank_baseline(row, self.world), {}, None)

    def _trained(self, row: RowName, beside: int) -> RowResult:
        models = self._models(_ADDED_TO.get(row, row), beside)
        if row in WITH_COUNTS:
            return self._ranked_with_counts(row, models)
        if row in WITH_OWN_COUNTS:
            return self._ranked_with_own(models, private=row in PRIVATE_ROWS)
        if row == "private_statistics":
            return replace(self._ranked(models, None), attributes={})
        one = None if row == "local_only" else next(iter(models.values())).parameters
        return self._ranked(models, one)

    def _models(self, row: RowName, beside: int) -> dict[str, Trained]:
        """The model that each partner has in a row."""
        if row == "local_only":
            return self._local_only(beside)
        if row == "pooled":
            trained = self._train("pooled", [self.world.pooled()], None, self._one_worker())
        elif row == "private_statistics":
            trained = self._statistics_alone()
        else:
            budget = self.budget if row == "federated_private" else None
            trained = self._train(row, self.world.partners, budget, self.machine)
            if trained.figures:
                self.folder.write_json("analytics.json", analytics_document(trained.figures, self.world))
        return {partner.name: trained for partner in self.world.partners}

    def _statistics_alone(self) -> Trained:
        """The prior with nothing trained, where the whole budget is the statistics'."""
        plan = statistics_alone(self.plan)
        name = "private_statistics"
        trained = self._train(name, self.world.partners, budget_of(plan), self.machine, plan)
        layout = Layout.of(new_encoder(plan, self.world.vocabulary, torch.device("cpu")))
        model = trained.parameters.clone()
        model[: layout.size] = 0.0  # an encoder of zeros adds nothing to the prior's scores
        return replace(trained, parameters=model)

    def _local_only(self, beside: int) -> dict[str, Trained]:
        workers = max(1, self.machine.workers // beside)

        def train(partner: PartnerData) -> Trained:
            return self._train(f"local_only/{partner.name}", [partner], None, self._one_worker())

        with ThreadPoolExecutor(workers) as pool:
            models = list(pool.map(train, self.world.partners))
        return {partner.name: model for partner, model in zip(self.world.partners, models, strict=True)}

    def _one_worker(self) -> Machine:
        return replace(self.machine, backend="process", workers=1)

    def _train(
        self,
        name: str,
        partners: Sequence[PartnerData],
        budget: Budget | None,
        machine: Machine,
        plan: Plan | None = None,
    ) -> Trained:
        plan = plan or self.plan
        self._go_on()
        folder = self.folder.training(name)
        folder.mkdir(parents=True, exist_ok=True)
        schedule = plan.privacy if budget is not None else plan.training
        self.progress.begin(name, _label(name), schedule.rounds)
        try:
            return train_together(
                plan,
                self.world,
                partners,
                name=name,
                budget=budget,
                folder=folder,
                records=self.folder.secure(name),
                machine=machine,
                on_round=self._watch(name, partners, schedule.rounds),
            )
        finally:
            self.progress.end(name)

    def _go_on(self) -> None:
        if self.stopped.is_set():
            raise UnavailableError("stopped with the trainings beside it; resume the run")

    def _watch(self, name: str, partners: Sequence[PartnerData], rounds: int) -> Callable[[RoundRecord, Tensor], None]:
        """Note every round, with exact metrics every few rounds; no deployment would see these."""
        log = self.folder.training(name) / "rounds.jsonl"

        def on_round(record: RoundRecord, parameters: Tensor) -> None:
            self._go_on()
            line: dict[str, object] = {**vars(record), "hr_at_10": None, "ndcg_at_10": None}
            if record.round % self.plan.evaluation.every_rounds == 0 or record.round == rounds:
                encoder = load_encoder(self.plan, self.world.vocabulary, parameters, self.machine.device)
                ranks = [rank_quickly(encoder, p, self.machine.device) for p in partners]
                line["hr_at_10"], line["ndcg_at_10"] = mean_figures(partners, ranks)
            with log.open("a", encoding="utf-8") as file:
                # A line that a kill or a full disk cut off ends here, and spoils no other.
                file.write("\n" + json.dumps(line) + "\n")
            found = line["ndcg_at_10"]
            self.progress.advance(name, record.round, float(found) if isinstance(found, float) else None)

        return on_round

    def _encoders(self, models: dict[str, Trained]) -> Iterator[tuple[PartnerData, ProfileEncoder]]:
        """Each partner with the model that it has."""
        for partner in self.world.partners:
            parameters = models[partner.name].parameters
            yield partner, load_encoder(self.plan, self.world.vocabulary, parameters, self.machine.device)

    def _ranked(self, models: dict[str, Trained], parameters: Tensor | None) -> RowResult:
        rankings: dict[str, Ranking] = {}
        attributes: dict[str, tuple[Tensor, ...]] = {}
        for partner, encoder in self._encoders(models):
            answer: ModelRanking = rank_model(encoder, partner, self.machine.device)
            rankings[partner.name] = answer.ranking
            attributes[partner.name] = answer.attributes
        return RowResult(rankings, attributes, parameters)

    def _ranked_with_counts(self, row: RowName, models: dict[str, Trained]) -> RowResult:
        """A row's models with transition counts: of each partner's own people where it is alone, else of all."""
        items, weight = len(self.world.catalogue.items), self.plan.evaluation.counts_weight
        everybody = None if row == "local_only_with_counts" else counts_of(self.world.partners, items)
        rankings: dict[str, Ranking] = {}
        for partner, encoder in self._encoders(models):
            counts = everybody or counts_of([partner], items)
            rankings[partner.name] = rank_with_counts(encoder, partner, counts, weight, self.machine.device)
        return RowResult(rankings, {}, None)

    def _ranked_with_own(self, models: dict[str, Trained], *, private: bool) -> RowResult:
        """A row's models, each with what its partner counted of its own people."""
        device = self.machine.device
        rankings: dict[str, Ranking] = {}
        for partner, encoder in self._encoders(models):
            own = learn_transitions(encoder, partner.known.to(device), private=private)
            believed = (1.0, 0.0) if own is None else (own.scale, own.weight)
            self.progress.say(f"{partner.name}: model {believed[0]:.2g}, own counts {believed[1]:.2g}")
            rankings[partner.name] = rank_model(encoder, partner, device, own).ranking
        return RowResult(rankings, {}, None)

    def _model_row(self) -> RowName | None:
        """The row whose model the partners would use: the private one wherever there is privacy."""
        for row in ("federated_private", "federated", "pooled"):
            if row in self.rows:
                return row
        return None

    def _model_parameters(self, results: dict[RowName, RowResult]) -> Tensor | None:
        row = self._model_row()
        return None if row is None else results[row].parameters

    def _rounds(self) -> list[dict[str, object]]:
        lines: list[dict[str, object]] = []
        rows = dict.fromkeys(_ADDED_TO.get(row, row) for row in self.rows if row not in _BASELINES)
        names: list[str] = [row for row in rows if row != "local_only"]
        if "local_only" in rows:
            names += [f"local_only/{partner.name}" for partner in self.world.partners]
        for name in names:
            by_round: dict[int, dict[str, object]] = {}
            log = self.folder.training(name) / "rounds.jsonl"
            if log.exists():
                for text in log.read_text(encoding="utf-8").splitlines():
                    try:
                        line = json.loads(text)
                    except json.JSONDecodeError:
                        continue  # empty, or cut off by a kill; that round was run and noted again
                    by_round[line["round"]] = line
            lines += [{"row": name, **by_round[number]} for number in sorted(by_round)]
        return lines

    def _write_run(self, state: str, seconds: float, row_seconds: dict[str, float]) -> None:
        self.folder.write_json(
            "run.json",
            {
                "name": self.plan.name,
                "digest": self.plan.digest,
                "family": self.plan.family_digest,
                "seed": self.plan.seed,
                "state": state,
                "seconds": round(seconds, 1),
                "row_seconds": {row: round(value, 1) for row, value in row_seconds.items()},
                "written": datetime.now(UTC).isoformat(timespec="seconds"),
                "device": str(self.machine.device),
                "backend": self.machine.backend,
                "workers": self.machine.workers,
                "cores": os.cpu_count(),
                "versions": {
                    "python": platform.python_version(),
                    **{package: version(package) for package in ("torch", "flwr", "opacus", "silhouette-simulations")},
                },
                "dataset": self.world.dataset,
                "dataset_digest": self.world.dataset_digest,
                "target": self.plan.evaluation.target,
                "users": self.world.people,
                "items": len(self.world.catalogue.items),
                "events": self.world.events,
                "partners": {partner.name: len(partner) for partner in self.world.partners},
                "note": self.plan.note,
            },
        )


def _label(name: str) -> str:
    row, _, partner = name.partition("/")
    label = LABELS[row]  # type: ignore[index]
    return f"{label}: {partner}" if partner else label


def _to_tensors(result: RowResult) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for partner, ranking in result.rankings.items():
        tensors[f"ranks/{partner}"] = ranking.ranks.contiguous()
        tensors[f"top/{partner}"] = ranking.top.contiguous()
    for partner, parts in result.attributes.items():
        for column, part in enumerate(parts):
            tensors[f"attributes/{partner}/{column}"] = part.contiguous()
    if result.parameters is not None:
        tensors["parameters"] = result.parameters.contiguous()
    return tensors


def _from_tensors(tensors: dict[str, Tensor]) -> RowResult:
    partners = sorted(name.partition("/")[2] for name in tensors if name.startswith("ranks/"))
    attributes: dict[str, tuple[Tensor, ...]] = {}
    for partner in partners:
        count = sum(name.startswith(f"attributes/{partner}/") for name in tensors)
        if count:
            attributes[partner] = tuple(tensors[f"attributes/{partner}/{column}"] for column in range(count))
    return RowResult(
        rankings={
            partner: Ranking(ranks=tensors[f"ranks/{partner}"], top=tensors[f"top/{partner}"]) for partner in partners
        },
        attributes=attributes,
        parameters=tensors.get("parameters"),
    )


def check_fits(plan: Plan, dataset: Dataset) -> None:
    """Refuse a plan that the data cannot carry, before anything is written.

    Raises:
        UsageError: If people have too few events, or the partition asks for what the data do not have.
    """
    build_world(plan, dataset)
    if not rows_of(plan):
        raise UsageError("evaluation.rows: expected a row besides federated_private in mode none")
    budget_of(plan)


def estimated_bytes(plan: Plan, dataset: Dataset) -> int:
    """What a run writes, roughly and rather too much: people's tensors for each training, checkpoints, tables."""
    width = plan.model.width
    parameters = (len(dataset.catalogue.items) + 400 + 30 * width) * width
    histories = 40 * len(dataset.events)
    profiles = len(dataset.users) * (width * 8 + 4096)
    trainings = 3 + 1
    return 2 * (trainings * (histories + 16 * parameters) + profiles) + 10_000_000
