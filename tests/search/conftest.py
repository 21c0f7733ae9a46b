"""A search that takes seconds, and what a search leaves on its cluster."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_OWN = str(Path(__file__).parent)
sys.path.insert(0, _OWN)

from raykd_sweep_on_cluster import left_behind as _left_behind

WIDTH, LR = "student.model.width", "train.optimizer.lr"
_FIT = {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
_TINY = {
    "seed": 0,
    "data": {
        "source": {"type": "digits"},
        "splits": {"validation": 100, "test": 0.2},
        "labels": 200,
        "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
    },
    "teachers": [{"name": "wide", "model": {"type": "mlp", "width": 1.0, "depth": 1}, "fit": _FIT}],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}, "limits": {"parameters": 10_000}},
    "train": {"epochs": 4, "batch_size": 128, "optimizer": {"type": "adamw", "lr": 0.01}},
    "cluster": {"student": {"parallel_fits": 2}},
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip


def sweep_recipe(**search):
    """Ten trials over temperature, width and learning rate, two at once; widths of 4 break a limit."""
    parameters = {
        "objective.soft_targets.temperature": {"space": "loguniform", "lower": 1, "upper": 16},
        WIDTH: {"space": "choice", "categories": [0.25, 1.0, 4.0]},
        LR: {"space": "loguniform", "lower": 1e-4, "upper": 3e-2},
    }
    given = {"parameters": parameters, "trials": 10, "max_concurrent": 2, "scheduler": {"type": "asha", "grace_epochs": 1, "reduction": 2},
             "finalists": {"top": 1, "seeds": 2}}  # fmt: skip
    return {**_TINY, "search": {**given, **search}}


@pytest.fixture(scope="session")
def sweep_tree():
    """Settings of `search` -> a tiny recipe with it."""
    return sweep_recipe


@pytest.fixture(scope="session")
def left_behind():
    """Call it: actors and placement groups that live on the session's cluster."""
    return _left_behind
