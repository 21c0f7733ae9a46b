"""Numbers over folds: the corrected resampled t test, and that every number is a spread over folds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raykd.evaluate import paired_t_pvalue
from raykd.evaluate.folds import over_folds
from raykd.evaluate.statistics import t_interval

VALUES = [0.03, 0.05, 0.01, 0.04, 0.02]


def test_the_correction_is_nadeau_and_bengios():
    ratio, size = 0.25, len(VALUES)
    mean, var = np.mean(VALUES), np.var(VALUES, ddof=1)
    statistic = mean / math.sqrt((1 / size + ratio) * var)
    assert paired_t_pvalue(VALUES, ratio) == pytest.approx(2 * stats.t.sf(statistic, size - 1))
    half = stats.t.ppf(0.975, size - 1) * math.sqrt((1 / size + ratio) * var)
    assert t_interval(VALUES, ratio) == pytest.approx([mean - half, mean + half])
    plain = t_interval(VALUES)
    assert t_interval(VALUES, ratio)[0] < plain[0] < plain[1] < t_interval(VALUES, ratio)[1]
    assert paired_t_pvalue(VALUES) == pytest.approx(stats.ttest_1samp(VALUES, 0).pvalue)


def spread(mean):
    return {"mean": mean, "std": 0.1, "n": 3, "values": [mean] * 3}


def summary(accuracy, gain, status="complete"):
    cost = {"parameters": 10, "flops": 1, "bytes": 40, "latency_ms": {"1": 1.0}}
    own = {split: {"accuracy": spread(accuracy)} for split in ("validation", "test", "test_last")}
    plain = {split: {"accuracy": accuracy + 0.1} for split in own}
    return {
        "status": status, "task": "classification", "student": own | cost,
        "controls": {"labels": own | cost, "hard": own | cost}, "ensemble": plain | cost,
        "teachers": {"wide": plain | cost}, "compare": {},
        "gains": {"labels": spread(gain), "hard": spread(-gain / 9)},
        "labels_used": {"total": 9}, "test_scored_times": 1, "timing": {"total_s": 2.0},
        "targets": {"mode": "stored", "teacher_samples_scored": 7, "retries": 0},
    }  # fmt: skip


def test_every_number_is_over_folds():
    sizes = [{"train": 60, "validation": 20, "test": 20}] * 5
    found = over_folds([summary(0.5 + v, v) for v in VALUES], sizes)
    accuracy = found["student"]["test"]["accuracy"]
    assert accuracy["values"] == pytest.approx([0.5 + v for v in VALUES])
    assert (accuracy["n"], accuracy["mean"]) == (5, pytest.approx(0.53))
    assert accuracy["std"] == pytest.approx(np.std(VALUES, ddof=1)), "over folds, not replicas"
    assert found["teachers"]["wide"]["test"]["accuracy"]["mean"] == pytest.approx(0.63)
    gain = found["gains"]["labels"]
    assert found["overlap"] == pytest.approx(20 / 60)
    assert gain["ci95"] == pytest.approx(t_interval(VALUES, 20 / 60))
    assert gain["ci95_uncorrected"] == pytest.approx(t_interval(VALUES))
    raw = [found["gains"][role]["p"] for role in ("labels", "hard")]
    assert gain["p_holm"] == pytest.approx(min(1.0, 2 * min(raw)))
    assert found["targets"]["teacher_samples_scored"] == 35
    assert [fold["path"] for fold in found["per_fold"]] == [f"folds/{i}" for i in range(5)]
    assert found["status"] == "complete"
    one_bad = [summary(0.5, 0.1), summary(0.6, 0.2, "degraded")]
    assert over_folds(one_bad, sizes[:2])["status"] == "degraded"
