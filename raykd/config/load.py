"""From YAML layers and dotted overrides to one frozen `Config`, or to every error at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raykd.config.chain import (
    StageRecipe,
    control_recipes,
    searched_part,
    searching,
    stage_problems,
    stage_recipes,
)
from raykd.config.check import cross_check
from raykd.config.check_search import parameter_problems, search_problems
from raykd.config.controls import with_controls
from raykd.config.explanations import explain, nearest
from raykd.config.models import expand_model
from raykd.config.optimizers import completed
from raykd.config.root import Config
from raykd.config.search import Search
from raykd.config.snapshots import with_snapshots
from raykd.config.stages import in_rounds, with_last_student
from raykd.config.students import student_problems, student_recipes
from raykd.config.tasks import TaskSettings
from raykd.config.trusting import is_of_folder, refuse_code
from raykd.config.yaml_text import DEEPEST, LONGEST, read_yaml, unreadable
from raykd.errors import InputError, Problem
from raykd.folders import reading, refuse_links
from raykd.tasks import find_task, known_task

Tree = dict[str, Any]
_MARKS = tuple("*&!@%`")
"""What has a meaning of its own at the beginning of YAML; after `key=` it is a text, such as the path *.csv."""
RECIPES = Path(__file__).parent.parent / "recipes"


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | Sequence[str | os.PathLike[str]],
    overrides: Sequence[str] = (),
    *,
    searches: bool = False,
    trust: bool = False,
) -> Config:
    """The resolved recipe.

    Args:
        source: a YAML or JSON file, the name of a packaged recipe, a mapping, or several files of
            which later ones win. Mappings merge; lists are replaced; naming another `type` starts
            that entry anew.
        overrides: `key.sub=value`, the value in YAML; teachers by index or by name.
        searches: where the recipe is wrong, tell what is wrong with the keys that it searches too.
        trust: run the code that a recipe names which lies in a run's or a sweep's folder, whoever wrote it.

    Raises:
        InputError: with every problem found; a folder's recipe names code, and was not written here.
    """
    tree: Tree = {}
    named: str | os.PathLike[str] | None = None
    if isinstance(source, Mapping):
        tree = merge(tree, source)
    else:
        layers = [source] if isinstance(source, str | os.PathLike) else source
        for layer in layers:
            own = read_recipe(layer)
            if is_of_folder(Path(layer)):
                named = layer
                refuse_code(Path(layer), own, trust=trust)
                own = _as_it_was_read(own)
            tree = merge(tree, own)
    for override in overrides:
        tree = _override(tree, override)
    try:
        with reading(Path(str(named))) if named else nullcontext():
            return parse(tree)
    except InputError as error:
        more = _searched_problems(tree, error.problems) if searches else []
        raise InputError([*error.problems, *more]) from None


def recipe_as_data(file: Path) -> Config:
    """The recipe in a run's folder, of which nothing is to be run.

    Raises:
        InputError: it is damaged, or of a task of somebody's own that the user has not named.
    """
    tree = read_recipe(file)
    known_task(str(tree.get("task", "classification")), where=str(file))
    with reading(file):
        return parse(_as_it_was_read(tree))


def _as_it_was_read(tree: Tree) -> Tree:
    """A recipe that raykd wrote, with what its version did where it had no key for it.

    All of validation chose the best epoch before there was a `select_on`. A folder has every key of its version.
    """

    def fit(training: Any) -> Any:
        return {"select_on": "all", **training} if isinstance(training, Mapping) else training

    found = {**tree, "train": fit(tree.get("train"))} if "train" in tree else dict(tree)
    if isinstance(teachers := tree.get("teachers"), list):
        found["teachers"] = [
            {**one, "fit": fit(one["fit"])} if isinstance(one, Mapping) and "fit" in one else one
            for one in teachers
        ]
    return found


def _searched_problems(tree: Tree, known: Sequence[Problem]) -> list[Problem]:
    """What is wrong with the keys that a recipe searches, beside what is known to be wrong with the recipe."""
    try:
        search = Search.model_validate(tree.get("search"))
    except ValidationError:
        return []  # which is known
    plain = {**tree, "search": None}

    def build(given: Sequence[str]) -> None:
        try:
            load_config(plain, given)
        except InputError as error:
            if new := [problem for problem in error.problems if problem not in known]:
                raise InputError(new) from None

    return parameter_problems(search, build)


def parse(tree: Mapping[str, Any]) -> Config:
    """Validate a tree of plain values.

    Raises:
        InputError: with every problem found: unknown keys, wrong types, impossible combinations.
    """
    task, tree = _task_of(tree), with_last_student(tree)
    if task is not None:
        tree = with_controls(merge(task.defaults, tree), tree, task)
    tree = completed(tree)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(explain(error, tree)) from None
    teachers = with_snapshots(config.teachers, config.seed)
    stages = in_rounds(config.stages, [teacher.name for teacher in teachers])
    config = config.model_copy(update={"teachers": teachers, "stages": stages})
    problems = cross_check(config)
    if config.stages and not problems:
        problems = stage_problems(config, parse, merge)
    if config.students and not problems:
        problems = student_problems(config, parse, merge)
    if problems:
        raise InputError(problems)
    return config


def students_of(config: Config) -> dict[str, Config]:
    """The recipe of each of a run's other students, by name."""
    return student_recipes(config, parse, merge)


def chain_of(config: Config, folder: Path) -> tuple[list[StageRecipe], list[StageRecipe]]:
    """The recipes of all stages in order, and those of the chain's controls; for a run in a folder."""
    return stage_recipes(config, folder, parse, merge), control_recipes(config, parse, merge)


def check_search(config: Config) -> None:
    """Hold a recipe's search against the recipe; only who searches has to, so that others may change it freely.

    Of a recipe with stages one is searched, see `raykd.config.chain.searched_part`.

    Raises:
        InputError: with every problem found.
    """
    if config.search is None:
        return
    written, own = config.search.parameters, config.search.parameters
    if config.students:
        raise InputError.at(
            "students",
            f"found {', '.join(config.students)} in a recipe that is searched; trials are of one student: leave them "
            "out here, and run the best with them",
        )
    if config.stages:
        part = searched_part(config)
        assert part.search is not None, "it is that of the recipe"
        own = part.search.parameters
        (*_, last), _ = chain_of(part, Path())
        config = searching(last, part).config
    plain = {**config.model_dump(mode="json"), "search": None}
    if problems := search_problems(config, lambda given: load_config(plain, given)):
        keys = {f"search.parameters.{o}": f"search.parameters.{w}" for o, w in zip(own, written, strict=True)}  # fmt: skip
        raise InputError([Problem(keys.get(one.key, one.key), one.message) for one in problems])


def _task_of(tree: Mapping[str, Any]) -> TaskSettings | None:
    """The settings of a recipe's task; None for one that does not exist."""
    try:
        return find_task(str(tree.get("task", "classification"))).settings
    except InputError:
        return None


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str | os.PathLike[str]) -> Path:
    """The file of a recipe given by path or by packaged name.

    Raises:
        InputError: neither a file nor a packaged recipe.
    """
    path = Path(name)
    try:
        found = path.is_file()
    except OSError as error:  # a name over 255 bytes
        raise InputError.at("recipe", f"{str(name)[:40]!r}… cannot be a file's name: {error.strerror}") from None  # fmt: skip
    if found:
        return path
    packaged = RECIPES / f"{name}.yaml"
    if path.suffix == "" and path.parent == Path() and packaged.is_file():
        return packaged
    if path.is_dir():
        raise InputError(
            Problem("recipe", f"{str(name)!r} is a folder and no run's (it has no config.json); give a recipe's file, the name "
                    "of a packaged one, or the folder of a run")
        )  # fmt: skip
    hint = nearest(str(name), recipe_names())
    raise InputError(
        Problem("recipe", f"no file {str(name)!r} and no packaged recipe of that name{hint}; "
                f"packaged: {', '.join(recipe_names())}")
    )  # fmt: skip


def read_recipe(name: str | os.PathLike[str]) -> Tree:
    """The plain values of one recipe file.

    Raises:
        InputError: the file is missing, not YAML, or not a mapping.
    """
    path = recipe_path(name)
    if is_of_folder(path):
        refuse_links(path.parent)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except UnicodeDecodeError as error:
        raise InputError.at(str(path), f"is not valid YAML: {error}") from None
    except OSError as error:
        raise InputError.at(str(path), f"cannot be read: {error.strerror}") from None
    tree = read_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError.at(str(path), f"must hold keys and values, found {_kind(tree)}")
    return tree


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> Tree:
    """`layer` over `base`: mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in layer.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and _same_type(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _same_type(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return bool(new.get("type", old.get("type")) == old.get("type"))


def _override(tree: Mapping[str, Any], override: str) -> Tree:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise InputError.at(override, "an override is written key.sub=value")
    if len(path) > DEEPEST:
        raise InputError.at(key, f"has {len(path)} parts; no key has more than {DEEPEST}")
    if what := unreadable(override):
        raise InputError.at(ascii(key)[1:-1], f"holds {what}")
    value = text if text.startswith(_MARKS) else read_yaml(text, key) if text else None
    placed = _place(tree, path, value, key)
    assert isinstance(placed, dict), "the root of a recipe is a mapping"
    return placed


def _place(node: Any, path: Sequence[str], value: Any, key: str) -> Any:
    """A copy of `node` with `value` at `path`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list | tuple):
        index = _index(node, head, key)
        return [_place(item, rest, value, key) if i == index else item
                for i, item in enumerate(node)]  # fmt: skip
    if node is None:
        node = {}
    if isinstance(node, str):
        node = expand_model(node)
    if not isinstance(node, Mapping):
        raise InputError.at(key, f"{head!r} lies inside {node!r}, which holds no keys")
    if head == "type" and not rest and node.get("type") != value:
        return {"type": value}
    return {**node, head: _place(node.get(head), rest, value, key)}


def _index(items: Sequence[Any], head: str, key: str) -> int:
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    if head in names:
        return names.index(head)
    if head.isdecimal() and int(head) < len(items):
        return int(head)
    known = [str(name) for name in names if name]
    raise InputError(
        Problem(key, f"no entry {head!r}; there are {len(items)}"
                + (f": {', '.join(known)}{nearest(head, known)}" if known else ""))
    )  # fmt: skip


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", int: "a number"}.get(type(value), type(value).__name__)
