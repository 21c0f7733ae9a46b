"""Outputs and validation metrics of a model on untransformed samples, and the best epoch by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.training import LAST, ChoosingSamples
from raykd.data import Samples
from raykd.ensemble import calibration_half
from raykd.evaluate.task import TaskMetrics
from raykd.tasks import find_task
from raykd.train.world import World
from raykd.types import ORIGINAL_VIEW, Batch

_BATCH = 500
_MOST_OUTPUTS = 1 << 23
"""Numbers that a model puts out at a time."""
_COMPARED = 1 << 22
"""Numbers of each of several models that are compared at a time."""
Beside = Callable[[np.ndarray], tuple[Tensor, list[Tensor]]]
"""Rows of a few samples -> answers of the ensemble [n, C] and of each teacher, which a student is held against."""


@dataclass
class Best:
    """The best epoch so far.

    Attributes:
        task: whose metrics they are.
        select: the metric that decides; None = the task's own, `last` = none does.
        weights: of that epoch.
        metrics: of that epoch; empty before the first.
        epoch: its number; −1 before the first.
    """

    task: TaskMetrics
    select: str | None
    weights: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int = -1

    def update(
        self, epoch: int, metrics: dict[str, float], weights: Callable[[], dict[str, Tensor]]
    ) -> None:
        """Keep what `weights` gives when `metrics` are better than all before, or whatever they are where none decides."""
        rank = self.task.rank
        newest = not self.metrics or self.select == LAST
        if newest or rank(metrics, self.select) > rank(self.metrics, self.select):
            self.epoch, self.metrics = epoch, metrics
            self.weights = {
                name: tensor.detach().cpu().clone() for name, tensor in weights().items()
            }


def choosing_rows(samples: Samples, select_on: ChoosingSamples | None) -> np.ndarray:
    """The labelled rows of validation that choose the best epoch: those that fit no temperature, or all of them."""
    rows = samples.labelled_rows("validation")
    if select_on != "half":
        return rows
    fits_N = calibration_half(torch.from_numpy(samples.ids[rows].copy())).numpy()
    found: np.ndarray = rows[~fits_N]
    return found


def _batch_size(samples: Samples) -> int:
    if samples.vocabulary is None:
        return _BATCH
    # a sample has an output of all tokens for each of its own
    outputs = samples.vocabulary.length * samples.vocabulary.size
    return max(1, min(_BATCH, _MOST_OUTPUTS // outputs))


def _batches(samples: Samples, rows: np.ndarray, device: torch.device) -> Iterator[Batch]:
    size = _batch_size(samples)
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        yield samples.batch(some, ORIGINAL_VIEW, labels="all", device=device)


def _shared(samples: Samples, rows: np.ndarray, world: World) -> Iterator[tuple[Batch, bool]]:
    """The batches of this worker's share of rows, and whether they count.

    Workers that hold a network in parts compute together: whoever has fewer batches goes along with others that do not count.
    """
    own = rows[world.rank :: world.workers]
    if world.sharing is not None:
        most = -(-len(rows) // world.workers)
        lacking = -(-most // _batch_size(samples)) - -(-len(own) // _batch_size(samples))
        for batch in _batches(samples, own, world.device):
            yield batch, True
        for _ in range(lacking):
            yield next(_batches(samples, rows[:1], world.device)), False
        return
    for batch in _batches(samples, own, world.device):
        yield batch, True


def few_at_a_time(samples: Samples, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in parts for which several models' answers over all classes may be in memory at once."""
    outputs = samples.class_count
    if samples.vocabulary is not None:
        outputs = samples.vocabulary.length * samples.vocabulary.size
    size = max(1, _COMPARED // outputs)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


@torch.inference_mode()
def predict(
    network: nn.Module,
    samples: Samples,
    rows: np.ndarray,
    device: torch.device,
    beside: Beside | None = None,
) -> Tensor:
    """What evaluation keeps of the untransformed samples, float32 [N, C] on the CPU.

    Log-probabilities; in regression values in original units, in multilabel log-odds; where the task has columns,
    these [N, A], and with `beside` those that set it apart from its teachers.
    """
    network.eval()
    task, parts = find_task(samples.task).metrics, []
    for batch in _batches(samples, rows, device):
        answers_NC = task.answer(network(batch.to(device).inputs).float()).cpu()
        if beside is None or task.columns is None:
            parts.append(task.kept(answers_NC, batch.labels))
            continue
        end = 0
        for some in few_at_a_time(samples, batch.rows.numpy()):
            start, end = end, end + len(samples.per_unit(some, some))
            own, labels = answers_NC[start:end], batch.labels[start:end]
            parts.append(task.kept_beside(own, labels, *beside(some)))
    return torch.cat(parts)


@torch.inference_mode()
def validate(
    network: nn.Module,
    samples: Samples,
    rows: np.ndarray,
    world: World,
    task: TaskMetrics | None = None,
) -> dict[str, float]:
    """The task's validation metrics on labelled rows, each worker taking its share of them.

    Accuracy and NLL (nats); in regression RMSE, MAE and R²; of embeddings what `retrieval_metrics` has. None
    where no sample is labelled.

    Args:
        network: the student, or a teacher that is fitted.
        samples: the data.
        rows: labelled ones.
        world: this worker and the others.
        task: what it is trained for; None = what the samples are for.
    """
    if not len(rows):
        return {}
    task = task or find_task(samples.task).metrics
    network.eval()
    if task.tally is None or task.total is None:
        vectors_ND = _gathered(network, samples, rows, world, task)
        return task.numbers(vectors_ND, torch.from_numpy(samples.all_labels[rows]))
    sums: Tensor | None = None
    for batch, counts in _shared(samples, rows, world):
        logits_NC = network(batch.to(world.device).inputs).float().cpu()
        if not counts:
            continue
        own = task.tally(logits_NC, batch.labels)
        sums = own if sums is None else sums + own
    if sums is None:  # more workers than samples: this one has none
        sums = torch.zeros(task.tallied, dtype=torch.float64)
    return task.total(world.all_sum(sums.to(world.device)).cpu())


@torch.inference_mode()
def _gathered(
    network: nn.Module, samples: Samples, rows: np.ndarray, world: World, task: TaskMetrics
) -> Tensor:
    """Answers for rows [N, C], float32 on the CPU, of which each worker computed its share."""
    mine = np.arange(len(rows))[world.rank :: world.workers]
    parts = []
    for batch, counts in _shared(samples, rows, world):
        answers_NC = task.answer(network(batch.to(world.device).inputs).float())
        parts.append(answers_NC if counts else answers_NC[:0])
    if not parts:  # of all, the width is needed
        (batch,) = _batches(samples, rows[:1], world.device)
        parts = [task.answer(network(batch.to(world.device).inputs).float())[:0]]
    own_MC = torch.cat(parts)
    table_NC = torch.zeros(len(rows), own_MC.shape[1], device=world.device)
    table_NC[mine] = own_MC
    return world.all_sum(table_NC).cpu()
