"""The numbers of a cross-validation, from the summaries of its folds.

Shapes: K folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raykd.evaluate.cost_numbers import COSTS
from raykd.evaluate.statistics import holm, paired_t_pvalue, spread, t_interval
from raykd.evaluate.summary import json_safe

Summary = Mapping[str, Any]
Sizes = Mapping[str, int]
_SPLITS = ("validation", "test", "test_last")


def over_folds(summaries: Sequence[Summary], sizes: Sequence[Sizes]) -> dict[str, Any]:
    """What all folds say together.

    A fold's number is the mean over its replicas; here every number of V is `{"mean", "std", "n", "values"}`
    over the folds, also of teachers and ensemble, which are others in each fold.

    Args:
        summaries: `summary.json` of each fold, in order.
        sizes: samples of each fold's "train", "validation" and "test".

    Returns:
        `schema`, `kind` (`folds`), `status`, `task`, `folds` (K); `student`, `controls`, `ensemble`, `teachers`, `compare` as in
        a run's summary, costs and `latency` being those of the first fold; `gains`: control -> `mean`, `std`, `n`, `values`,
        `ci95` and `p` of the corrected resampled t test, `ci95_uncorrected` of the plain one, which takes the folds
        for independent, and `p_holm`; `overlap`, the size of a test part over that of a training part;
        `per_fold`: what each fold is; `test_scored_times`, `timing`, `targets`.
    """
    first = summaries[0]
    overlap = float(np.mean([one["test"] / one["train"] for one in sizes]))
    clean: dict[str, Any] = json_safe(
        {
            "schema": 1,
            "kind": "folds",
            "status": "degraded"
            if any(s["status"] == "degraded" for s in summaries)
            else "complete",
            "task": first["task"],
            "folds": len(summaries),
            "overlap": overlap,
            "student": _model([one["student"] for one in summaries]),
            "controls": _models([one["controls"] for one in summaries]),
            "ensemble": _model([one["ensemble"] for one in summaries]),
            "teachers": _models([one["teachers"] for one in summaries]),
            "compare": _models([one["compare"] for one in summaries]),
            "gains": _gains([one["gains"] for one in summaries], overlap),
            "per_fold": [
                {
                    "fold": fold,
                    "path": f"folds/{fold}",
                    "status": one["status"],
                    "samples": dict(size),
                    "labels_used": one["labels_used"],
                    "gains": {role: gain["mean"] for role, gain in one["gains"].items()},
                }
                for fold, (one, size) in enumerate(zip(summaries, sizes, strict=True))
            ],
            "test_scored_times": max(one["test_scored_times"] for one in summaries),
            "timing": {"total_s": sum(one["timing"]["total_s"] for one in summaries)},
            "latency": first.get("latency"),
            "targets": _targets([one["targets"] for one in summaries]),
        }
    )
    return clean


def _models(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: _model([fold[name] for fold in folds]) for name in folds[0]}


def _model(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """M over the folds."""
    return {
        **{split: _values([fold[split] for fold in folds]) for split in _SPLITS},
        **{name: folds[0][name] for name in COSTS if name in folds[0]},
    }


def _values(folds: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """V over the folds, as far as all have it; None where one of them has none."""
    known = [fold for fold in folds if fold is not None]
    if len(known) < len(folds):
        return None
    shared = [name for name in known[0] if all(name in fold for fold in known)]
    return {name: spread([_mean(fold[name]) for fold in known]) for name in shared}


def _mean(value: Any) -> float | None:
    mean: float | None = value["mean"] if isinstance(value, Mapping) else value
    return mean


def _gains(folds: Sequence[Mapping[str, Any]], overlap: float) -> dict[str, Any]:
    found = {role: _gain([fold[role]["mean"] for fold in folds], overlap) for role in folds[0]}
    corrected = holm([gain["p"] for gain in found.values()])
    return {
        role: {**gain, "p_holm": p}
        for (role, gain), p in zip(found.items(), corrected, strict=True)
    }


def _gain(values: Sequence[float], overlap: float) -> dict[str, Any]:
    return {
        **spread(values),
        "ci95": t_interval(values, overlap),
        "ci95_uncorrected": t_interval(values),
        "p": paired_t_pvalue(values, overlap),
    }


def _targets(folds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = ("teacher_samples_scored", "retries")
    return {
        "mode": folds[0]["mode"],
        **{name: sum(fold[name] for fold in folds) for name in counts},
    }
