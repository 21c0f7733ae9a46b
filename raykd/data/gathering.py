"""Rows of arrays as tensors, and tensors of the host on a device.

Shape suffixes: B samples.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import Tensor

from raykd.data.steps import kept_dtype

CPU = torch.device("cpu")
_KEPT_BYTES = 2**28
"""Of memory that is not in use."""


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


class Rooms:
    """Memory of the CPU for what is made of many samples; handed out again once nobody has it any more.

    The first touch of new memory takes longer than most views. It comes from numpy, which asks for large pages.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with nothing in it yet."""
        size = math.prod(shape) * dtype.itemsize
        kept, block = [], None
        while (
            self._free and block is None
        ):  # one operation at a time: threads and finalizers share the list
            try:
                found = self._free.pop()
            except IndexError:  # somebody else was quicker
                break
            if size <= found.nbytes <= 2 * size:
                block = found
            else:
                kept.append(found)
        self._free.extend(kept)
        block = np.empty(size, np.uint8) if block is None else block
        own = block[:size]  # lives as long as any tensor of this memory
        weakref.finalize(own, self._give_back, block).atexit = False
        return torch.from_numpy(own).view(dtype).view(shape)

    def _give_back(self, block: np.ndarray) -> None:
        if sum(other.nbytes for other in list(self._free)) + block.nbytes <= _KEPT_BYTES:
            self._free.append(block)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the device is not waited for."""
    if pins(device) and not tensor.is_cuda and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
