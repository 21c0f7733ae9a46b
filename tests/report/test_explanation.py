"""What an explanation says in words."""

from __future__ import annotations

import pytest

from raykd.report.explanation_text import explanation_verdict, method, two_digits

pytestmark = pytest.mark.figures


def mean(value, half=0.05, n=20):
    interval = None if value is None or n < 2 else [value - half, value + half]
    return {"mean": value, "ci95": interval, "n": n}


def like(student, control=0.0, n=20):
    difference = None if student is None else student - control
    numbers = {"student": mean(student, n=n), "control": mean(control, n=n)}
    numbers["difference"] = mean(difference, n=n)
    return {"spearman": numbers, "top20_iou": numbers}


def make(ensemble, *, area=0.2, score="probability", samples=20, **teachers):
    names = {f"teacher/{name}": one for name, one in teachers.items()}
    return {
        "task": "classification", "split": "test", "samples": samples, "parted": 31, "score": score,
        "settings": {"patch": 2, "stride": 1}, "left_out": {"known": "has no model"},
        "similarity": {"ensemble": ensemble, **names},
        "control_against_student": {"spearman": mean(-0.001, n=samples)},
        "deletion": {"area": mean(area, n=samples)},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("student", "control", "says"),
    [
        (0.6, 0.1, "Where they part, the student looks more where its ensemble looks"),
        (0.1, 0.6, "Where they part, the student looks less where its ensemble looks"),
        (0.12, 0.1, "Where they part, it is not shown that the student looks more where"),
        (None, None, "Where they part, no map has ranks to compare"),
    ],
)
def test_likeness_is_told_against_fresh_weights(student, control, says):
    lead, *more = explanation_verdict(make(like(student, control)))
    assert lead.startswith(says)
    if student is not None:
        expected = f"On 20 of 31 samples of test the rank correlation of its maps with the ensemble's is {student:.2f} "
        assert more[0].startswith(expected)


def test_a_single_sample_shows_nothing():
    sentences = explanation_verdict(make(like(0.9, n=1), samples=1, wide=like(0.9, n=1)))
    assert "it is not shown that the student looks more" in sentences[0]
    assert "With 1 sample, intervals are wide, or there are none." in sentences


def test_teachers_are_told_apart_only_where_their_intervals_are():
    apart = " ".join(explanation_verdict(make(like(0.6), wide=like(0.7), conv=like(0.4))))
    assert "most like those of wide (0.70) and least like those of conv (0.40)" in apart
    near = " ".join(explanation_verdict(make(like(0.6), wide=like(0.7), conv=like(0.65))))
    assert "not shown that its maps are more like one teacher's" in near
    alone = " ".join(explanation_verdict(make(like(0.6), wide=like(0.7))))
    assert "teacher's" not in alone


def test_maps_that_removing_does_not_bear_out_are_not_to_be_relied_on():
    assert "The maps show what the student rests on" in " ".join(
        explanation_verdict(make(like(0.6)))
    )
    doubted = " ".join(explanation_verdict(make(like(0.6), area=0.01, score="value")))
    assert "Do not rely on the maps: it is not shown that removing first" in doubted
    assert "changes its value more" in doubted
    assert "the area between the curves is 0.0100 (−0.0400 to 0.0600)" in doubted
    assert "Left out: teacher known, which has no model." in doubted


def test_a_zero_has_no_sign():
    assert (two_digits(-0.001), two_digits(-0.006), two_digits(None)) == ("0.00", "−0.01", "–")


def test_the_method_names_what_was_hidden():
    assert "Patches of 2×2 pixels, every 1," in method(make(like(0.6)))[0]
