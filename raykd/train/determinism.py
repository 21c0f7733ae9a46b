"""`train.deterministic`: settings of torch under which the same training gives the same bits on a GPU, too; slower."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raykd.errors import TrainingError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = ":4096:8"
"""Under which cuBLAS adds in the same order in any stream (its manual, "results reproducibility")."""
_REFUSED = "deterministic"


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Only algorithms that add in the same order each time, while the body runs; afterwards all is as it was.

    cuBLAS reads its setting when a process first uses it: one that has used the GPU before has to be started with it.

    Args:
        wanted: whether; else nothing is changed.

    Raises:
        TrainingError: something in the body has no such algorithm.
    """
    if not wanted:
        yield
        return
    algorithms = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    workspace = os.environ.get(WORKSPACE)
    os.environ.setdefault(WORKSPACE, _FIXED)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if _REFUSED not in str(error):
            raise
        why = " ".join(str(error).split())[:300]
        raise TrainingError(
            f"train.deterministic is true, but the model or its objective uses what has no such algorithm: {why}; replace it in the "
            "model, or set train.deterministic=false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=only_warns)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
