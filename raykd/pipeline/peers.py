"""The networks that learnt beside the student, scored with it."""

from __future__ import annotations

from typing import Any

import torch

from raykd.config.peers import Codistillation, MeanTeacher
from raykd.evaluate import Evaluation
from raykd.evaluate.outputs import Split
from raykd.evaluate.peers import peer_numbers
from raykd.evaluate.summary import json_safe
from raykd.folders import RunFolder
from raykd.pipeline.evaluation import Ask, best_answers, fit_ids
from raykd.pipeline.preparation import Prepared
from raykd.tasks import find_task


def peers_summary(
    prepared: Prepared, evaluation: Evaluation, run: RunFolder, ask: Ask
) -> dict[str, Any]:
    """`peers` of summary.json: type, count, and what `peer_numbers` finds on validation and test; empty without peers.

    Args:
        prepared: the recipe.
        evaluation: of the run, which has the student's answers.
        run: where the weights of its peers are.
        ask: does the pieces.
    """
    settings = prepared.config.peers
    if settings is None or isinstance(settings, MeanTeacher):  # which is no network of its own
        return {}
    samples, task = prepared.samples, find_task(prepared.samples.task).metrics
    students, found = fit_ids(prepared, "student"), {}
    splits: tuple[Split, Split] = ("validation", "test")
    for split in splits:
        own = evaluation.splits[split]
        others = [
            best_answers(
                prepared,
                run,
                [f"{student}/peers/{index}" for student in students],
                samples.splits[split],
                ask,
            )
            for index in range(1, settings.count)
        ]
        answers_KRNC = torch.stack([own.students["student"], *others])
        found[split] = peer_numbers(task, settings.names, answers_KRNC, own.labels_N)
    about: dict[str, Any] = {"type": settings.type, "count": settings.count}
    if isinstance(settings, Codistillation):
        about["exchange_every"] = settings.exchange_every
    return {"peers": json_safe({**about, **found})}
