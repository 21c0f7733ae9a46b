"""The student against another model, and every number on parts of test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from raykd.evaluate import Evaluation, SplitOutputs
from raykd.evaluate.external_baselines import external_baseline_numbers
from raykd.evaluate.slices import slice_numbers
from raykd.evaluate.statistics import mcnemar
from raykd.tasks import find_task

LABELS = torch.arange(60) % 3


def said(wrong):
    """Sure answers, of which some (positions) are of the next class."""
    answers = LABELS.clone()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % 3
    return (6 * torch.nn.functional.one_hot(answers, 3).double()).log_softmax(1).float()


def evaluation(*wrong_R, rival=range(20, 35), baseline=range(30)):
    students = {
        "student": torch.stack([said(wrong) for wrong in wrong_R]),
        "labels": torch.stack([said(baseline) for _ in wrong_R]),
    }
    split = SplitOutputs(
        labels_N=LABELS, ids_N=torch.arange(60), teachers={"wide": said(())}, ensemble=said(()),
        students=students, rivals={"old": said(rival)},
    )  # fmt: skip
    return Evaluation(splits={"validation": split, "test": split})


def test_mcnemar_counts_who_is_right_alone():
    one = np.array([1, 1, 1, 0, 0, 1, 1, 1, 0], bool)
    other = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0], bool)
    found = mcnemar(one, other)
    assert (found["both"], found["only_first"], found["only_second"], found["neither"]) == (
        1,
        5,
        1,
        2,
    )
    assert found["p"] == pytest.approx(2 * stats.binom.cdf(1, 6, 0.5))
    assert mcnemar(one, one)["p"] == 1.0


def test_the_gain_is_the_students_and_even_one_replica_has_an_interval():
    found = external_baseline_numbers(evaluation(range(6)), "old")
    assert found["gain"]["values"] == pytest.approx([9 / 60])
    assert found["gain"]["ci95"] is None
    low, high = found["gain"]["ci95_bootstrap"]
    assert low < 9 / 60 < high
    assert high - low > 0.05
    assert found["mcnemar"] == {
        "replica": 0, "both": 39, "student_only": 15, "model_only": 6, "neither": 0,
        "p": pytest.approx(2 * stats.binom.cdf(6, 21, 0.5)),
    }  # fmt: skip
    assert found["test"]["accuracy"] == pytest.approx(0.75)
    assert found["validation"] == found["test"] == found["test_last"]


def test_over_replicas_the_model_is_the_same_one_each_time():
    found = external_baseline_numbers(evaluation(range(6), range(12), range(3)), "old")
    assert found["gain"]["values"] == pytest.approx([9 / 60, 3 / 60, 12 / 60])
    low, high = found["gain"]["ci95"]
    assert low < 8 / 60 < high
    assert found["mcnemar"]["model_only"] == 6, "of replica 0, which is kept"


def test_answers_of_other_models_are_kept_with_the_rest(tmp_path):
    evaluation(range(6)).save(tmp_path / "all")
    read = Evaluation.load(tmp_path / "all").splits["test"]
    assert torch.equal(read.rivals["old"], said(range(20, 35)))


def test_a_slice_has_the_numbers_of_its_own_samples():
    whole = evaluation(range(6), range(0, 24, 2))
    keep = torch.zeros(60, dtype=torch.bool)
    keep[:40] = True
    part = slice_numbers(whole, {"young": keep, "old": ~keep})["young"]
    assert (part["n"], part["few"]) == (40, False)
    assert part["student"]["accuracy"]["values"] == pytest.approx([34 / 40, 28 / 40])
    assert part["controls"]["labels"]["accuracy"]["mean"] == pytest.approx(10 / 40)
    assert part["ensemble"]["accuracy"] == 1.0
    assert part["gain"]["values"] == pytest.approx([24 / 40, 18 / 40])
    direct = find_task("classification").metrics.numbers(said(range(6))[keep], LABELS[keep])
    assert {name: value["values"][0] for name, value in part["student"].items()} == pytest.approx(
        direct
    )


def test_small_and_empty_slices_are_told():
    keep = torch.zeros(60, dtype=torch.bool)
    keep[:5] = True
    found = slice_numbers(evaluation(range(6)), {"few": keep, "none": torch.zeros_like(keep)})
    assert (found["few"]["n"], found["few"]["few"]) == (5, True)
    assert (found["none"]["n"], found["none"]["student"], found["none"]["gain"]) == (0, None, None)
