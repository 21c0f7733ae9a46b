"""Where the list of student fits is worked off: in lanes of one worker, or in groups of Ray Train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raykd.config.root import StudentCluster
from raykd.errors import TrainingError
from raykd.runtime.board import new_board
from raykd.train.fit import Fit
from raykd.train.lanes import LaneRules, train_in_lanes
from raykd.train.work import Work


def run_fits(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> dict[str, dict[str, Any]]:
    """Train every fit; finished ones are not trained again.

    Fits of one worker are trained in lanes, by actors; fits of several, and those of `trainer: train`, by
    groups of Ray Train. What is lost goes on from its last checkpoint.

    Returns:
        fit id -> result.

    Raises:
        TrainingError: a fit failed, or workers failed more often than allowed.
        KeyboardInterrupt: Ctrl-C, once the workers are ended.
    """
    results = work.results(fits)
    missing = [fit for fit in fits if fit.fit_id not in results]
    if not missing:  # starting workers to find nothing to do takes seconds
        return results
    if cluster.uses_ray_train:
        from raykd.train.groups import train_in_groups  # seconds that one worker need not wait

        if work.crew is not None:
            work.crew.dismiss()
        failed = train_in_groups(work, fits, cluster)
    else:
        failed = _in_lanes(work, missing, cluster)
    results = work.results(fits)
    if unfinished := [fit.fit_id for fit in fits if fit.fit_id not in results]:
        cause = failed[0] if failed else "see events.jsonl"
        raise TrainingError(
            f"{len(unfinished)} fits did not finish, {unfinished[0]} first: {cause}"
        )
    return results


def _in_lanes(work: Work, fits: Sequence[Fit], cluster: StudentCluster) -> list[str]:
    """Train in lanes; peers that are trained apart have a board, and keep what others need until all are done."""
    if not any(fit.exchanges for fit in fits):
        return train_in_lanes(work, fits, _rules(work, cluster))
    board = new_board()
    try:
        failed = train_in_lanes(replace(work, board=board), fits, _rules(work, cluster))
    finally:
        board.close()
    for name in work.results(fits):
        for piece in next(fit for fit in fits if fit.fit_id == name).pieces:
            work.reports.folder(piece.fit_id).forget()
    return failed


def _rules(work: Work, cluster: StudentCluster) -> LaneRules:
    each = cluster.resources
    return LaneRules(
        resources=lambda _fit: each,
        most=work.lanes,
        max_losses=cluster.max_failures,
        start_timeout_s=cluster.start_timeout_s,
        stage="student",
        worker="student worker",
        goes_on=False,
        room="cluster.student.start_timeout_s",
    )
