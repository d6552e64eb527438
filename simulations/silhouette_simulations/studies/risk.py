"""Does the risk score find histories that nobody has by living? Fifty are planted among real ones."""

from collections.abc import Callable
from typing import Final

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from silhouette_client.profiles.risk import fit_risk, risk_features
from silhouette_shared.model.histories import Histories
from silhouette_shared.randomness import ReproducibleSource
from silhouette_simulations.studies.bench import Bench, StudyTable, alone, whole_histories
from silhouette_simulations.world import build_world, concatenate

PLANTED: Final = 50
COLUMNS = ("planted", "people", "AUC")
_HOUR, _DAY = 3_600, 86_400


def _robot(items: Tensor, times: Tensor, catalogue: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sixty items drawn evenly, one every sixty seconds."""
    return _any_items(60, catalogue, draw), times[0] + 60 * torch.arange(60)


def _scraper(items: Tensor, times: Tensor, catalogue: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two hundred items drawn evenly, at random seconds of one hour."""
    return _any_items(200, catalogue, draw), times[0] + _whole(0, _HOUR, 200, draw).sort().values


def _again(items: Tensor, times: Tensor, catalogue: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The person's own times, three times over, and one item at all of them."""
    moments = times.repeat_interleave(3) + _whole(0, 60, 3 * len(times), draw)
    return items[:1].expand(3 * len(items)), moments.sort().values


def _nightly(items: Tensor, times: Tensor, catalogue: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """As many events as the person has, items drawn evenly, all at one hour of the day, UTC."""
    days = times // _DAY * _DAY
    return _any_items(len(items), catalogue, draw), (days + 3 * _HOUR + _whole(0, 600, len(times), draw)).sort().values


def _bursts(items: Tensor, times: Tensor, catalogue: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ten bursts of five events in five seconds, on two items of the person in turn."""
    starts = times[0] + _whole(0, 5 * _DAY, 10, draw).sort().values
    pair = items[[0, -1]]
    return pair[torch.arange(50) % 2], (starts[:, None] + torch.arange(5)).flatten().sort().values


def _taken_over(items: Tensor, times: Tensor, catalogue: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The second half of the items drawn evenly, the times as they were: hardly to be told, and not among the fifty."""
    half = len(items) // 2
    return torch.cat([items[:half], _any_items(len(items) - half, catalogue, draw)]), times


_Kind = Callable[[Tensor, Tensor, int, torch.Generator], tuple[Tensor, Tensor]]
KINDS: Final[dict[str, _Kind]] = {
    "robot": _robot,
    "scraper": _scraper,
    "one item again and again": _again,
    "one hour of the night": _nightly,
    "bursts": _bursts,
}
"""How the fifty are made, ten of each kind, out of real people drawn at random."""


def risk(bench: Bench) -> StudyTable:
    """Plant, train on everybody, score everybody without a label, and rank the planted among the real people."""
    world = build_world(bench.plan, bench.dataset)
    real = whole_histories(bench, world).to(torch.device("cpu"))
    draw = ReproducibleSource(bench.plan.seed).child("study", "risk").torch_generator()
    each = PLANTED // len(KINDS)
    makers = [name for name in KINDS for _ in range(each)] + ["taken over"] * each
    victims = torch.randperm(len(real), generator=draw)[: len(makers)].tolist()
    made = [
        plant(
            real.to(torch.device("cpu")), row, {**KINDS, "taken over": _taken_over}[name], world.vocabulary.items, draw
        )
        for name, row in zip(makers, victims, strict=True)
    ]
    everybody = concatenate([real, *made])
    encoder = bench.train("risk", world, [alone(everybody)])
    features = risk_features(encoder, everybody.to(bench.machine.device))
    scores = fit_risk(features).distance(features).cpu()
    ordinary, planted = scores[: len(real)], scores[len(real) :]
    rows: list[dict[str, object]] = [
        {"planted": f"all {PLANTED}", "people": PLANTED, "AUC": _auc(planted[:PLANTED], ordinary)}
    ]
    for name in dict.fromkeys(makers):
        own = torch.tensor([one == name for one in makers])
        label = f"{name} (not among the {PLANTED})" if name not in KINDS else name
        rows.append({"planted": label, "people": int(own.sum()), "AUC": _auc(planted[own], ordinary)})
    return StudyTable(
        "planted odd histories",
        COLUMNS,
        tuple(rows),
        (f"against {len(real):,} real people, who may be odd themselves; the encoder was trained on all of them",),
    )


def plant(real: Histories, row: int, kind: _Kind, catalogue: int, draw: torch.Generator) -> Histories:
    """One odd history made out of a real one; behaviours and values are the real one's, repeated in turn."""
    a, b = real.offsets[row : row + 2].tolist()
    items, times = kind(real.items[a:b], real.timestamps[a:b], catalogue, draw)
    place = a + torch.arange(len(items)) % (b - a)
    return Histories(
        items=items,
        behaviours=real.behaviours[place],
        values=real.values[place],
        timestamps=times,
        offsets=torch.tensor([0, len(items)]),
        attributes=real.attributes[row : row + 1],
        has_times=real.has_times,
        texts=None if real.texts is None else torch.zeros(len(items), real.texts.shape[1]),
    )


def _auc(planted: Tensor, ordinary: Tensor) -> float:
    truth = torch.cat([torch.ones(len(planted)), torch.zeros(len(ordinary))])
    return float(roc_auc_score(truth.numpy(), torch.cat([planted, ordinary]).numpy()))


def _any_items(count: int, catalogue: int, draw: torch.Generator) -> Tensor:
    return _whole(1, catalogue + 1, count, draw)


def _whole(low: int, high: int, count: int, draw: torch.Generator) -> Tensor:
    return torch.randint(low, high, (count,), generator=draw)
