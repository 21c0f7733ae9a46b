"""Fits of teachers, side by side as the cluster allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from raykd.data import Samples
from raykd.errors import TrainingError
from raykd.folders import RunFolder
from raykd.runtime import Crew, put
from raykd.targets import NoTargets
from raykd.tracking import Event
from raykd.train import Fit
from raykd.train.lanes import LaneRules, train_in_lanes
from raykd.train.work import Work

_LOSSES_EACH = 2
_START_TIMEOUT_S = 600.0


def fit_teachers(
    fits: Mapping[str, Fit],
    resources: Mapping[str, Mapping[str, float]],
    samples: Any,
    run: RunFolder,
    emit: Callable[[Event], None],
    crew: Crew,
    *,
    most: int,
) -> dict[str, dict[str, Any]]:
    """Fit teachers at the same time; a fit that was finished before is not repeated.

    Args:
        fits: teacher name -> what to train.
        resources: teacher name -> `CPU` and `GPU` of its process.
        samples: object reference of the data.
        run: the run folder, which holds the checkpoints.
        emit: where progress goes; called in the processes.
        crew: whose processes train.
        most: fits at a time.

    Raises:
        TrainingError: a fit failed; the others are finished first, so that their work is kept.
    """
    needs = {fit.fit_id: resources[name] for name, fit in fits.items()}
    work = Work(
        samples=samples,
        fits=put(list(fits.values())),
        make_source=_no_targets,
        run=run,
        emit=emit,
        depth=1,
        crew=crew,
    )
    rules = LaneRules(
        resources=needs.__getitem__,
        most=most,
        max_losses=_LOSSES_EACH * len(fits),
        start_timeout_s=_START_TIMEOUT_S,
        stage="teachers",
        worker="teacher's worker",
        goes_on=True,
        room="cluster.teachers",
    )
    failed = train_in_lanes(work, list(fits.values()), rules)
    results = work.results(list(fits.values()))
    if failed or len(results) < len(fits):
        raise TrainingError("; ".join(failed) or "teachers were not fitted to their end")
    return {name: results[fit.fit_id] for name, fit in fits.items()}


def _no_targets(_samples: Samples, _fit: Fit) -> NoTargets:
    return NoTargets()
