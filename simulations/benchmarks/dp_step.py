"""What a private step costs beside the same step without privacy, and beside Opacus.

    python simulations/benchmarks/dp_step.py
    python simulations/benchmarks/dp_step.py --quick

One step of the production encoder (two blocks) over a batch of full histories, from the batch on the device to changed
parameters. Engines:

    plain    without privacy, the ordinary way: scores of all items, `F.cross_entropy`, Adam as it comes
    fused    without privacy, the best way we know: the fused softmax that training uses, Adam with `fused=True`
    private  book-keeping, noise from `torch.normal`, Adam with `fused=True`
    secure   the same with noise from AES-CTR on the integer grid, drawn beside the step, as production does
             (both take their people in virtual batches as production does, at most 128 people and 256 MiB of scores,
             which give the same sum in less memory)
    hooks    Opacus' hooks, a gradient a person of every parameter, DPOptimizer
    ghost    Opacus' ghost clipping, on an encoder with a scoring table of its own: it refuses a shared one

Times are medians of steps that all engines take by turns in one process, forked for each cell. Peak extra memory is the
largest resident set of a process, forked for each engine, above what it was before the model and the batch were made.
All processes keep freed memory, as production does. A cell whose plain step is predicted to need more than 16 GiB is
left out for every engine, and so is a single engine that is.
"""

import argparse
import ctypes
import gc
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F

from silhouette_client.training.bookkeeping import Bookkeeping
from silhouette_client.training.private import people_at_once
from silhouette_shared.allocator import keep_freed_memory
from silhouette_shared.config import Model, Training
from silhouette_shared.model.encoder import ProfileEncoder, Vocabulary, at_last
from silhouette_shared.model.histories import UNKNOWN, Batch, Histories
from silhouette_shared.model.objective import draw_negatives, hide_attributes, person_losses
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.grid import Grid
from silhouette_shared.privacy.noise import drawn_beside, rounded_gaussian
from silhouette_shared.randomness import ReproducibleSource, SecureSource

ENGINES = ("plain", "fused", "private", "secure", "hooks", "ghost")
OURS = ENGINES[:4]
LIMIT = 16 * 2**30
PEOPLE_AT_ONCE = 128  # in the private engines, at most
CLIP_NORM, NOISE_MULTIPLIER, GRID_BITS = 1.0, 1.0, 20
ATTRIBUTE_WEIGHT, ATTRIBUTE_MASKING = 0.1, 0.5

Step = Callable[[], object]


@dataclass(frozen=True)
class Cell:
    """One size of the step."""

    people: int
    items: int
    history: int
    negatives: int = 0
    width: int = 64

    def __str__(self) -> str:
        head = f"sampled {self.negatives}" if self.negatives else "full"
        return (
            f"{self.people:>4} people {self.items:>7} items history {self.history:>3} width {self.width:>3} {head:<11}"
        )

    @property
    def candidates(self) -> int:
        """Items in the softmax of one position."""
        return self.negatives + 1 if self.negatives else self.items + 1

    def predicted(self, engine: str) -> float:
        """Bytes an engine's step is expected to need; counted in the encoder, not fitted to a measurement."""
        ours = engine in ("private", "secure")
        people = min(self.people, PEOPLE_AT_ONCE) if ours else self.people
        positions = people * self.history
        # Written the ordinary way there are five at the end: the scores, their log-softmax, its gradient, the gradient
        # before it, and that one again without the padding's column. The fused softmax holds one.
        scores = positions * self.candidates * (1 if ours or engine == "fused" else 5)
        states = positions * self.width * 70
        tables = 8 * self.items * self.width
        person_gradients = 0
        if ours or engine == "hooks":
            person_gradients = 34 * people * self.width**2
        if engine == "hooks":
            person_gradients += 2 * people * self.items * self.width
        return 4.0 * (scores + states + tables + person_gradients)


FULL = [Cell(people, items, history) for items in (3_706, 20_000) for history in (50, 200) for people in (64, 256)]
SAMPLED = [Cell(p, items, history, 512) for items in (20_000, 100_000) for history in (50, 200) for p in (64, 256)]
WIDE = [Cell(256, 20_000, 50, 512, width=128)]
QUICK = [Cell(64, 3_706, 50), Cell(64, 20_000, 50, 512)]


def batches_of(cell: Cell, people_at_once: int, generator: torch.Generator) -> list[Batch]:
    """Full histories, so that nobody gains by leaving padding out."""
    events = cell.people * (cell.history + 1)

    def whole(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    popular = torch.rand(events, generator=generator) ** 2.5  # some items are far more frequent than others
    histories = Histories(
        items=(popular * cell.items).long().clamp(max=cell.items - 1) + 1,
        behaviours=whole(1, 11, events),
        values=whole(0, 20, events),
        timestamps=whole(0, 10_000, events).cumsum(0),
        offsets=torch.arange(cell.people + 1) * (cell.history + 1),
        attributes=torch.stack([whole(0, 3, cell.people), whole(0, 8, cell.people)], dim=1),
        has_times=True,
    )
    parts = torch.arange(cell.people).split(people_at_once)
    return [histories.training_batch(people, cell.history, None) for people in parts]


def encoder_of(cell: Cell, generator: torch.Generator) -> ProfileEncoder:
    """The production encoder without dropout, whose draws cost every engine the same and would hide differences."""
    vocabulary = Vocabulary(
        categories=(torch.rand(cell.items + 1, 18, generator=generator) < 0.1).float(),
        content=torch.randn(cell.items + 1, 32, generator=generator),
        attributes=(("two", 2), ("seven", 7)),
    )
    encoder = ProfileEncoder(Model(width=cell.width, blocks=2, dropout=0.0), vocabulary, cell.history)
    encoder.initialise(generator)
    return encoder


class Ordinary(nn.Module):
    """The losses written the ordinary way.

    Args:
        encoder: Production's.
        scoring_table: What sampled scores are taken from.
        person_axis: Keep it in front of what goes through a module, as engines that hook modules want.
    """

    def __init__(self, encoder: ProfileEncoder, scoring_table: nn.Embedding | None, *, person_axis: bool) -> None:
        super().__init__()
        self.encoder, self.scoring_table, self.person_axis = encoder, scoring_table, person_axis

    def forward(self, batch: Batch, negatives: Tensor | None, generator: torch.Generator) -> Tensor:
        """One loss a person, shape (B,)."""
        visible, truth = hide_attributes(batch, ATTRIBUTE_MASKING, generator)
        profile = self.encoder(visible, generator)
        targets, shape = batch.targets.flatten(), batch.targets.shape
        if negatives is None:
            scores = self.encoder.item_scores(profile.state)
        else:
            scores = self._sampled(profile.state, batch.targets, negatives)
            targets = torch.zeros_like(targets)
        losses = F.cross_entropy(scores.flatten(0, 1), targets, reduction="none").view(shape).mean(1)
        last = at_last(profile.vector, batch.lengths)
        for column, logits in enumerate(self.encoder.attribute_scores(last)):
            known = truth[:, column] != UNKNOWN
            guessed = F.cross_entropy(logits, (truth[:, column] - 1).clamp(min=0), reduction="none")
            losses = losses + ATTRIBUTE_WEIGHT * guessed * known
        return losses

    def _sampled(self, states: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        content = self.encoder.get_buffer("content")
        query = self.encoder.score_content(states)
        if self.scoring_table is None:
            raise ValueError("expected a table for sampled scores, got none")
        if self.person_axis:
            rows = self.scoring_table(torch.cat([negatives.expand(len(targets), -1), targets], dim=1))
            others, own = rows[:, : len(negatives)], rows[:, len(negatives) :]
            other_scores = states @ others.mT
        else:
            own = self.scoring_table(targets)
            other_scores = states @ self.scoring_table(negatives).T
        other_scores = other_scores + query @ content[negatives].T
        other_scores = other_scores.masked_fill(targets[..., None] == negatives, -torch.inf)
        own_scores = (states * own).sum(-1) + (query * content[targets]).sum(-1)
        return torch.cat([own_scores[..., None], other_scores], dim=-1)


def make_step(engine: str, cell: Cell) -> Step:
    """A step of an engine, ready to be taken again and again."""
    generator = ReproducibleSource(0).child(engine).torch_generator()
    encoder = encoder_of(cell, generator)
    if engine in ("private", "secure"):
        at_once = people_at_once("bookkeeping", encoder, Training(negatives=cell.negatives))
        return _bookkeeping(engine, cell, encoder, batches_of(cell, at_once, generator), generator)
    (batch,) = batches_of(cell, cell.people, generator)
    if engine in ("plain", "fused"):
        return _without_privacy(engine, cell, encoder, batch, generator)
    return _opacus(engine, cell, encoder, batch, generator)


def _fused_losses(
    encoder: ProfileEncoder, batch: Batch, negatives: Tensor | None, generator: torch.Generator, **settings: object
) -> Tensor:
    return person_losses(
        encoder,
        batch,
        attribute_weight=ATTRIBUTE_WEIGHT,
        attribute_masking=ATTRIBUTE_MASKING,
        generator=generator,
        negatives=negatives,
        **settings,  # type: ignore[arg-type]
    )


def _without_privacy(
    engine: str, cell: Cell, encoder: ProfileEncoder, batch: Batch, generator: torch.Generator
) -> Step:
    optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-3, fused=True if engine == "fused" else None)
    ordinary = Ordinary(encoder, encoder.item if cell.negatives else None, person_axis=False)

    def step() -> None:
        negatives = draw_negatives(cell.items, cell.negatives, generator)
        optimiser.zero_grad()
        if engine == "plain":
            losses = ordinary(batch, negatives, generator)
        else:
            losses = _fused_losses(encoder, batch, negatives, generator)
        losses.mean().backward()
        optimiser.step()

    return step


def _bookkeeping(
    engine: str, cell: Cell, encoder: ProfileEncoder, batches: list[Batch], generator: torch.Generator
) -> Step:
    optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-3, fused=True)
    layout, parameters = Layout.of(encoder), dict(encoder.named_parameters())
    book = Bookkeeping(encoder, clip_norm=CLIP_NORM)
    secret, grid, std = SecureSource(), Grid.of(CLIP_NORM, GRID_BITS), NOISE_MULTIPLIER * CLIP_NORM

    def noised(total: Tensor, noise: NDArray[np.int64]) -> Tensor:
        for part, own in zip(total.split(2**16), np.array_split(noise, range(2**16, len(noise), 2**16)), strict=True):
            part.copy_(torch.from_numpy(grid.decode(grid.encode(part) + own)))
        return total

    def step() -> None:
        negatives = draw_negatives(cell.items, cell.negatives, generator)
        noise = drawn_beside(layout.size, std / grid.step, secret) if engine == "secure" else None
        for batch in batches:
            book.add(lambda tape, batch=batch: _fused_losses(encoder, batch, negatives, generator, tape=tape))
        sums = book.take()
        if noise is not None:
            sums = layout.split(noised(layout.flatten(sums), noise.result()))
        for name, parameter in parameters.items():
            total = sums[name]
            if noise is None:
                total += torch.normal(0.0, std, total.shape, generator=generator)
            parameter.grad = total.div_(cell.people)
        optimiser.step()

    return step


def _opacus(engine: str, cell: Cell, encoder: ProfileEncoder, batch: Batch, generator: torch.Generator) -> Step:
    scoring_table = encoder.item if cell.negatives else None
    if engine == "ghost":
        encoder.score_item.weight = nn.Parameter(encoder.item.weight.detach().clone())
        if cell.negatives:
            scoring_table = nn.Embedding(cell.items + 1, cell.width)
            encoder.score_item.weight.requires_grad_(False)
    ordinary = Ordinary(encoder, scoring_table, person_axis=True)
    inner = torch.optim.Adam([p for p in ordinary.parameters() if p.requires_grad], lr=1e-3)
    settings = {
        "noise_multiplier": NOISE_MULTIPLIER,
        "max_grad_norm": CLIP_NORM,
        "expected_batch_size": cell.people,
        "loss_reduction": "mean",
        "generator": generator,
    }
    if engine == "hooks":
        watched = GradSampleModule(ordinary, batch_first=True, loss_reduction="mean", strict=True)
        optimiser = DPOptimizer(inner, **settings)
    else:
        watched = GradSampleModuleFastGradientClipping(
            ordinary, batch_first=True, loss_reduction="mean", max_grad_norm=CLIP_NORM, use_ghost_clipping=True
        )
        optimiser = DPOptimizerFastGradientClipping(inner, **settings)

    def step() -> None:
        negatives = draw_negatives(cell.items, cell.negatives, generator)
        optimiser.zero_grad()
        losses = watched(batch, negatives, generator)
        if engine == "hooks":
            losses.mean().backward()
            for parameter in inner.param_groups[0]["params"]:
                if getattr(parameter, "grad_sample", None) is None:
                    parameter.grad_sample = parameter.new_zeros((cell.people, *parameter.shape))
        else:
            DPTensorFastGradientClipping(watched, optimiser, losses, "mean").backward()
        optimiser.step()

    return step


# --- measuring


def _status(key: str) -> int:
    """A line of this process' memory in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"expected {key} in /proc/self/status, found none; this script needs Linux")


def peak_extra(engine: str, cell: Cell) -> float:
    """Bytes of the largest resident set above that before the model was made."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before the fork and kept is not this engine's
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    step = make_step(engine, cell)
    step()
    step()
    return float(_status("VmHWM") - before)


def times(engines: list[str], cell: Cell, seconds: float, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each engine's steps, taken by turns; the slow engines of Opacus take every third."""
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    for engine in engines:
        step = make_step(engine, cell)
        started = clock()
        step()
        first[engine] = clock() - started
        steps[engine] = step
    often = sum(first[engine] for engine in engines if engine in OURS)
    seldom = sum(first.values()) - often
    turns = max(3, min(15, int(seconds / max(1e-9, often + seldom / 3))))
    found: dict[str, list[float]] = {engine: [] for engine in engines}
    for turn in range(turns):
        for engine, step in steps.items():
            if engine in OURS or turn % 3 == 1:
                started = clock()
                step()
                found[engine].append(clock() - started)
    return found


def in_a_fork(work: Callable[..., object], *arguments: object) -> object:
    """What `work` returns in a process of its own, which has this one's imports; the error's text if it raises."""
    context = get_context("fork")
    reading, writing = context.Pipe(duplex=False)

    def child() -> None:
        try:
            writing.send((True, work(*arguments)))
        except Exception as error:  # noqa: BLE001 it is printed in the table's place
            if os.environ.get("SILHOUETTE_BENCHMARK_TRACES"):
                traceback.print_exc()
            writing.send((False, f"{type(error).__name__}: {error}".splitlines()[0][:100]))

    process = context.Process(target=child)
    process.start()
    writing.close()
    try:
        good, found = reading.recv()
    except EOFError:
        good, found = False, "killed, likely for memory"
    process.join()
    return found if good else RuntimeError(found)


def warm_up() -> None:
    """Take the steps that load libraries, so that they count for nobody."""
    for engine in ENGINES:
        make_step(engine, Cell(2, 10, 3, 4))()


def rows(cell: Cell, engines: list[str], seconds: float, clock: Callable[[], float]) -> Iterator[str]:
    """The table's lines of one cell."""
    predicted = cell.predicted("plain")
    if predicted > LIMIT:
        yield f"{cell} left out for every engine: {predicted / 2**30:.0f} GiB predicted for the plain step"
        return
    run = []
    for engine in engines:
        if (needed := cell.predicted(engine)) > LIMIT:
            yield f"{cell} {engine:<8} left out: {needed / 2**30:.0f} GiB predicted"
        else:
            run.append(engine)
    memory: dict[str, float] = {}
    for engine in list(run):
        found = in_a_fork(peak_extra, engine, cell)
        if isinstance(found, float):
            memory[engine] = found
        else:
            run.remove(engine)
            yield f"{cell} {engine:<8} failed: {found}"
    taken = in_a_fork(times, run, cell, seconds, clock)
    if not isinstance(taken, dict):
        yield f"{cell} failed: {taken}"
        return
    medians = {engine: statistics.median(values) for engine, values in taken.items()}
    for engine in run:
        line = f"{cell} {engine:<8}{1e3 * medians[engine]:>9.0f}{memory[engine] / 2**20:>9.0f}"
        for base in ("plain", "fused"):
            if base in medians:
                line += f"{medians[engine] / medians[base]:>8.2f}{memory[engine] / memory[base]:>8.2f}"
        yield line


def noise_rows(sizes: list[int]) -> list[str]:
    """Secure noise beside `torch.normal` of the same size, by turns."""
    generator, secret, found = torch.Generator().manual_seed(0), SecureSource(), []
    for size in sizes:
        draws: dict[str, Step] = {
            "torch.normal": lambda size=size: torch.normal(0.0, 1.0, (size,), generator=generator),
            "secure": lambda size=size: rounded_gaussian(size, 2.0**GRID_BITS, secret),
        }
        taken: dict[str, list[float]] = {name: [] for name in draws}
        for _ in range(9):
            for name, draw in draws.items():
                started = time.perf_counter()
                draw()
                taken[name].append(time.perf_counter() - started)
        ordinary, secure = (statistics.median(taken[name]) for name in draws)
        figures = f"torch.normal {1e3 * ordinary:.1f} ms, secure {1e3 * secure:.1f} ms, {secure / ordinary:.2f}"
        found.append(f"{size:>12,} numbers: {figures}")
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small cells")
    parser.add_argument("--only", choices=("full", "sampled", "wide", "noise"), help="a part of the table")
    parser.add_argument("--people", type=int, help="cells of so many people")
    parser.add_argument("--items", type=int, help="cells of so many items")
    parser.add_argument("--history", type=int, help="cells of this history")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--seconds", type=float, default=60.0, help="of turns in a cell, at least three turns")
    parser.add_argument("--busy", action="store_true", help="time by the thread's processor: other work runs here too")
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.busy else time.perf_counter
    warnings.filterwarnings("ignore", category=UserWarning)  # Opacus' hooks; see silhouette_client.training.hooks
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not keep_freed_memory():
        print("the C library does not keep freed memory: other ratios than in production", file=sys.stderr)
    torch.set_num_threads(1)
    chosen = {"full": FULL, "sampled": SAMPLED, "wide": WIDE, "noise": []}
    cells = QUICK if arguments.quick else chosen.get(arguments.only, FULL + SAMPLED + WIDE)
    for name in ("people", "items", "history"):
        if (wanted := getattr(arguments, name)) is not None:
            cells = [cell for cell in cells if getattr(cell, name) == wanted]
    began = time.perf_counter()
    warm_up()
    print("noise, both on this thread")
    drawn = in_a_fork(noise_rows, [1_000_000, 10_000_000])  # apart, or what it frees would be there for the others
    print("\n".join(drawn) if isinstance(drawn, list) else f"failed: {drawn}", flush=True)
    if cells:
        titles = f"{'engine':<8}{'ms':>9}{'MiB':>9}{'/plain':>8}{'memory':>8}{'/fused':>8}{'memory':>8}"
        print(f"{'':<{len(str(cells[0]))}} {titles}")
    for cell in cells:
        for line in rows(cell, arguments.engines, arguments.seconds, clock):
            print(line, flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
