"""Fit RecTools' models on an exported split and write what each recommends; runs in the peers' environment.

python fit.py FOLDER ease sasrec --epochs 70

Reads `known.csv` (user, item, position in the person's history) and writes `<model>.csv` (user, item, rank from
0) with ten unseen items of the whole catalogue for everybody, and `<model>.json` with what was set and how long it
took. SASRec keeps a checkpoint an epoch in the folder and goes on from it; the order of people after it is drawn anew.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel

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
        started = time.monotonic()
        if name == "ease":
            settings, before, stops = dict(EASE), 0.0, 0
            model = EASEModel(**EASE)
            model.fit(dataset)
        else:
            settings = {**SASREC, "epochs": asked.epochs}
            model, before, stops = fit_sasrec(dataset, asked.folder, asked.epochs, asked.seed)
        found = model.recommend(users, dataset, k=CUTOFF, filter_viewed=True)
        seconds = before + time.monotonic() - started
        out = found[[Columns.User, Columns.Item, Columns.Rank]].set_axis(["user", "item", "rank"], axis=1)
        out["rank"] -= 1
        out.to_csv(asked.folder / f"{name}.csv", index=False)
        about = {"settings": settings, "seed": asked.seed, "seconds": round(seconds, 1), "stops": stops}
        (asked.folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
        print(f"{name}: {seconds:.0f} s", file=sys.stderr)


def fit_sasrec(dataset: Dataset, folder: Path, epochs: int, seed: int) -> tuple[object, float, int]:
    """SASRec after so many epochs, from the checkpoint of `folder` if there is one.

    Returns:
        The model, the seconds of the epochs that were there already, and how often the training was gone on with.
    """
    import torch
    from pytorch_lightning import Callback, Trainer, seed_everything
    from pytorch_lightning.callbacks import ModelCheckpoint
    from rectools.models import SASRecModel

    kept, told = folder / f"sasrec-{seed}.ckpt", folder / f"sasrec-{seed}.epochs.json"
    done = torch.load(kept, map_location="cpu", weights_only=False)["epoch"] + 1 if kept.exists() else 0
    if done > epochs:
        sys.exit(
            f"{kept}: expected a training of at most {epochs} epochs, found one of {done}; ask for more or remove it"
        )
    was = json.loads(told.read_text(encoding="utf-8")) if done else {"seconds": 0.0, "stops": -1}
    stops = int(was["stops"]) + 1
    started = time.monotonic()

    class Progress(Callback):
        def on_train_epoch_end(self, trainer: Trainer, _model: object) -> None:
            seconds = float(was["seconds"]) + time.monotonic() - started
            told.write_text(json.dumps({"seconds": seconds, "stops": stops}), encoding="utf-8")
            print(f"sasrec: epoch {trainer.current_epoch + 1} of {epochs}, {seconds:.0f} s", file=sys.stderr)

    class GoingOn(Trainer):
        """RecTools calls `fit` without the checkpoint."""

        def fit(self, model: object, train: object, validation: object = None) -> None:
            super().fit(model, train, validation, ckpt_path=str(kept) if done else None)

    def trainer() -> Trainer:
        """As RecTools makes it, with a checkpoint an epoch."""
        every = ModelCheckpoint(folder, kept.stem, save_on_train_epoch_end=True, enable_version_counter=False)
        return GoingOn(
            max_epochs=epochs,
            min_epochs=epochs,
            deterministic=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            devices=1,
            callbacks=[Progress(), every],
        )

    # The same people in the same order again would be another training than one that never stopped: draw anew.
    seed_everything(seed + 1000 * stops, workers=True)
    model = SASRecModel(**SASREC, epochs=epochs, deterministic=True, verbose=0, get_trainer_func=trainer)
    model.fit(dataset)
    return model, float(was["seconds"]), stops


if __name__ == "__main__":
    main()
