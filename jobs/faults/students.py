"""Student workers that are killed, and a fit that goes on with another number of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from jobs.bench.fleets import silent
from jobs.bench.synthetic import Bench, recipe
from jobs.faults.scenario import Found
from raykd.config.root import StudentCluster
from raykd.data import Samples
from raykd.errors import TrainingError
from raykd.folders import RunFolder
from raykd.runtime import connect, put
from raykd.targets import TargetSource
from raykd.testing.sources import Failing, Killing, Recorded, TableTargets, record_of
from raykd.train import Fit, FolderReporter, World, train
from raykd.train.checkpoint import FitFolder
from raykd.train.launch import run_fits
from raykd.train.work import MakeSource, Work

TEACHERS = ("one", "other")
BATCH, STEPS_PER_EPOCH = 28, 10
_SAMPLES, _CLASSES = 320, 5  # 280 of them for training
_CLOSE = 2e-4


@dataclass(frozen=True)
class Lesson:
    """A student to train, and its data."""

    bench: Bench
    fit: Fit

    @property
    def samples(self) -> Samples:
        """The data."""
        return self.bench.samples

    def alone(self, folder: Path) -> Path:
        """Its folder when it is trained in this process by nobody else, undisturbed."""
        reporter, source = FolderReporter(RunFolder(folder), silent), table(self.samples, self.fit)
        train(self.fit, self.samples, source, reporter, World())
        return folder / "checkpoints" / self.fit.fit_id

    def work(self, folder: Path, make_source: MakeSource) -> Work:
        """What workers get to train it."""
        return Work(put(self.samples), put([self.fit]), make_source, RunFolder(folder), silent, 2)


def lesson(folder: Path, epochs: int, fit_id: str = "student/replica0") -> Lesson:
    """A small network on noise, ten steps an epoch, each epoch a view of its own."""
    model = {"type": "mlp", "width": 0.25, "depth": 1, "dropout": 0.1}
    config = recipe(_SAMPLES, _CLASSES, teachers(), model, BATCH, epochs)
    bench = Bench.of(config, RunFolder(folder))
    fit = bench.fit(fit_id, TEACHERS)
    lesson = Lesson(bench, replace(fit, plan=replace(fit.plan, views=None)))
    assert lesson.fit.plan.steps_per_epoch == STEPS_PER_EPOCH, "280 rows in batches of 28"
    return lesson


def teachers() -> list[dict[str, Any]]:
    """Settings of the teachers; nobody fits them."""
    model = {"type": "mlp", "width": 0.25, "depth": 1}
    return [{"name": name, "model": model, "fit": {"epochs": 1}} for name in TEACHERS]


def table(samples: Samples, fit: Fit) -> TableTargets:
    """Targets that need no teacher."""
    return TableTargets([teacher.name for teacher in fit.teacher_infos], samples)


def _killed(at: Sequence[int], folder: Path, samples: Samples, fit: Fit) -> TargetSource:
    recorded = Recorded(table(samples, fit), folder / "record.jsonl")
    return Killing(recorded, at, folder / "kills")


def kill_workers(folder: Path, quick: bool) -> Found:
    """A worker is killed at a random answer, its successor too, and so on."""
    kills, epochs = (2, 3) if quick else (20, 20)
    given = lesson(folder / "bench", epochs)
    moments = np.random.default_rng(0).integers(1, 2 * STEPS_PER_EPOCH, kills).tolist()
    torch.set_num_threads(1)
    whole = weights_in(given.alone(folder / "whole"))
    with connect(None):
        work = given.work(folder / "run", partial(_killed, moments, folder))
        run_fits(work, [given.fit], StudentCluster(max_failures=kills))
    lost = weights_in(folder / "run" / "checkpoints" / given.fit.fit_id)
    same = whole.keys() == lost.keys() and all(torch.equal(whole[n], lost[n]) for n in whole)
    done, steps = (folder / "kills").stat().st_size, epochs * STEPS_PER_EPOCH
    trained = len(record_of(folder / "record.jsonl"))
    said = f"{done} kills; {trained} steps trained for {steps}; "
    said += "weights bit-identical" if same else "weights DIFFER"
    return Found(said, same and done == kills)


def rank_of_worker() -> int:
    """Of this process among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def weights_in(folder: Path) -> dict[str, Tensor]:
    """The last weights of a fit."""
    return FitFolder(folder).read_weights("last")


def _sized(left: int | None, file: Path, samples: Samples, fit: Fit) -> TargetSource:
    rank = rank_of_worker()
    return Failing(Recorded(table(samples, fit), file, rank), left)


def resize(folder: Path, quick: bool) -> Found:
    """A fit is ended twice, and resumed by more workers than before."""
    stages = ((1, 2), (2, 1)) if quick else ((1, 3), (2, 3), (4, 3))
    epochs = sum(own for _, own in stages)
    given = lesson(folder / "bench", epochs)
    given = replace(given, fit=_without_dropout(given.fit))
    torch.set_num_threads(1)
    whole = weights_in(given.alone(folder / "whole"))
    orders = []
    with connect(None):
        for number, (workers, own) in enumerate(stages):
            last = number == len(stages) - 1
            file = folder / f"record{number}.jsonl"
            left = None if last else own * STEPS_PER_EPOCH
            work = given.work(folder / "run", partial(_sized, left, file))
            try:
                run_fits(work, [given.fit], StudentCluster(workers=workers, cpus=0.25))
            except TrainingError:
                assert not last, "only the earlier ones are ended"
            orders += _global_order(record_of(file), workers)
    resized = weights_in(folder / "run" / "checkpoints" / given.fit.fit_id)
    planned = [given.fit.plan.batch(e, s) for e in range(epochs) for s in range(STEPS_PER_EPOCH)]
    wanted = [list(zip(*map(np.ndarray.tolist, pair), strict=True)) for pair in planned]
    seen = Counter(key for step in orders for key in step)
    once = set(seen.values()) == {1} and seen.total() == epochs * len(given.fit.plan.rows)
    apart = max(float((whole[n] - resized[n]).abs().max()) for n in whole)
    sizes = " → ".join(str(workers) for workers, _ in stages)
    said = (
        f"{sizes} workers, {epochs} epochs: order {'the same' if orders == wanted else 'DIFFERS'}, "
    )
    said += f"each id {'once' if once else 'NOT once'} an epoch; weights within {apart:.0e}"
    return Found(said, orders == wanted and once and apart < _CLOSE)


def _without_dropout(fit: Fit) -> Fit:
    """Workers draw their own dropout, so that other numbers of them give other numbers."""
    return replace(fit, model=fit.model.model_copy(update={"dropout": 0.0}))


def _global_order(lines: Sequence[dict[str, Any]], workers: int) -> list[list[tuple[int, int]]]:
    """(row, view) of each step, the parts of all workers put together by rank."""
    ranks = [[line for line in lines if line["rank"] == rank] for rank in range(workers)]
    return [
        [pair for part in parts for pair in zip(part["rows"], part["views"], strict=True)]
        for parts in zip(*ranks, strict=True)
    ]
