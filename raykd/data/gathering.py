"""Rows of arrays as tensors, and tensors of the host on a device.

Shape suffixes: B samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raykd.data.steps import kept_dtype

CPU = torch.device("cpu")


def pins(device: torch.device) -> bool:
    """Whether what goes to a device is pinned on the host first, so that nobody waits for the copy."""
    return device.type == "cuda"


def gathered(array: np.ndarray, rows: np.ndarray, device: torch.device = CPU) -> Tensor:
    """Rows of an array, on the host: uint8, float32 or int64 [B, ...], in memory of their own.

    For a GPU it is pinned, from PyTorch's allocator, which hands the same buffers out again once their copies are done.

    Args:
        array: [N, ...].
        rows: int64 [B] in [0, N).
        device: where they will go.
    """
    kept = torch.from_numpy(np.empty(0, kept_dtype(array.dtype))).dtype
    shape = (len(rows), *array.shape[1:])
    found = torch.empty(shape, dtype=kept, pin_memory=pins(device))
    gather_into(found.numpy(), array, rows)
    return found


def gather_into(place: np.ndarray, array: np.ndarray, rows: np.ndarray) -> None:
    """Write rows of an array (int64 [B] in [0, N)) to where they are wanted, [B, ...]."""
    plain = array.view(np.ndarray)
    if plain.dtype == place.dtype and plain.flags.c_contiguous and plain.flags.aligned:
        # Other modes gather into memory of their own first.
        np.take(plain, rows, axis=0, out=place, mode="clip")
    else:
        place[...] = plain[rows]


def room(like: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Memory on the CPU for so many samples that look like the first one of `like` [B, ...].

    By numpy, which asks for large pages: of small ones the first touch takes longer than all work on a view.
    """
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(np.empty((count, *like.shape[1:]), kind))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the device is not waited for."""
    if pins(device) and not tensor.is_cuda and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
