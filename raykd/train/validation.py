"""Outputs and validation metrics of a model on untransformed samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from raykd.data import Samples
from raykd.evaluate.task import TASKS
from raykd.train.world import World
from raykd.types import ORIGINAL_VIEW, Batch

_BATCH = 500


def _batches(samples: Samples, rows: np.ndarray) -> Iterator[Batch]:
    for start in range(0, len(rows), _BATCH):
        yield samples.batch(rows[start : start + _BATCH], ORIGINAL_VIEW, labels="all")


@torch.inference_mode()
def predict(network: nn.Module, samples: Samples, rows: np.ndarray, device: torch.device) -> Tensor:
    """What evaluation keeps of the untransformed samples, float32 [N, C] on the CPU.

    Log-probabilities; in regression values in original units, in multilabel log-odds.
    """
    network.eval()
    parts = []
    for batch in _batches(samples, rows):
        logits_NC = network(batch.to(device).inputs).float()
        parts.append(TASKS[samples.task].answer(logits_NC).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def validate(
    network: nn.Module, samples: Samples, rows: np.ndarray, world: World
) -> dict[str, float]:
    """The task's validation metrics on labelled rows, each worker taking its share of them.

    Accuracy and NLL (nats); in regression RMSE, MAE and R².
    """
    network.eval()
    task = TASKS[samples.task]
    sums: Tensor | None = None
    for batch in _batches(samples, rows[world.rank :: world.workers]):
        logits_NC = network(batch.to(world.device).inputs).float().cpu()
        own = task.tally(logits_NC, batch.labels)
        sums = own if sums is None else sums + own
    if sums is None:  # more workers than samples: this one has none
        sums = torch.zeros(task.tallied, dtype=torch.float64)
    return task.total(world.all_sum(sums.to(world.device)).cpu())
