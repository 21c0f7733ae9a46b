"""`raykd teachers rank`: which teachers to keep, before any student trains."""

from __future__ import annotations

from typing import Any

from raykd.config import Config
from raykd.errors import InputError, Problem
from raykd.evaluate.ranking import rank_teachers
from raykd.folders import write_json
from raykd.pipeline.preparation import prepare
from raykd.pipeline.session import Options, opened, run_folder
from raykd.tracking import Console

RANKING = "ranking.json"


def rank(
    config: Config, options: Options | None = None, *, console: Console | None = None
) -> dict[str, Any]:
    """Fit or load the teachers, ask them about validation and test, rank them on validation.

    Their answers are stored, so that a later run does not ask them again.

    Returns:
        What `ranking.json` holds; see `raykd.evaluate.ranking.rank_teachers`.

    Raises:
        InputError: before anything starts; also where no validation sample is labelled.
        RaykdError: a stage failed.
    """
    options = options or Options()
    folder = run_folder(config, options)
    listen = None if console is None else console.on
    prepared = prepare(config, address=options.address, listen=listen)
    if not len(prepared.samples.labelled_rows("validation")):
        raise InputError(
            Problem("data.splits.validation", "holds no labelled sample to rank teachers by")
        )
    with opened(prepared, folder, options, console, kind="rank") as job:
        judged = job.validate_teachers(job.teachers())
    ranking = {"task": config.task, **rank_teachers(judged.task, judged.validation)}
    write_json(folder.path / RANKING, ranking)
    return ranking
