"""Fit RecTools' models on an exported split and write what each recommends; runs in the peers' environment.

python fit.py FOLDER ease sasrec --epochs 70

Reads `known.csv` (user, item, position in the person's history) and writes `<model>.csv` (user, item, rank from
0) with ten unseen items of the whole catalogue for everybody, and `<model>.json` with what was set and how long it
took.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel, SASRecModel

CUTOFF = 10
EASE = {"regularization": 500.0}
SASREC = {
    "n_factors": 64,
    "n_blocks": 2,
    "n_heads": 2,
    "dropout_rate": 0.2,
    "session_max_len": 200,
    "loss": "softmax",
    "lr": 1e-3,
    "batch_size": 64,
}


def main() -> None:
    """Fit what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", choices=("ease", "sasrec"))
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    known = pd.read_csv(asked.folder / "known.csv", dtype={"user": str})
    frame = pd.DataFrame(
        {
            Columns.User: known["user"],
            Columns.Item: known["item"],
            Columns.Weight: 1.0,
            # The place in a person's history stands in for the time, so that ties keep the order that everybody has.
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(known["position"], unit="s"),
        }
    )
    dataset = Dataset.construct(frame)
    users = known["user"].unique()
    for name in asked.models:
        settings = dict(EASE) if name == "ease" else {**SASREC, "epochs": asked.epochs}
        started = time.monotonic()
        if name == "ease":
            model = EASEModel(**settings)
        else:
            from pytorch_lightning import seed_everything

            seed_everything(asked.seed, workers=True)
            model = SASRecModel(**settings, deterministic=True, verbose=0)
        model.fit(dataset)
        found = model.recommend(users, dataset, k=CUTOFF, filter_viewed=True)
        seconds = time.monotonic() - started
        out = found[[Columns.User, Columns.Item, Columns.Rank]].set_axis(["user", "item", "rank"], axis=1)
        out["rank"] -= 1
        out.to_csv(asked.folder / f"{name}.csv", index=False)
        about = {"settings": settings, "seed": asked.seed, "seconds": round(seconds, 1)}
        (asked.folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        print(f"{name}: {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
