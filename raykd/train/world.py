"""The workers that train one model together: who I am, and what we add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """Rank, number of workers and device of this process."""

    rank: int = 0
    workers: int = 1
    device: torch.device = torch.device("cpu")

    def all_sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over all workers; a copy, without gradient."""
        if self.workers == 1:
            return tensor
        summed = tensor.detach().clone()
        dist.all_reduce(summed)
        return summed

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the workers."""
        if self.workers == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)
