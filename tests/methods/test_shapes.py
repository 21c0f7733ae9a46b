"""Features whose shapes a loss cannot compare are refused before anything starts."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.config.objective import FeatureTerm
from raykd.errors import InputError
from raykd.objective.features import feature_problem
from raykd.pipeline.preparation import prepare

MAP, WIDE, TOKENS, LONGER, VECTOR, HEADS = (4, 8, 8), (6, 4, 4), (5, 3), (7, 3), (9,), (2, 5, 5)


def problem(loss, student, teacher):
    pair = loss == "fsp"
    tap = ["x", "y"] if pair else "x"
    term = FeatureTerm.model_validate(
        {"loss": {"type": loss}, "teacher": "a", "student_tap": tap, "teacher_tap": tap}
    )
    return feature_problem(term, student, teacher)


@pytest.mark.parametrize(
    ("loss", "student", "teacher"),
    [("attention", [MAP], [WIDE]), ("nst", [TOKENS], [(5, 9)]), ("attention_matrix", [HEADS], [(3, 5, 5)]),
     ("similarity", [MAP], [VECTOR]), ("pkt", [VECTOR], [TOKENS]), ("fsp", [MAP, WIDE], [(4, 2, 2), WIDE]),
     ("fsp", [TOKENS, (5, 6)], [LONGER, (7, 6)]), ("cwd", [MAP], [WIDE]), ("itrd", [VECTOR], [WIDE]),
     ("token_similarity", [MAP], [WIDE])],
)  # fmt: skip
def test_shapes_that_can_be_compared(loss, student, teacher):
    assert problem(loss, student, teacher) is None


@pytest.mark.parametrize(
    ("loss", "student", "teacher", "said"),
    [("attention", [MAP], [TOKENS], "two maps"), ("attention", [VECTOR], [VECTOR], "use hint or similarity"),
     ("nst", [TOKENS], [LONGER], "equal length"), ("attention_matrix", [HEADS], [(2, 6, 6)], "[H, L, L]"),
     ("attention_matrix", [MAP], [WIDE], "[H, L, L]"), ("fsp", [MAP, WIDE], [WIDE, WIDE], "numbers of channels"),
     ("fsp", [MAP, VECTOR], [MAP, VECTOR], "two maps"), ("cwd", [MAP], [VECTOR], "compares positions"),
     ("token_similarity", [TOKENS], [LONGER], "equal length")],
)  # fmt: skip
def test_shapes_that_cannot(loss, student, teacher, said):
    found = problem(loss, student, teacher)
    assert said in found
    assert str(list(student[0])) in found


def test_all_of_a_recipe_s_features_are_checked_together():
    term = {"teacher": "a", "student_tap": "blocks.0", "teacher_tap": "blocks.0"}
    tokens = {"teacher": "v", "student_tap": "blocks.0", "teacher_tap": "blocks.0"}
    fit = {"epochs": 1}
    config = load_config(
        {
            "data": {"source": {"type": "digits"}},
            "teachers": [
                {"name": "a", "model": {"type": "cnn", "width": 0.25, "depth": 2}, "fit": fit},
                {"name": "v", "model": {"type": "vit", "width": 0.25, "depth": 1}, "fit": fit},
            ],
            "student": {"model": {"type": "cnn", "width": 0.125, "depth": 2}},
            "objective": {
                "features": [
                    {**term, "loss": {"type": "attention"}},
                    {**tokens, "loss": {"type": "nst"}},
                    {**term, "loss": {"type": "fsp"}, "student_tap": ["blocks.0", "blocks.1"],
                     "teacher_tap": ["blocks.0", "blocks.1"]},
                    {**tokens, "loss": {"type": "vid"}},
                    {**term, "loss": {"type": "vid"}, "student_tap": "head"},
                ],
            },
        }
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        prepare(config)
    found = {p.key: p.message for p in caught.value.problems}
    assert set(found) == {f"objective.features.{i}" for i in (1, 2, 4)}
    assert "no positions" in found["objective.features.4"]
