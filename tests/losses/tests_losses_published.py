"""Values and gradients of published formulas on fixed float64 inputs; `source` says how each was made."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


@cache
def inputs() -> dict[str, torch.Tensor]:
    """Inputs, and gradients under `grad_…`."""
    with np.load(HERE / "published.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@cache
def expected() -> dict:
    """Values by key."""
    read = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
    return {key: entry["value"] for key, entry in read.items()}
