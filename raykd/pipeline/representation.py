"""How alike the features of student and teachers are that the objective compares, after training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.data import Samples
from raykd.evaluate.representation import debiased_cka
from raykd.evaluate.statistics import spread
from raykd.folders import RunFolder
from raykd.models.taps import Taps
from raykd.pipeline.evaluation import Ask, StudentSpec, fit_ids
from raykd.pipeline.fits import roles
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.taught import student_rows
from raykd.targets import TargetStore
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.train.checkpoint import FitFolder

_ROWS = 1000
_BATCH = 250
_VIEW = 0


def features_alike(
    prepared: Prepared, store: TargetStore, run: RunFolder, ask: Ask
) -> list[dict[str, Any]]:
    """Debiased CKA of each pair of modules that the objective compares.

    Over at most 1,000 training samples in their first view, whose features of the teachers the store has; teachers are
    not asked again. Live targets leave nothing in the store: then there is none.

    Args:
        prepared: the recipe, with the data.
        store: the teachers' answers.
        run: where the weights are.
        ask: does the pieces.

    Returns:
        For each pair `teacher`, `teacher_tap`, `student_tap`; `student` and `baseline` (the control that learns nothing
        from teachers; None without it): CKA over replicas; and `n`, the samples.
    """
    pairs = dict.fromkeys(
        (term.teacher, theirs, own)
        for term in prepared.config.objective.features
        for theirs, own in zip(term.teacher_taps, term.student_taps, strict=True)
    )
    found = []
    baseline = find_task(prepared.config.task).metrics.baseline
    for teacher in dict.fromkeys(name for name, _, _ in pairs):
        train = student_rows(prepared.config, prepared.samples)
        kept = train[store.holds(teacher, train, _VIEW)]
        rows = kept[np.linspace(0, len(kept) - 1, min(_ROWS, len(kept))).astype(np.int64)]
        if not len(rows):
            continue
        theirs = decode(store.gather_arrays(teacher, rows, _VIEW)).features
        mine = [pair for pair in pairs if pair[0] == teacher]
        alike = {
            role: _by_replica(prepared, run, role, rows, theirs, mine, ask)
            for role in ("student", baseline)
            if role in roles(prepared.config)
        }
        found += [
            {"teacher": teacher, "teacher_tap": tap, "student_tap": own, "student": alike["student"][i],
             "baseline": alike[baseline][i] if baseline in alike else None, "n": len(rows)}
            for i, (_, tap, own) in enumerate(mine)
        ]  # fmt: skip
    return found


def _by_replica(
    prepared: Prepared,
    run: RunFolder,
    role: str,
    rows: np.ndarray,
    theirs: Mapping[str, Tensor],
    pairs: list[tuple[str, str, str]],
    ask: Ask,
) -> list[dict[str, Any]]:
    """CKA of each pair over a role's replicas."""
    spec, taps = StudentSpec.of(prepared), [own for _, _, own in pairs]
    folders = [FitFolder(run.checkpoints(one)) for one in fit_ids(prepared, role)]
    values = [
        [debiased_cka(own[tap], theirs[other]) for _, other, tap in pairs]
        for own in ask(_features, [(spec, folder, rows, taps) for folder in folders])
    ]
    return [spread(list(of_pair)) for of_pair in zip(*values, strict=True)]


@torch.inference_mode()
def _features(
    samples: Samples, spec: StudentSpec, folder: FitFolder, rows: np.ndarray, taps: list[str]
) -> dict[str, Tensor]:
    """Student tap -> what it puts out for some rows [N, ...]."""
    network, parts = spec.network(samples, folder.read_weights("best")), []
    with Taps(network, taps, key="objective.features") as kept:
        for start in range(0, len(rows), _BATCH):
            network(samples.batch(rows[start : start + _BATCH], _VIEW).inputs)
            parts.append(kept.take())
    return {tap: torch.cat([part[tap] for part in parts]) for tap in parts[0]}
