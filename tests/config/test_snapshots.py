"""`teachers[].snapshots`: a teacher for each part of one fit."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.errors import InputError
from raykd.seeding import derive


def test_a_teacher_for_each_snapshot(tiny_recipe):
    plain = load_config(tiny_recipe)
    tiny_recipe["teachers"][0]["snapshots"] = [0.5, 0.75, 1.0]
    config = load_config(tiny_recipe)
    half, later, whole, conv = config.teachers
    assert [half.name, later.name] == ["wide_at50", "wide_at75"]
    assert (whole, conv) == plain.teachers, "the teacher itself is as it was"
    assert [one.fit.stop_at for one in config.teachers] == [0.5, 0.75, None, None]
    assert [one.fit.last_epoch for one in config.teachers] == [3, 4, None, None], "of 6 epochs"
    assert half.fit.seed == later.fit.seed == derive(0, "teacher", "wide")
    assert half.model_dump(exclude={"name", "fit"}) == whole.model_dump(exclude={"name", "fit"})
    assert load_config(config.model_dump(mode="json")) == config
    assert "snapshots" not in whole.identity()
    assert "stop_at" not in whole.identity()["fit"]


def test_without_the_whole_there_are_but_the_parts(tiny_recipe):
    tiny_recipe["teachers"][0] |= {"snapshots": [0.01], "fit": {"epochs": 6, "seed": 7}}
    half, _ = load_config(tiny_recipe).teachers
    assert (half.name, half.fit.seed, half.fit.last_epoch) == ("wide_at1", 7, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"snapshots": [0.75, 0.5]}, "have to rise"),
        ({"snapshots": [0.5, 0.501]}, "by a hundredth"),
        ({"snapshots": [0.5], "fit": None, "weights": "w.pt"}, "give `fit`"),
        ({"snapshots": [0.5], "fit": {"stop_at": 0.3}}, "fit.stop_at"),
    ],
)
def test_snapshots_that_cannot_be(tiny_recipe, change, message):
    tiny_recipe["teachers"][0] |= change
    with pytest.raises(InputError, match=message) as caught:
        load_config(tiny_recipe)
    assert caught.value.problems[0].key == "teachers.wide.snapshots"


@pytest.mark.parametrize("parts", [[], [0.0], [1.5]])
def test_parts_lie_between_nothing_and_all(tiny_recipe, parts):
    tiny_recipe["teachers"][0]["snapshots"] = parts
    with pytest.raises(InputError, match="snapshots"):
        load_config(tiny_recipe)


def test_names_that_are_taken(tiny_recipe):
    tiny_recipe["teachers"][0]["snapshots"] = [0.5, 1.0]
    tiny_recipe["teachers"][1]["name"] = "wide_at50"
    with pytest.raises(InputError, match="wide_at50"):
        load_config(tiny_recipe)
