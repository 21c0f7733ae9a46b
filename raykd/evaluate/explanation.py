"""What occlusion maps of a student and of its teachers say, as numbers: how alike they are, and alike by chance.

Shapes: N samples, K parts that are hidden, R control networks, C outputs, F steps of a deletion curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.evaluate.occlusion import Occlusion, deletion_area, spearman, top_overlap
from raykd.evaluate.statistics import t_interval
from raykd.evaluate.summary import json_safe
from raykd.tasks import find_task

SCHEMA = 1
MEASURES = {"spearman": spearman, "top20_iou": top_overlap}
_RANGES = {"spearman": (-1.0, 1.0), "top20_iou": (0.0, 1.0)}
_ANY = (-math.inf, math.inf)
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Maps:
    """Occlusion maps of some samples, all for the same output of a sample; float64.

    Attributes:
        student_NK: of the student.
        ensemble_NK: of the teachers' mean.
        teachers: name -> [N, K].
        controls_RNK: of the student's architecture with fresh weights, several times (Adebayo et al. 2018, "Sanity
            checks for saliency maps", section 3).
    """

    student_NK: Tensor
    ensemble_NK: Tensor
    teachers: Mapping[str, Tensor]
    controls_RNK: Tensor

    @property
    def taught(self) -> dict[str, Tensor]:
        """Name -> map of the models that have learnt; those of teachers are named `teacher/NAME`."""
        teachers = {f"teacher/{name}": maps for name, maps in self.teachers.items()}
        return {"student": self.student_NK, "ensemble": self.ensemble_NK, **teachers}


@dataclass(frozen=True, eq=False)
class Deletion:
    """How much the student's score falls (of values: changes) as more and more of a sample is removed.

    Attributes:
        counts_F: units removed at each step, from 0 to all.
        own_NF: those that the student's map calls most important first.
        random_NF: in a random order.
    """

    counts_F: Tensor
    own_NF: Tensor
    random_NF: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanation:
    """Everything that `raykd explain` found.

    Attributes:
        run: name of the run's folder.
        task: what the run is about.
        split: where the samples are from.
        parted: samples of the split on which student and ensemble part.
        occlusion: what was hidden.
        settings: how, in plain values: `patch` and `stride` of images, `features` of a table.
        inputs: the samples [N, ...] in source space, largest divergence first.
        ids: as the user's data have them.
        outputs: name of the output of each sample that is explained.
        truth: what each sample is, in words; empty where it has no label.
        answers: model, as in `Maps.taught` -> what it says of each sample, in words.
        maps: of all models.
        deletion: of the student.
        left_out: teacher -> why it has no map.
    """

    run: str
    task: str
    split: str
    parted: int
    occlusion: Occlusion
    settings: Mapping[str, Any]
    inputs: Tensor
    ids: tuple[str, ...]
    outputs: tuple[str, ...]
    truth: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]
    maps: Maps
    deletion: Deletion
    left_out: Mapping[str, str]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of a table's features; none of an image."""
        return tuple(self.settings.get("features", ()))


def explanation_numbers(found: Explanation) -> dict[str, Any]:
    """All of an explanation as plain JSON.

    Returns:
        `schema`, `run`, `task`, `score` (`probability` or `value`), `split`, `parted`, `samples` (how many are
        explained), `settings`, `left_out`;
        `similarity`: other model -> `spearman` and `top20_iou`, each with `student`, `control` and `difference` (of
        the two, paired by sample); `control_against_student`: the same two measures of control and student;
        `importance`: of a table, feature -> model -> mean absolute score that it is worth; `deletion`: `share` of
        the units removed, mean `own` and `random` curve, `area` between them; `each`: what is known of each sample, with
        its maps as nested lists (rows and columns of an image). A mean is `{"mean", "ci95", "n"}`: 95 % t interval
        over the n samples that have the number (a constant map has no ranks), None below two.
    """
    maps, kind = found.maps, find_task(found.task).metrics.kind
    others = {name: one for name, one in maps.taught.items() if name != "student"}
    numbers = {
        "schema": SCHEMA,
        "run": found.run,
        "task": found.task,
        "score": "value" if kind == "value" else "probability",
        "split": found.split,
        "parted": found.parted,
        "samples": len(found.ids),
        "settings": dict(found.settings),
        "left_out": dict(found.left_out),
        "similarity": {name: similarity(maps, other_NK) for name, other_NK in others.items()},
        "control_against_student": {
            name: mean_interval(_of_controls(maps, maps.student_NK, name), _RANGES[name])
            for name in MEASURES
        },
        "importance": mean_importance(maps, found.features) if found.features else None,
        "deletion": _deletion(found.deletion),
        "each": [_sample(found, n) for n in range(len(found.ids))],
    }
    clean: dict[str, Any] = json_safe(numbers)
    return clean


def similarity(maps: Maps, other_NK: Tensor) -> dict[str, Any]:
    """How alike the student's maps are to another model's, and those of the controls.

    Returns:
        Measure -> `student`, `control` and `difference`, means with intervals over samples; of the controls each
        sample counts with its mean over them.
    """
    found = {}
    for name, measure in MEASURES.items():
        own_N, control_N = measure(maps.student_NK, other_NK), _of_controls(maps, other_NK, name)
        found[name] = {
            "student": mean_interval(own_N, _RANGES[name]),
            "control": mean_interval(control_N, _RANGES[name]),
            "difference": mean_interval(own_N - control_N),
        }
    return found


def _of_controls(maps: Maps, other_NK: Tensor, name: str) -> Tensor:
    """Mean over the controls that have the measure, [N]."""
    each_RN = torch.stack([MEASURES[name](one_NK, other_NK) for one_NK in maps.controls_RNK])
    return each_RN.nanmean(dim=0)


def mean_interval(values_N: Tensor, possible: tuple[float, float] = _ANY) -> dict[str, Any]:
    """`{"mean", "ci95", "n"}` of the numbers that are no NaN; None where there are too few.

    Args:
        values_N: the numbers.
        possible: the range that they can be in, which the interval is cut to.
    """
    known = values_N[~values_N.isnan()]
    interval = t_interval(known.numpy()) if len(known) > 1 else None
    return {
        "mean": float(known.mean()) if len(known) else None,
        "ci95": None if interval is None else np.clip(interval, *possible).tolist(),
        "n": len(known),
    }


def mean_importance(maps: Maps, features: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Feature -> model -> mean of the absolute values of its maps."""
    means = {name: maps_NK.abs().mean(dim=0).tolist() for name, maps_NK in maps.taught.items()}
    return {
        feature: {name: mean_K[k] for name, mean_K in means.items()}
        for k, feature in enumerate(features)
    }


def _deletion(deletion: Deletion) -> dict[str, Any]:
    share_F = deletion.counts_F.double() / deletion.counts_F[-1]
    area_N = deletion_area(deletion.own_NF, deletion.random_NF, deletion.counts_F)
    return {
        "share": share_F.tolist(),
        "own": [mean_interval(values_N) for values_N in deletion.own_NF.T],
        "random": [mean_interval(values_N) for values_N in deletion.random_NF.T],
        "area": mean_interval(area_N),
    }


def _sample(found: Explanation, n: int) -> dict[str, Any]:
    shape, taught = found.occlusion.shape, found.maps.taught
    alike = {
        name: {
            measure: float(of(found.maps.student_NK[n : n + 1], maps_NK[n : n + 1]))
            for measure, of in MEASURES.items()
        }
        for name, maps_NK in taught.items()
        if name != "student"
    }
    return {
        "id": found.ids[n],
        "truth": found.truth[n] or None,
        "explained": found.outputs[n],
        "answers": {name: words[n] for name, words in found.answers.items()},
        "similarity": alike,
        "maps": {name: _rounded(maps_NK[n].view(shape)) for name, maps_NK in taught.items()},
    }


def _rounded(map_K: Tensor) -> Any:
    """Nested lists of numbers to six significant digits."""
    if map_K.ndim > 1:
        return [_rounded(row) for row in map_K]
    return [float(f"{value:.{_DIGITS}g}") for value in map_K.tolist()]
