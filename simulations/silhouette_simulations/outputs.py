"""What a finished run leaves behind: tables, the global model, and for each partner what would stay at it."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from typing import cast

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from silhouette_client.profiles.build import ProfileBatch, build_profiles
from silhouette_client.profiles.details import Words, records_of
from silhouette_client.profiles.heads import in_words, learn_heads
from silhouette_client.profiles.record import encode_field
from silhouette_client.profiles.tastes import learn_tastes
from silhouette_shared.config import Plan, RowName, plan_document
from silhouette_shared.files import write_atomically
from silhouette_shared.model.appraisal import Sheet
from silhouette_shared.model.encoder import ProfileEncoder
from silhouette_shared.model.figures import CUTOFF as FIGURE_CUTOFF
from silhouette_shared.model.figures import FIGURES, Released, mean_of
from silhouette_shared.model.histories import Histories
from silhouette_shared.model.pairs import pair_count
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.accounting import curve, epsilons
from silhouette_shared.privacy.audit.result import for_statement, verify
from silhouette_shared.privacy.budget import Budget, released, shares_of
from silhouette_shared.privacy.mechanism import SampledGaussian
from silhouette_shared.privacy.statement import Audit, Facts, Release, privacy_statement
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.models import load_encoder
from silhouette_simulations.rows import (
    CUTOFF,
    Ranking,
    popularity_shares,
    summarise,
    summarise_attributes,
)
from silhouette_simulations.run_folder import (
    ATTRIBUTE_COLUMNS,
    AUDIT_FILE,
    PARTNER_COLUMNS,
    ROUND_COLUMNS,
    ROW_COLUMNS,
    SECURE_COLUMNS,
    RunFolder,
)
from silhouette_simulations.world import PartnerData, World

_RECENT_EVENTS = 10

NOISE_WARNING = (
    "The noise and the sampling of this run are pseudo-random and reproducible from the plan's seed, not "
    "cryptographic: fit for a simulation on public data, not for real people."
)
EVALUATION_NOTE = (
    "The metrics are exact and were computed by the simulation, which sees everything. They are not released by "
    "any partner and not covered by epsilon; a deployment would not see them. Choosing settings by them is not "
    "covered either."
)


def write_outputs(
    plan: Plan,
    world: World,
    folder: RunFolder,
    *,
    rankings: Mapping[RowName, dict[str, Ranking]],
    attributes: Mapping[RowName, dict[str, tuple[Tensor, ...]]],
    model_row: RowName | None,
    parameters: Tensor | None,
    budget: Budget | None,
    rounds: Sequence[Mapping[str, object]],
    device: torch.device,
) -> None:
    """Write everything but `run.json`.

    Args:
        plan: Of the run.
        world: The partners and the catalogue.
        folder: Where to.
        rankings: By row and partner.
        attributes: Probabilities of the attribute heads by row and partner; empty for counting methods.
        model_row: The row whose model the partners use.
        parameters: That model, (D,) or with a prior (D + P,).
        budget: Of the private training, None in mode `none`.
        rounds: One record a round of each training.
        device: Where profiles are computed.
    """
    shares = popularity_shares(world)
    lines, partner_lines = [], []
    for row, by_partner in rankings.items():
        line, per_partner = summarise(row, by_partner, world, shares)
        lines.append(line)
        partner_lines += per_partner
    folder.write_csv("rows.csv", ROW_COLUMNS, lines)
    folder.write_csv("partners.csv", PARTNER_COLUMNS, partner_lines)
    folder.write_parquet("ranks.parquet", _ranks_table(rankings, world))
    folder.write_csv(
        "attributes.csv",
        ATTRIBUTE_COLUMNS,
        [
            {"row": row, **vars(score)}
            for row, guesses in attributes.items()
            if guesses
            for score in summarise_attributes(guesses, world)
        ],
    )
    if budget is not None:
        budget = released_budget(plan, world, budget)
    privacy = privacy_document(plan, world, budget)
    folder.write_json("privacy.json", privacy)
    statement = privacy_statement(statement_facts(plan, budget, audit_of(folder)))
    folder.write_json("privacy-statement.json", statement.document)
    folder.write_text("privacy-statement.md", statement.markdown)
    folder.write_csv("rounds.csv", ROUND_COLUMNS, _with_epsilon(rounds, privacy))
    if plan.aggregation.protocol == "sa-1":
        folder.write_csv("secure-steps.csv", SECURE_COLUMNS, _secure_steps(rounds))
    if model_row is not None and parameters is not None:
        encoder = load_encoder(plan, world.vocabulary, parameters, device)
        _write_model(plan, world, folder, encoder, parameters, model_row, privacy)
        for partner in world.partners:
            _write_partner(world, folder, encoder, partner, device, plan.seed)


def privacy_document(plan: Plan, world: World, budget: Budget | None) -> dict[str, object]:
    """What `privacy.json` says: the mechanisms, and epsilon by every accountant."""
    if budget is None:
        return {
            "mode": "none",
            "unit": "none",
            "warning": "No privacy: a simulation on public data only. A partner's policy refuses this mode.",
            "evaluation": EVALUATION_NOTE,
        }
    accountants = epsilons(budget.spending, plan.privacy.delta)
    training = budget.training
    common: dict[str, object] = {
        "epsilon": accountants["pld"],
        "delta": plan.privacy.delta,
        "noise_multiplier": None if training is None else training.noise_multiplier,
        "sampling_rate": None if training is None else training.sampling_rate,
        "steps": 0 if training is None else training.steps,
        "accountant": "pld",
    }
    return {
        "mode": plan.privacy.mode,
        "unit": "one person's whole record at a partner",
        "neighbours": "data sets that differ by adding or removing one person",
        **common,
        "clip_norm": None if training is None else training.clip_norm,
        "accountants": accountants,
        "statistics": {
            name: None if part is None else {"noise_multiplier": part.noise_multiplier, "clip_norm": part.clip_norm}
            for name, part in (
                ("popularity", budget.popularity),
                ("transitions", budget.transitions),
                *budget.figures.items(),
            )
        },
        "partners": {p.name: {**common, "people": len(p)} for p in world.partners},
        "curve": _curve(plan, budget),
        "trust": _trust(plan),
        "warning": NOISE_WARNING,
        "evaluation": EVALUATION_NOTE,
    }


def _trust(plan: Plan) -> str:
    if plan.privacy.mode != "distributed":
        return "every partner adds all the noise that its own people need; nobody outside the partner is trusted"
    return (
        f"every partner adds a share of the noise, which is whole in the sum over {shares_of(plan)} honest partners; "
        "secure aggregation and that many partners are trusted"
    )


def _curve(plan: Plan, budget: Budget) -> list[dict[str, float]]:
    """Epsilon after the rounds of the training, what the statistics took before included; none without rounds."""
    training = budget.training
    if training is None:
        return []
    points = sorted({max(1, round(plan.privacy.rounds * i / 50)) for i in range(1, 51)})
    steps = [point * plan.privacy.local_steps for point in points]
    spent = curve(training, plan.privacy.delta, steps, beside=budget.statistics)
    return [{"round": point, "epsilon": value} for point, (_, value) in zip(points, spent, strict=True)]


def released_budget(plan: Plan, world: World, budget: Budget) -> Budget:
    """The budget as it is charged: each mechanism on the integer grid of what it releases."""
    items = len(world.catalogue.items)
    sizes = {
        "popularity": items + 1,
        "transitions": pair_count(min(plan.active_items, items)),
        "training": Layout.of(ProfileEncoder(plan.model, world.vocabulary, plan.data.history_length)).size,
    }
    sizes |= {name: len(figure.cells(world.vocabulary)) for name, figure in FIGURES.items()}
    sizes["evaluation"] = Sheet(tuple(partner.name for partner in world.partners)).size
    parts: dict[str, SampledGaussian | None] = dict.fromkeys(("popularity", "transitions", "training"))
    for name, part in budget.parts.items():
        if sizes[name]:  # a figure without cells, as of attributes where there are none, is not released
            parts[name] = released(plan, part, sizes[name])
    return Budget(**parts)


def audit_of(folder: RunFolder) -> Audit | None:
    """What the audit found that the run was started with; None if it was started without one.

    Raises:
        IntegrityError: If the copy of its result in the folder is damaged.
    """
    text = folder.read_text(AUDIT_FILE)
    return None if text is None else for_statement(verify(text), text)


def analytics_document(figures: Mapping[str, Released], world: World) -> dict[str, object]:
    """What `analytics.json` says: every figure that was released, as anybody may see it."""
    return {
        "note": "Sums over all partners with the noise that each of them charged; a negative count is noise.",
        "figures": [_figure(figure, world) for figure in figures.values()],
    }


def _figure(figure: Released, world: World) -> dict[str, object]:
    document: dict[str, object] = {
        "name": figure.name,
        "partners": figure.partners,
        "cells": [{**vars(cell), "name": _cell_name(figure.name, cell.name, world)} for cell in figure.cells],
    }
    if figure.quantiles:
        document["quantiles"] = [vars(quantile) for quantile in figure.quantiles]
    if figure.name == "evaluation":
        for cell, name in (("hits", f"hr_at_{FIGURE_CUTOFF}"), ("ndcg", f"ndcg_at_{FIGURE_CUTOFF}")):
            found = mean_of(figure, cell)
            document[name] = None if found is None else {"value": found[0], "noise": found[1]}
    return document


def _cell_name(figure: str, cell: str, world: World) -> str:
    """A class by its word instead of its number."""
    attribute, _, number = cell.partition("/")
    if figure != "attributes":
        return cell
    return f"{attribute}: {('not declared', *world.attribute_classes[attribute])[int(number)]}"


def statement_facts(plan: Plan, budget: Budget | None, audit: Audit | None = None) -> Facts:
    """What the privacy statement of a simulated run rests on."""
    mechanisms = {} if budget is None else budget.parts
    return Facts(
        run=plan.name,
        plan_digest=plan.digest,
        software=f"silhouette-simulations {version('silhouette-simulations')}",
        mode=plan.privacy.mode,
        releases=tuple(Release(name, mechanism) for name, mechanism in mechanisms.items()),
        delta=plan.privacy.delta,
        partners=plan.partition.partners,
        steps_a_round=plan.privacy.local_steps,
        simulation=True,
        secure_noise=False,
        secure_aggregation=plan.aggregation.protocol == "sa-1",
        audit=audit,
        beside=(EVALUATION_NOTE,),
    )


def _with_epsilon(rounds: Sequence[Mapping[str, object]], privacy: Mapping[str, object]) -> list[dict[str, object]]:
    spent: dict[int, float] = {
        point["round"]: point["epsilon"]
        for point in privacy.get("curve", [])  # type: ignore[attr-defined]
    }
    return [
        {
            **line,
            "epsilon": spent.get(int(str(line["round"]))) if line["row"] == "federated_private" else None,
        }
        for line in rounds
    ]


def _secure_steps(rounds: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    return [
        {"row": line["row"], "round": line["round"], "survivors": line["replies"], **step}
        for line in rounds
        for step in cast("Sequence[Mapping[str, object]]", line.get("steps") or ())
    ]


def _ranks_table(rankings: Mapping[RowName, dict[str, Ranking]], world: World) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "row": row,
                "partner": partner.name,
                "user": [partner.users[person] for person in partner.asked.tolist()],
                "rank": by_partner[partner.name].ranks.numpy(),
            }
        )
        for row, by_partner in rankings.items()
        for partner in world.partners
    ]
    return pd.concat(parts, ignore_index=True)


def _write_model(
    plan: Plan,
    world: World,
    folder: RunFolder,
    encoder: ProfileEncoder,
    parameters: Tensor,
    row: RowName,
    privacy: Mapping[str, object],
) -> None:
    layout = Layout.of(encoder)
    tensors = {name: part.contiguous() for name, part in layout.split(parameters[: layout.size]).items()}
    if len(parameters) > layout.size:
        tensors["prior"] = parameters[layout.size :].contiguous()
    content = save(tensors)
    path = folder.path / "model" / "global.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    folder.write_json(
        "model/card.json",
        {
            "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "trained_as": row,
            "plan": plan_document(plan),
            "plan_digest": plan.digest,
            "layout_digest": layout.digest,
            "parameters": layout.size,
            "prior": encoder.prior_size,
            "dimensions": list(encoder.dimension_names),
            "attributes": {name: list(c) for name, c in world.attribute_classes.items()},
            "dataset": world.dataset,
            "dataset_digest": world.dataset_digest,
            "catalogue_digest": world.catalogue.digest(),
            "partners": {partner.name: len(partner) for partner in world.partners},
            "privacy": {key: privacy[key] for key in privacy if key != "curve"}
            if row == "federated_private"
            else {"mode": "none"},
        },
    )


def _write_partner(
    world: World,
    folder: RunFolder,
    encoder: ProfileEncoder,
    partner: PartnerData,
    device: torch.device,
    seed: int,
) -> None:
    known = partner.known.to(device)
    catalogue = world.catalogue
    words = Words(catalogue.items, catalogue.titles, catalogue.categories, dict(world.attribute_classes))
    profiles, recommendations, details = [], [], []
    for batch in build_profiles(encoder, known, cutoff=CUTOFF):
        profiles.append(_profile_rows(world, encoder, partner, batch))
        recommendations.append(_recommendation_rows(world, partner, batch))
        for person, record in zip(batch.people.tolist(), records_of(encoder, known, batch, words, "run"), strict=True):
            parts = {name: encode_field(record, name).decode("utf-8") for name in ("facts", "evidence", "items")}
            details.append({"user": partner.users[person], **parts})
    where = f"partners/{partner.name}"
    scores = pd.DataFrame(_score_columns(encoder, known, partner.name, seed), index=range(len(partner)))
    rows = pd.concat([pd.concat(profiles, ignore_index=True), scores], axis=1)
    tastes = learn_tastes(known, len(catalogue.items), seed)
    if tastes is not None:
        rows["tastes"] = list(tastes(known))
    folder.write_parquet(f"{where}/profiles.parquet", rows)
    folder.write_parquet(f"{where}/recommendations.parquet", pd.concat(recommendations, ignore_index=True))
    folder.write_parquet(f"{where}/details.parquet", pd.DataFrame(details))
    folder.write_parquet(f"{where}/recent.parquet", _recent_rows(world, partner))


def _score_columns(encoder: ProfileEncoder, known: Histories, partner: str, seed: int) -> dict[str, list[object]]:
    """Conversion, churn and risk as the partner learns them from its own people; none where there are no times."""
    if not known.has_times:
        return {}
    draw = ReproducibleSource(seed).child("heads", partner).torch_generator(known.items.device)
    until = int(known.timestamps.max()) + 1
    heads = learn_heads(encoder, known, until, draw)
    columns: dict[str, list[object]] = {}
    for name, (words, confidence) in in_words(heads.scores(encoder, known, until)).items():
        columns |= {name: list(words), f"{name}_confidence": list(confidence)}
    return columns


def _profile_rows(world: World, encoder: ProfileEncoder, partner: PartnerData, batch: ProfileBatch) -> pd.DataFrame:
    people = batch.people.tolist()
    columns: dict[str, object] = {
        "user": [partner.users[row] for row in people],
        "events": partner.known.lengths[batch.people.cpu()].numpy(),
    }
    for number, name in enumerate(encoder.dimension_names):
        columns[f"weight_{name}"] = batch.weights[:, number].cpu().numpy()
    for (name, classes), chances in zip(world.attribute_classes.items(), batch.attributes, strict=True):
        confidence, guess = chances.cpu().max(1)
        columns[name] = [classes[index] for index in guess.tolist()]
        columns[f"{name}_confidence"] = confidence.numpy()
    names = world.catalogue.categories
    columns["tags"] = [[names[tag] for tag in row if tag >= 0] for row in batch.tags.tolist()]
    columns["vector"] = list(batch.vectors.cpu().numpy())
    return pd.DataFrame(columns)


def _recommendation_rows(world: World, partner: PartnerData, batch: ProfileBatch) -> pd.DataFrame:
    scores = batch.scores.gather(1, batch.recommended).cpu()
    lines = [
        {
            "user": partner.users[person],
            "position": position + 1,
            "item": world.catalogue.items[number - 1],
            "title": world.catalogue.titles[number - 1],
            "score": score,
        }
        for person, numbers, row in zip(batch.people.tolist(), batch.recommended.tolist(), scores.tolist(), strict=True)
        for position, (number, score) in enumerate(zip(numbers, row, strict=True))
    ]
    return pd.DataFrame(lines)


def _recent_rows(world: World, partner: PartnerData) -> pd.DataFrame:
    known = partner.known
    lines = []
    offsets = known.offsets.tolist()
    for person, (start, end) in enumerate(pairwise(offsets)):
        for position, index in enumerate(range(end - 1, max(start, end - _RECENT_EVENTS) - 1, -1)):
            number = int(known.items[index])
            lines.append(
                {
                    "user": partner.users[person],
                    "position": position + 1,
                    "item": world.catalogue.items[number - 1],
                    "title": world.catalogue.titles[number - 1],
                    "timestamp": int(known.timestamps[index]),
                }
            )
    return pd.DataFrame(lines)
