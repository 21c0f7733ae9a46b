"""Ray shell for fitting teachers: one task each, all at once as the cluster allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from raykd.data import Samples
from raykd.errors import RaykdError, TrainingError
from raykd.folders import RunFolder
from raykd.targets import NoTargets
from raykd.tracking import Event
from raykd.train import Fit, FolderReporter, World, train


@dataclass(frozen=True)
class TaskResources:
    """Resources of one fit."""

    cpus: float
    gpus: float


def fit_teachers(
    fits: Mapping[str, Fit],
    places: Mapping[str, TaskResources],
    samples: Any,
    run: RunFolder,
    emit: Callable[[Event], None],
) -> dict[str, dict[str, Any]]:
    """Fit teachers at the same time; a fit that was finished before is not repeated.

    Args:
        fits: teacher name -> what to train.
        places: teacher name -> resources.
        samples: object reference of the data.
        run: the run folder, which holds the checkpoints.
        emit: where progress goes; called in the tasks.

    Raises:
        TrainingError: a fit failed; the others are finished first, so that their work is kept.
    """
    task = ray.remote(_fit)
    references = {
        name: task.options(
            num_cpus=places[name].cpus, num_gpus=places[name].gpus, max_retries=2
        ).remote(fit, samples, run, emit, max(1, int(places[name].cpus)))
        for name, fit in fits.items()
    }
    results, failures = {}, []
    for name, reference in references.items():
        try:
            results[name] = ray.get(reference)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, RaykdError) else error
            failures.append(f"teacher {name!r}: {cause}")
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
            failures.append(
                f"teacher {name!r}: its process was lost more often than allowed: {error}"
            )
    if failures:
        raise TrainingError("; ".join(failures))
    return results


def _fit(
    fit: Fit, samples: Samples, run: RunFolder, emit: Callable[[Event], None], threads: int
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
    return train(fit, samples, NoTargets(), FolderReporter(run, emit), World(device=device))
