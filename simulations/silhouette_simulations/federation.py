"""What federating costs each partner: federated against pooled and local only, person by person, with the bytes.

The rows may stand in several runs over the same people: pooled training does not depend on how people are dealt.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from silhouette_shared.config import Plan, read_plan
from silhouette_shared.errors import UsageError
from silhouette_shared.model.evaluation import Interval, paired_bootstrap
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.report.reading import Header, Ranks, read_header, read_ranks
from silhouette_simulations.studies.bench import StudyTable

_BYTES_A_PARAMETER = 4


def federation(
    federated: Path,
    pooled: Path,
    local: Path | None = None,
    counts_traffic: Mapping[str, tuple[int, int]] | None = None,
) -> StudyTable:
    """A line for everybody and one for each partner.

    Args:
        federated: A finished run with the row federated; its partners are the lines.
        pooled: A finished run with the row pooled, over the same people.
        local: A finished run with the row local_only, of the same partition; None leaves it out.
        counts_traffic: Compares the rows with transition counts; the bytes of these down to and up from each partner.
            None compares the models alone.

    Raises:
        UsageError: If a run has no such row, is not finished, or is over other data, people or partners.
        IntegrityError: If a file is damaged.
    """
    header, plan = _finished(federated)
    counted = "" if counts_traffic is None else "_with_counts"
    own = _row(federated, plan, f"federated{counted}")
    _row(federated, plan, "federated")  # whose rounds and model the bytes are those of
    homes = _homes(federated)
    others = {"pooled": _like(pooled, header, plan, f"pooled{counted}", own)}
    if local is not None:
        others["local only"] = _like(local, header, plan, f"local_only{counted}", own)
        _refuse_other_partners(local, homes)
    gains = {"federated": own.gains()} | {name: ranks.gains() for name, ranks in others.items()}
    rounds, model = _traffic(federated)
    everybody = torch.arange(len(own.people))
    lines = [_line("everybody", everybody, gains, None)]
    for partner, _ in header.partners:
        rows = torch.tensor([row for row, user in enumerate(own.people) if homes[user] == partner])
        if len(rows):
            extra = (0, 0) if counts_traffic is None else counts_traffic[partner]
            lines.append(_line(partner, rows, gains, (model + extra[0], model + extra[1])))
    return StudyTable(
        title=f"What federating costs, {header.dataset}, {len(header.partners)} partners ({plan.partition.scheme})"
        + (f", with transition counts, weight {plan.evaluation.counts_weight:g}" if counted else ""),
        columns=tuple(lines[0]),
        rows=tuple(lines),
        notes=(
            "NDCG@10; intervals are paired bootstraps over people, 95 %",
            f"bytes of a partner in the whole run, {rounds} rounds: the model down and the update up, "
            "4 bytes a parameter, without the envelopes"
            + ("; and the counts once, 8 bytes for each two items that anybody had in that order" if counted else ""),
        ),
    )


def _line(name: str, rows: Tensor, gains: Mapping[str, Tensor], traffic: tuple[int, int] | None) -> dict[str, object]:
    mean = {row: float(values[rows].mean()) for row, values in gains.items()}
    line: dict[str, object] = {"partner": name, "people": len(rows)}
    line |= {row: mean[row] for row in ("local only", "federated", "pooled") if row in mean}
    line["of pooled"] = mean["federated"] / mean["pooled"] if mean["pooled"] else None
    for other in ("pooled", "local only"):
        if other in gains:
            line[f"less {other}"] = _difference(gains["federated"][rows], gains[other][rows], name, other)
    line["bytes down"], line["bytes up"] = traffic or (None, None)
    return line


def _difference(left: Tensor, right: Tensor, *path: str) -> Interval:
    draw = ReproducibleSource(0).child("federation", *path).torch_generator()
    return paired_bootstrap(left, right, generator=draw)


def _finished(folder: Path) -> tuple[Header, Plan]:
    header, plan = read_header(folder), read_plan(folder / "plan.toml")
    if not header.complete:
        raise UsageError(
            f"{folder}: expected a complete run, got an unfinished one; go on with it by `silhouette sim run --resume`"
        )
    return header, plan


def _row(folder: Path, plan: Plan, row: str) -> Ranks:
    found = read_ranks(folder, once=plan.evaluation.split != "random")
    if row not in found:
        raise UsageError(f"{folder}: expected a run with the row {row}, got {', '.join(found) or 'none'}; name another")
    return found[row]


def _like(folder: Path, header: Header, plan: Plan, row: str, own: Ranks) -> Ranks:
    """The row of another run, which has to be over the same data, target and people."""
    other, its_plan = _finished(folder)
    ranks = _row(folder, its_plan, row)
    for what, expected, got in (
        ("data set", header.dataset_digest, other.dataset_digest),
        ("evaluation", _asked(plan), _asked(its_plan)),
        ("events", plan.data.behaviours, its_plan.data.behaviours),
        ("weight of the counts", _weight(plan, row), _weight(its_plan, row)),
        ("people", own.people, ranks.people),
    ):
        if expected != got:
            raise UsageError(f"{folder}: expected the {what} of the federated run, got another; name a run like it")
    return ranks


def _asked(plan: Plan) -> tuple[str, str, float, int | None]:
    """What says which events are asked for; the split `random` draws them from the seed."""
    asked = plan.evaluation
    return asked.target, asked.split, asked.held_out_share, plan.seed if asked.split == "random" else None


def _weight(plan: Plan, row: str) -> float | None:
    """Of the transition counts in a row; None in one without."""
    return plan.evaluation.counts_weight if row.endswith("_with_counts") else None


def _homes(folder: Path) -> dict[str, str]:
    """Partner of each person."""
    table = pq.read_table(folder / "ranks.parquet", columns=["partner", "user"])
    return dict(
        zip((str(user) for user in table.column("user").to_pylist()), table.column("partner").to_pylist(), strict=True)
    )


def _refuse_other_partners(folder: Path, homes: Mapping[str, str]) -> None:
    if _homes(folder) != homes:
        raise UsageError(
            f"{folder}: expected the partners of the federated run, got others; use the same [partition] and seed"
        )


def _traffic(folder: Path) -> tuple[int, int]:
    """Rounds that were run, and the bytes that a partner receives in all of them, and as many that it sends."""
    parameters = int(json.loads((folder / "model" / "card.json").read_text(encoding="utf-8"))["parameters"])
    with (folder / "rounds.csv").open(encoding="utf-8", newline="") as file:
        rounds = [line["row"] for line in csv.DictReader(file)].count("federated")
    return rounds, rounds * parameters * _BYTES_A_PARAMETER
