"""`students:` more students of one run: each is the recipe's `student` with some of its keys replaced.

All of them are taught alike and see the same batches in the same order, so that one answer of a teacher serves all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raykd.config.root import Config
from raykd.config.stages import ELSEWHERE
from raykd.errors import InputError, Problem

Tree = dict[str, Any]
Build = Callable[[Mapping[str, Any]], Config]
Merge = Callable[[Any, Any], Tree]
_TAKEN = (
    "student",
    "ensemble",
    "labels",
    "best_teacher",
    "hard",
    "untrained",
    "all_labels",
    *ELSEWHERE,
    "teacher",
)
_SHARED = {
    "seed": "the order of the batches follows from it",
    "learns_from": "it says which samples there are to learn from",
}  # fmt: skip


def student_problems(config: Config, build: Build, merge: Merge) -> list[Problem]:
    """Everything that is wrong with the other students of a recipe that is right without them.

    Args:
        config: the recipe.
        build: makes a recipe of plain values, or raises.
        merge: lays one mapping over another.
    """
    found = [*_refused(config), *_names(config)]
    if found:
        return found
    for name in config.students:
        try:
            build(_tree(config, name, merge))
        except InputError as error:
            found += [Problem(_key(name, p.key), p.message) for p in error.problems]
    return found


def _key(name: str, key: str) -> str:
    """The key of another student's recipe, as the whole recipe has it."""
    of_student = key.startswith("student.")
    return f"students.{name}.{key.removeprefix('student.')}" if of_student else f"students.{name}: {key}"  # fmt: skip


def _refused(config: Config) -> Iterator[Problem]:
    """What does not go together with several students."""
    beside = {
        "stages": (bool(config.stages), "a stage has one student; run the last stage's recipe (config.json) with `students`"),
        "peers": (config.peers is not None, "each student would have peers of its own; run them one by one, or leave one of the two out"),
        "folds": (config.folds is not None, "a cross-validation sums up one student; leave one of the two out"),
        "objective.on_policy": (config.objective.on_policy is not None, "each student writes texts of its own, of which no answer can be shared; run them one by one"),
    }  # fmt: skip
    for key, (found, why) in beside.items():
        if found:
            yield Problem("students", f"found {', '.join(config.students)} beside {key}: {why}")


def _names(config: Config) -> Iterator[Problem]:
    teachers = {teacher.name for teacher in config.teachers}
    compared = {one.name for one in config.evaluate.compare}
    for name, overlay in config.students.items():
        if name in {*_TAKEN, *teachers, *compared}:
            yield Problem(f"students.{name}", f"{name!r} is what something else is called: a teacher, or a model of the report; "
                          "choose another name")  # fmt: skip
        for key, why in _SHARED.items():
            if key in overlay:
                yield Problem(f"students.{name}.{key}", f"cannot differ from `student`: {why}, and all students see the same "
                              "ones; leave it out")  # fmt: skip


def student_recipes(config: Config, build: Build, merge: Merge) -> dict[str, Config]:
    """The recipe of each other student, as if it were alone.

    Args:
        config: a checked recipe.
        build: as of `student_problems`.
        merge: as of `student_problems`.
    """
    return {name: build(_tree(config, name, merge)) for name in config.students}


def _tree(config: Config, name: str, merge: Merge) -> Tree:
    """Without controls, requirements and models to compare: these are held against the first student."""
    tree: Tree = config.model_dump(mode="json")
    limits: Tree = {**tree["student"], "limits": {}}
    tree |= {"students": {}, "search": None, "student": merge(limits, config.students[name])}
    tree["evaluate"] = {**tree["evaluate"], "controls": [], "require": [], "compare": []}
    return tree
