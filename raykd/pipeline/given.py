"""Recipes as Python gives them: a `Config`, a file, or keys and values in which objects stand for data and teachers.

Each object becomes settings of type `object`, which are data and name it by its fingerprint; it is held by this process
until whoever asked for it is done, and Ray's object store takes it to the processes that need it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from raykd.config import Config, load_config
from raykd.data.objects import hold_source
from raykd.errors import InputError, Problem
from raykd.models.zoo.objects import hold_model
from raykd.objects import Held, is_held, refuse_lost
from raykd.runtime import why_unsendable

Recipe = Config | Mapping[str, Any] | str | os.PathLike[str]
"""What every function of `raykd` takes as a recipe."""
Tree = dict[str, Any]
_OBJECT = "object"
_ARRAYS = ("inputs", "train")
"""Keys of a mapping that is data itself, where what stands there is no plain value."""


@contextmanager
def given_recipe(recipe: Recipe) -> Iterator[Config]:
    """The resolved recipe; what objects it names can be found until the end of the `with`.

    Args:
        recipe: a `Config`; a file or the name of a packaged recipe; or keys and values, in which `data.source` and the
            `model` of a teacher may be objects.

    Raises:
        InputError: with every problem found; an object cannot be used, or cannot be sent to other processes.
    """
    if isinstance(recipe, Config):
        refuse_lost(recipe.objects)
        yield recipe
    elif not isinstance(recipe, Mapping):
        yield load_config(recipe)
    else:
        tree, objects = without_objects(recipe)
        config = load_config(tree)
        assert all(is_held(one.fingerprint) for one in objects), "held as long as they are listed"
        yield config
        objects.clear()


def without_objects(recipe: Mapping[str, Any]) -> tuple[Tree, list[Held]]:
    """Keys and values alone, and the objects that stood among them.

    Raises:
        InputError: with the problems of all objects.
    """
    tree, objects, problems = dict(recipe), list[Held](), list[Problem]()

    def settled(make: Any, *given: Any, **named: Any) -> Any:
        try:
            settings, held = make(*given, **named)
        except InputError as error:
            problems.extend(error.problems)
            return None
        objects.append(held)
        return settings

    data = tree.get("data")
    if isinstance(data, Mapping) and (found := _source(data.get("source"))) is not None:
        tree["data"] = {**data, "source": settled(hold_source, *found)}
    for path in (("teachers",), ("evaluate", "compare")):
        _set(tree, path, lambda entries, path=path: _models(entries, path, settled))
    student = tree.get("student")
    if isinstance(student, Mapping) and not _is_plain(student.get("model")):
        problems.append(
            Problem("student.model", "found an object; a student is made anew for each replica: name a model of the zoo, "
                    "or 'module:function' that makes it")
        )  # fmt: skip
    problems += _searched(tree.get("search"))
    if problems:
        raise InputError(problems)
    return tree, objects


def _searched(search: Any) -> Iterator[Problem]:
    """A search writes down what it varies, which an object cannot be."""
    parameters = search.get("parameters") if isinstance(search, Mapping) else None
    for key, space in parameters.items() if isinstance(parameters, Mapping) else ():
        if not _is_plain(space):
            yield Problem(f"search.parameters.{key}", "holds an object; a search varies what a file can say: compare "
                          "objects as teachers of one recipe (raykd.ablate), or in a run each")  # fmt: skip


def _set(tree: Tree, path: Sequence[str], change: Any) -> None:
    """Put the changed value in place of the one at a path, in copies of what holds it."""
    node: Any = tree
    for name in path[:-1]:
        if not isinstance(node.get(name), Mapping):
            return
        node[name] = dict(node[name])
        node = node[name]
    if isinstance(node.get(path[-1]), list | tuple):
        node[path[-1]] = change(node[path[-1]])


def _models(entries: Sequence[Any], path: Sequence[str], settled: Any) -> list[Any]:
    """Teachers, or what the student is compared with, without objects."""
    found = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or _is_plain(entry.get("model")):
            found.append(entry)
            continue
        key = ".".join([*path, str(entry.get("name", place)), "model"])
        changed = {**entry, "model": settled(_sendable, entry["model"], key=key)}
        if isinstance(entry.get("preprocess", {}), Mapping):
            changed["preprocess"] = {"normalize": "none", **entry.get("preprocess", {})}
        found.append(changed)
    return found


def _sendable(model: Any, *, key: str) -> tuple[Tree, Held]:
    """As `hold_model`, of what other processes can be given."""
    settings, held = hold_model(model, key=key)
    if why := why_unsendable(held):
        raise InputError.at(
            key, f"{settings['describes']} cannot be sent to the processes of its teacher: {why}"
        )
    return settings, held


def _source(given: Any) -> tuple[Any, Mapping[str, Any]] | None:
    """The object that data are, and the settings beside it; None where there is none."""
    if isinstance(given, Mapping) and _OBJECT in given:
        return given[_OBJECT], {k: v for k, v in given.items() if k not in (_OBJECT, "type")}
    if _is_plain(given):
        return None
    if not isinstance(given, Mapping) or any(key in given for key in _ARRAYS):
        return given, {}
    return None


def _is_plain(value: Any) -> bool:
    """Whether it is what a file could say: text, number, nothing, or lists and mappings of them."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if type(value) in (list, tuple):
        return all(_is_plain(one) for one in value)
    return value is None or type(value) in (str, bool, int, float) or isinstance(value, os.PathLike)
