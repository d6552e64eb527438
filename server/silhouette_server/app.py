"""The Flower ServerApp of a training run.

Flower's own tooling loads `app`, which finds its job in the folder that the environment names.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from silhouette_server.coordination.federation import CheckedStrategy
from silhouette_server.coordination.job import Counting, Job, SecureJob
from silhouette_server.coordination.secure import Desk
from silhouette_shared.config import Plan, Replies
from silhouette_shared.errors import IntegrityError, UsageError
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary
from silhouette_shared.model.vector import Layout, read_vector
from silhouette_shared.privacy.budget import Budget
from silhouette_shared.privacy.grid import Grid as PrivacyGrid
from silhouette_shared.randomness import ReproducibleSource
from silhouette_shared.secagg import Identity
from silhouette_shared.wire.agreement import read_agreement

JOB_VARIABLE = "SILHOUETTE_JOB"
"""Environment variable with the folder of the job that this process coordinates."""


def make_server_app(job: Job, on_done: Callable[[CheckedStrategy], None] = lambda strategy: None) -> ServerApp:
    """A ServerApp that runs `job` once and hands the finished strategy to `on_done`."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = CheckedStrategy(job)
        strategy.start(grid)
        on_done(strategy)

    return server_app


def open_job(folder: Path) -> Job:
    """The job in a folder of plan, catalogue and terms; its checkpoint lies beside them, and one there goes on.

    Raises:
        UsageError: If a file is missing.
        IntegrityError: If a file is damaged.
    """
    agreement = read_agreement(folder, torch.device("cpu"))
    plan = agreement.plan
    encoder = ProfileEncoder(plan.model, agreement.vocabulary, plan.data.history_length)
    encoder.initialise(ReproducibleSource(plan.seed).child("initial model").torch_generator())
    layout = Layout.of(encoder)
    return Job(
        run=f"{plan.digest[:16]}/{agreement.seed_path[-1]}",
        plan_digest=plan.digest,
        layout=layout,
        schedule=plan.training if agreement.budget is None else plan.privacy,
        replies=plan.replies if len(agreement.partners) > 1 else Replies(),
        partners=len(agreement.partners),
        initial=read_vector(encoder, layout),
        counting=counting_of(plan, agreement.vocabulary, agreement.budget),
        secure=None
        if agreement.pins is None
        else secure_job(
            plan,
            agreement.vocabulary,
            agreement.budget,
            layout.size,
            Desk(_read_identity(folder), agreement.pins, folder / "secure"),
            max(agreement.declared_people.values()),
        ),
        training=None if agreement.budget is None else agreement.budget.training,
        checkpoint=folder / "checkpoint.safetensors",
    )


def _read_identity(folder: Path) -> Identity:
    path = folder / "coordinator.key"
    try:
        return Identity(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path}: expected the coordinator's signing key, found none; put it there") from None
    except ValueError:
        raise IntegrityError(f"{path}: expected a signing key of 32 bytes, got something else; restore it") from None


def counting_of(plan: Plan, vocabulary: Vocabulary, budget: Budget | None) -> Counting | None:
    """The statistics of a run; None if its budget has none."""
    if budget is None or budget.popularity is None:
        return None
    settings = replace(plan.statistics, active_items=plan.active_items)
    return Counting(settings=settings, budget=budget, content=vocabulary.content)


def secure_job(
    plan: Plan,
    vocabulary: Vocabulary,
    budget: Budget | None,
    size: int,
    desk: Desk,
    largest_partner: int,
) -> SecureJob:
    """Secure aggregation of a run.

    Args:
        plan: Of the run.
        vocabulary: The public catalogue.
        budget: What is spent on what; None without privacy.
        size: Parameters of the model.
        desk: Keys and records.
        largest_partner: Largest declared size.
    """
    training = None if budget is None else budget.training
    if training is not None:
        grid = PrivacyGrid.of(training.clip_norm, plan.privacy.grid_bits)
        training = training.after(plan.privacy.local_steps).on_grid(grid, size)
    return SecureJob(
        desk=desk,
        plan=plan,
        vocabulary=vocabulary,
        training=training,
        largest_partner=largest_partner,
        figures={} if budget is None else budget.figures,
    )


app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    """Run the job of this process to its end; the model is in its checkpoint."""
    folder = os.environ.get(JOB_VARIABLE)
    if not folder:
        raise UsageError(f"expected {JOB_VARIABLE} to name the folder of a job, got nothing")
    CheckedStrategy(open_job(Path(folder))).start(grid)
