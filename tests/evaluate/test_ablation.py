"""The worth of a part: the gain of leaving it out, turned round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.evaluate import Evaluation, SplitOutputs, holm, paired_t_pvalue
from raykd.evaluate.ablation import worths
from raykd.evaluate.comparison import compare

NAMES = ("whole", "teacher.a", "term.labels")
ABOUT = {name: {"kind": "x", "about": name} for name in NAMES[1:]}


def split(wrong, replicas=3, samples=40):
    """Each replica of a method gets so many samples wrong, plus its own number."""
    labels = torch.arange(samples) % 2

    def answers(count):
        said = torch.nn.functional.one_hot(labels, 2).double()
        said[:count] = 1 - said[:count]
        return (5 * said).log_softmax(1).float()

    students = {
        name: torch.stack([answers(count + replica * place) for replica in range(replicas)])
        for place, (name, count) in enumerate(wrong.items())
    }
    sure = answers(0)
    return SplitOutputs(
        labels_N=labels, ids_N=torch.arange(samples), teachers={"a": sure}, ensemble=sure,
        students=students,
    )  # fmt: skip


@pytest.fixture
def compared():
    evaluation = Evaluation(
        splits={
            "validation": split(dict(zip(NAMES, (2, 3, 12), strict=True))),
            "test": split(dict(zip(NAMES, (4, 10, 6), strict=True))),
        }
    )
    return compare(evaluation, "whole", {name: [1.0, 1.0, 1.0] for name in NAMES})


def test_worth_is_how_much_better_the_whole_is(compared):
    found = worths(compared, ABOUT)
    part = found["parts"]["teacher.a"]
    assert part["worth"]["values"] == pytest.approx([6 / 40, 7 / 40, 8 / 40])
    assert part["worth"]["mean"] == pytest.approx(7 / 40)
    low, high = part["worth"]["ci95"]
    assert low < 7 / 40 < high
    gain = compared["methods"]["teacher.a"]["gain"]
    assert [low, high] == pytest.approx([-gain["ci95"][1], -gain["ci95"][0]])
    low, high = part["worth"]["ci95_bootstrap"]
    assert 0 < low < 7 / 40 < high
    assert "gain" not in part


def test_ranked_on_validation_and_corrected_on_test(compared):
    found = worths(compared, ABOUT)
    assert found["ranking"] == ["term.labels", "teacher.a"], "on test it is the other way round"
    raw = {n: paired_t_pvalue(found["parts"][n]["worth"]["values"]) for n in ABOUT}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    assert {n: found["parts"][n]["p_holm"] for n in ABOUT} == pytest.approx(corrected)
    assert found["whole"]["test"]["accuracy"]["values"] == pytest.approx([0.9] * 3)
    assert np.isfinite(found["parts"]["teacher.a"]["worth_validation"]["mean"])
