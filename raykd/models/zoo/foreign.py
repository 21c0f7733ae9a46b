"""Models that torch only calls: a graph of another runtime, a function of another library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTENT = "content"
"""Name of the state of a model that is a file."""


class ForeignModel(nn.Module):
    """A model without parameters of torch: it can be a teacher, and cannot be trained.

    How many parameters it has and how many operations it takes is not known.
    """


class CallableModel(ForeignModel):
    """A function of arrays, such as `predict_proba` of a fitted scikit-learn estimator.

    Args:
        function: takes a float array [B, ...] (the preprocessed inputs; several by their names), returns
            [B, C], or [B] where it says only the best class.
        name: how the function is called, for errors.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__()
        self._function = function
        self._name = name

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """What the function says, on the device of its inputs.

        Raises:
            TypeError: it returns something that is no array of numbers.
        """
        device = next(iter((*args, *kwargs.values()))).device
        given = [x.cpu().numpy() for x in args]
        named = {name: x.cpu().numpy() for name, x in kwargs.items()}
        found = np.asarray(self._function(*given, **named))
        if found.dtype.kind not in "fiu":
            raise TypeError(f"{self._name} returned {found.dtype}; an array of numbers is needed")
        kept = found.astype(np.float32) if found.dtype.kind == "f" else found.astype(np.int64)
        return torch.from_numpy(kept).to(device)
