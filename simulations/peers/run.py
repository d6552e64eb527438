"""RecTools' EASE and SASRec on the very split of a plan, by one command.

python simulations/peers/run.py simulations/experiments/ml-100k.toml --record simulations/experiments/results.jsonl

The plan's data are split as `silhouette sim run` splits them, and written to a folder. The peers are fitted there in an
environment of their own (`--environment`, made from `requirements.txt` if it is not there), and their recommendations
are ranked here by the same code as ours: full ranking, items seen before removed. Killed, the same command goes on
with the model it was at and, in SASRec, after its last whole epoch; a training of fewer epochs is gone on with, too.
"""

import argparse
import json
import subprocess
import sys
import venv
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch

from silhouette_shared.config import Plan, read_plan
from silhouette_shared.model.evaluation import mean_interval, person_figures
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations import datasets
from silhouette_simulations.results import Result, add_result, commit_of
from silhouette_simulations.rows import CUTOFF
from silhouette_simulations.world import World, build_world

HERE = Path(__file__).parent


def export(world: World, folder: Path) -> pd.DataFrame:
    """Write what is known, as `fit.py` reads it, and give what is asked for, columns user and item."""
    known, asked = [], []
    for partner in world.partners:
        items = partner.known.items.tolist()
        for user, (start, end) in zip(partner.users, pairwise(partner.known.offsets.tolist()), strict=True):
            known += [(user, item, place) for place, item in enumerate(items[start:end])]
        asked += [
            (partner.users[row], item)
            for row, item in zip(partner.asked.tolist(), partner.targets.tolist(), strict=True)
        ]
    pd.DataFrame(known, columns=["user", "item", "position"]).to_csv(folder / "known.csv", index=False)
    return pd.DataFrame(asked, columns=["user", "item"])


def ranks_of(asked: pd.DataFrame, recommended: pd.DataFrame) -> torch.Tensor:
    """Rank of each item asked for among those recommended to its person, the cutoff where it is not, (N,)."""
    place = recommended.set_index(["user", "item"])["rank"]
    found = place.reindex(pd.MultiIndex.from_frame(asked)).fillna(CUTOFF)
    return torch.from_numpy(found.to_numpy(dtype="int64", copy=True))


def figures_of(asked: pd.DataFrame, recommended: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Hits and gain of everybody who is asked for something, (U,) each: as for our rows, whatever the number asked."""
    # Of one person at a time, in the order of the table: a split may ask for several items of each.
    owner = torch.from_numpy(pd.factorize(asked["user"])[0].astype("int64"))
    return person_figures(ranks_of(asked, recommended), owner, CUTOFF)


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        requirements = str(HERE / "requirements.txt")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    return python


def measure(
    plan: Plan, home: Path, python: Path, models: list[str], epochs: int, folder: Path
) -> tuple[World, list[dict[str, object]]]:
    """Fit the peers in a folder, which keeps what they have reached, and give a line for each."""
    world = build_world(plan, datasets.load(plan.data.dataset, home=home))
    folder.mkdir(parents=True, exist_ok=True)
    asked = export(world, folder)
    lines: list[dict[str, object]] = []
    for name in models:
        command = [str(python), str(HERE / "fit.py"), str(folder), name, "--epochs", str(epochs)]
        subprocess.run([*command, "--seed", str(plan.seed)], check=True, stdout=sys.stderr)
        hits, gains = figures_of(asked, pd.read_csv(folder / f"{name}.csv", dtype={"user": str}))
        draw = ReproducibleSource(0).child("bootstrap", name).torch_generator()
        interval = mean_interval(gains, generator=draw)
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        lines.append(
            {
                "name": f"RecTools {name}",
                "hr_at_10": float(hits.mean()),
                "ndcg_at_10": float(gains.mean()),
                "ndcg_low": interval.low,
                "ndcg_high": interval.high,
                "users": len(gains),
                **about,
            }
        )
    return world, lines


def main() -> None:
    """Measure, print, and record if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--models", nargs="+", choices=("ease", "sasrec"), default=["ease", "sasrec"])
    parser.add_argument("--epochs", type=int, default=70, help="of SASRec")
    parser.add_argument("--environment", type=Path, default=Path("peers-environment"), help="made if not there")
    parser.add_argument("--home", type=Path, default=Path.home() / ".silhouette")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the split and checkpoints are kept")
    parser.add_argument("--record", type=Path, help="add the result to this file")
    asked = parser.parse_args()
    plan = read_plan(asked.plan)
    folder = asked.out / f"peers-{plan.name}-{plan.digest[:8]}"
    world, lines = measure(plan, asked.home, peers_python(asked.environment), asked.models, asked.epochs, folder)
    for line in lines:
        print(
            f"{line['name']:<18} HR@10 {line['hr_at_10']:.4f}  NDCG@10 {line['ndcg_at_10']:.4f} "
            f"({line['ndcg_low']:.4f} to {line['ndcg_high']:.4f})  {line['seconds']} s"
        )
    if asked.record is not None:
        result = Result(
            what=f"peers {' '.join(asked.models)} {asked.epochs}",
            plan=plan.name,
            plan_digest=plan.digest,
            seed=plan.seed,
            commit=commit_of(HERE),
            dataset_digest=world.dataset_digest,
            target=plan.evaluation.target,
            seconds=sum(float(str(line["seconds"])) for line in lines),
            values={"rows": lines},
        )
        add_result(asked.record, result)


if __name__ == "__main__":
    main()
