"""`students:` beside `student`: each is the student with some keys replaced, and what cannot differ is refused."""

from __future__ import annotations

import pytest

from raykd.config import check_search, load_config
from raykd.config.load import students_of
from raykd.errors import InputError


@pytest.fixture
def recipe(tiny_recipe):
    return {**tiny_recipe, "students": {"tiny": {"model": {"width": 0.1}}, "conv2": {"model": {"type": "cnn", "depth": 2}}}}  # fmt: skip


def test_each_is_the_student_with_some_keys_replaced(recipe):
    config = load_config(
        recipe, ["student.limits.parameters=20000", "evaluate.require=[student.test.accuracy > 0]"]
    )
    found = students_of(config)
    tiny, conv = (found[name] for name in ("tiny", "conv2"))
    assert (tiny.student.model.width, tiny.student.model.depth) == (0.1, 1)
    assert (conv.student.model.type, conv.student.model.depth) == ("cnn", 2)
    assert tiny.student.limits.parameters is None, "limits are of the first student, unless given"
    for one in (tiny, conv):
        assert (one.students, one.evaluate.controls, one.evaluate.require) == ({}, (), ())
        assert (one.data, one.teachers, one.objective, one.train) == (config.data, config.teachers, config.objective, config.train)  # fmt: skip


def test_recipes_without_them_are_what_they_were(tiny_recipe):
    assert "students" not in load_config(tiny_recipe).identity()


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ("students.tiny.seed=3", "students.tiny.seed", "the order of the batches"),
        ("students.tiny.learns_from=[own]", "students.tiny.learns_from", "leave it out"),
        ("students={wide: {}}", "students.wide", "choose another name"),
        ("students={hard: {}}", "students.hard", "choose another name"),
        ("students.tiny.model.wdth=0.1", "students.tiny.model.wdth", "did you mean 'width'"),
        ("students.tiny.limits.size=1", "students.tiny.limits.size", "unknown key"),
        ("folds=3", "students", "beside folds"),
        ("stages=[{name: only}]", "students", "beside stages"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(recipe, override, key, says):
    with pytest.raises(InputError) as error:
        load_config(recipe, [override])
    (problem,) = error.value.problems
    assert problem.key == key
    assert says in problem.message


def test_a_search_is_of_one_student(recipe):
    searched = load_config(
        recipe,
        ["search={parameters: {student.model.width: {space: choice, categories: [0.1, 0.2]}}}"],
    )
    with pytest.raises(InputError, match="trials are of one student"):
        check_search(searched)
    check_search(load_config(recipe))
