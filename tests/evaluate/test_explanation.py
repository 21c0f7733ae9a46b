"""What occlusion maps say as numbers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from raykd.evaluate.explanation import (
    Deletion,
    Explanation,
    Maps,
    explanation_numbers,
    mean_interval,
    similarity,
)
from raykd.evaluate.occlusion import deletion_counts, image_occlusion, table_occlusion


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def make_maps(samples=6, parts=9):
    student = drawn(samples, parts)
    return Maps(
        student, student**3, {"wide": -student}, drawn(3, samples, parts, seed=1)
    )  # the ensemble's order is the student's, the teacher's the opposite


def make_explanation(maps, occlusion, features=()):
    samples, counts_F = len(maps.student_NK), deletion_counts(occlusion)
    own_NF, random_NF = drawn(2, samples, len(counts_F), seed=2)
    return Explanation(
        run="r",
        task="classification",
        split="test",
        parted=40,
        occlusion=occlusion,
        settings={"features": list(features)} if features else {"patch": 2, "stride": 1},
        inputs=torch.zeros(samples, 1, 4, 4),
        ids=tuple(map(str, range(100, 100 + samples))),
        outputs=("cat",) * samples,
        truth=("cat", "", *["dog"] * (samples - 2)),
        answers=dict.fromkeys(maps.taught, ("cat",) * samples),
        maps=maps,
        deletion=Deletion(counts_F, own_NF, random_NF),
        left_out={"known": "has recorded outputs and no model"},
    )


def test_means_have_the_t_interval_of_the_samples_that_are_known():
    values = drawn(9)
    values[[2, 5]] = torch.nan
    known = values[~values.isnan()].numpy()
    low, high = stats.t.interval(0.95, 6, known.mean(), stats.sem(known))
    found = mean_interval(values)
    assert found["n"] == 7
    assert found["mean"] == pytest.approx(known.mean())
    assert found["ci95"] == pytest.approx([low, high])
    assert mean_interval(values, (-9.0, 0.0))["ci95"] == pytest.approx([low, min(high, 0.0)])
    assert high > 0


def test_too_few_samples_have_no_interval_or_no_mean():
    one, none = torch.tensor([0.5, torch.nan]), torch.tensor([torch.nan])
    assert mean_interval(one) == {"mean": 0.5, "ci95": None, "n": 1}
    assert mean_interval(none) == mean_interval(none[:0]) == {"mean": None, "ci95": None, "n": 0}


def test_the_student_is_held_against_the_mean_of_the_controls():
    maps = make_maps()
    found = similarity(maps, maps.ensemble_NK)
    each = [
        [stats.spearmanr(control_K, ensemble_K).statistic
         for control_K, ensemble_K in zip(control_NK, maps.ensemble_NK.numpy(), strict=True)]
        for control_NK in maps.controls_RNK.numpy()
    ]  # fmt: skip
    control_N = np.mean(each, axis=0)
    spearman = found["spearman"]
    assert spearman["student"]["mean"] == pytest.approx(1.0)
    assert spearman["control"]["mean"] == pytest.approx(control_N.mean())
    assert spearman["difference"]["mean"] == pytest.approx(1 - control_N.mean())
    assert found["top20_iou"]["student"] == {"mean": 1.0, "ci95": [1.0, 1.0], "n": 6}
    assert similarity(maps, maps.teachers["wide"])["spearman"]["student"]["mean"] == pytest.approx(
        -1
    )


def test_a_control_without_ranks_leaves_the_others():
    maps = make_maps()
    constant = torch.cat([maps.controls_RNK, torch.zeros(1, 6, 9).double()])
    with_one = Maps(maps.student_NK, maps.ensemble_NK, {}, constant)
    assert similarity(with_one, maps.ensemble_NK) == similarity(maps, maps.ensemble_NK)


def test_numbers_of_images_are_strict_json():
    maps = make_maps()
    maps.student_NK[0] = 0.25  # the same everywhere
    maps.student_NK[1, 0] = 1 / 3
    occlusion = image_occlusion(4, 4, [0.0], patch=2, stride=1)
    numbers = explanation_numbers(make_explanation(maps, occlusion))
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    assert (numbers["samples"], numbers["parted"], numbers["score"]) == (6, 40, "probability")
    assert numbers["importance"] is None
    assert list(numbers["similarity"]) == ["ensemble", "teacher/wide"]
    assert numbers["similarity"]["ensemble"]["spearman"]["student"]["n"] == 5
    assert numbers["control_against_student"]["spearman"]["n"] == 5
    first, second = numbers["each"][:2]
    assert first["similarity"]["ensemble"] == {"spearman": None, "top20_iou": None}
    assert first["maps"]["student"] == [[0.25] * 3] * 3
    assert second["maps"]["student"][0][0] == 0.333333
    assert (first["id"], first["truth"], second["truth"]) == ("100", "cat", None)
    assert numbers["left_out"] == {"known": "has recorded outputs and no model"}


def test_numbers_of_tables_have_the_mean_importance_of_each_feature():
    maps, features = make_maps(parts=3), ("age", "height", "colour=red to colour=blue")
    occlusion = table_occlusion([0.0] * 4, [(0,), (1,), (2, 3)])
    found = make_explanation(maps, occlusion, features)
    numbers = explanation_numbers(found)
    expected = np.abs(maps.teachers["wide"].numpy()).mean(axis=0)
    for feature, mean in zip(features, expected, strict=True):
        assert numbers["importance"][feature]["teacher/wide"] == pytest.approx(mean)
        assert set(numbers["importance"][feature]) == {"student", "ensemble", "teacher/wide"}
    deletion = numbers["deletion"]
    assert deletion["share"] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    own, random = found.deletion.own_NF.numpy(), found.deletion.random_NF.numpy()
    area = np.trapezoid(own - random, [0, 1 / 3, 2 / 3, 1], axis=1)
    assert deletion["area"]["mean"] == pytest.approx(area.mean())
    assert not math.isnan(deletion["own"][1]["mean"])
