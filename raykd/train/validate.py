"""Outputs and validation metrics of a model on untransformed samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.data import Samples
from raykd.train.world import World
from raykd.types import ORIGINAL_VIEW, Batch

_BATCH = 500


def _batches(samples: Samples, rows: np.ndarray, labels: str) -> Iterator[Batch]:
    for start in range(0, len(rows), _BATCH):
        yield samples.batch(rows[start : start + _BATCH], ORIGINAL_VIEW, labels=labels)


@torch.inference_mode()
def predict(network: nn.Module, samples: Samples, rows: np.ndarray, device: torch.device) -> Tensor:
    """Log-probabilities, float32 [N, C] on the CPU, of the untransformed samples."""
    network.eval()
    parts = []
    for batch in _batches(samples, rows, "all"):
        logits_NC = network(batch.to(device).inputs).float()
        parts.append(F.log_softmax(logits_NC, dim=1).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def validate(
    network: nn.Module, samples: Samples, rows: np.ndarray, world: World
) -> dict[str, float]:
    """Accuracy and NLL (nats) on labelled rows, each worker taking its share of them."""
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64)
    for batch in _batches(samples, rows[world.rank :: world.workers], "all"):
        logits_NC = network(batch.to(world.device).inputs).float().cpu()
        nll = F.cross_entropy(logits_NC, batch.labels, reduction="sum")
        correct = (logits_NC.argmax(dim=1) == batch.labels).sum()
        sums += torch.tensor([float(correct), float(nll), float(len(batch))], dtype=torch.float64)
    correct, nll, count = world.all_sum(sums.to(world.device)).tolist()
    return {"accuracy": correct / count, "nll": nll / count}
