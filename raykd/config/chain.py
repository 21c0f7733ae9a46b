"""`stages:`: recipes that are run one after the other; the student of each may teach, or start, a later one.

A stage is the whole recipe with some of its keys replaced. The last one is what the run is about; of the others the run
keeps what they are there for: a student.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raykd.config.base import LONGEST_NAME
from raykd.config.explanations import nearest
from raykd.config.roles import REPLICA, Limits
from raykd.config.root import Config
from raykd.config.sources import GymnasiumSource
from raykd.config.stages import CHAIN_CONTROLS, CLONING, ELSEWHERE, LONGER, Rollouts, Stage, Teach
from raykd.config.training import Fit, Training
from raykd.errors import InputError, Problem
from raykd.folders import RunFolder
from raykd.seeding import derive
from raykd.tasks import find_task

Tree = dict[str, Any]
Build = Callable[[Mapping[str, Any]], Config]
WEIGHTS = "model.safetensors"
"""In `student/` of a stage's folder: the weights of the replica that teaches."""
_OVERLAID = ("student", "objective", "train")


@dataclass(frozen=True)
class StageRecipe:
    """A stage as an ordinary recipe.

    Attributes:
        name: of the stage, or of a control of the chain.
        config: its recipe; the students of earlier stages are teachers with `weights` in their folders.
        before: the earlier stages that it needs.
        plan: the same recipe for before any stage is trained: what earlier stages are to make is to be fitted.
        teach: how its students teach later stages.
        rollouts: what the students that it starts from visit first; None = nothing.
        start: the stage that these are of.
    """

    name: str
    config: Config
    before: tuple[str, ...]
    plan: Config
    teach: Teach = "best"
    rollouts: Rollouts | None = None
    start: str | None = None


def stage_problems(
    config: Config, build: Build, merge: Callable[[Any, Any], Tree]
) -> list[Problem]:
    """Everything that is wrong with the stages of a recipe that is right without them.

    Args:
        config: the recipe.
        build: makes a recipe of plain values, or raises.
        merge: lays one mapping over another.
    """
    found = [*_names(config), *_refused(config)]
    if found:
        return found
    for index, stage in enumerate(config.stages):
        try:
            build(_tree(config, index, Path(), merge))
        except InputError as error:
            found += [Problem(f"stages.{stage.name}.{p.key}", p.message) for p in error.problems]
    for name in () if found else _controls(config):
        try:
            build(_control_tree(config, name, merge))
        except InputError as error:
            found += [Problem(f"evaluate.controls.{name}: {p.key}", p.message) for p in error.problems]  # fmt: skip
    return found


def _names(config: Config) -> Iterator[Problem]:
    """Names that are taken, unknown or used by nobody."""
    teachers = [teacher.name for teacher in config.teachers]
    taken, before = {*teachers, "student", "ensemble", "labels", "best_teacher", "hard", "untrained", "without_peers", "all_labels", *ELSEWHERE}, list[str]()  # fmt: skip
    teaching = {name for stage in config.stages for name in stage.teachers or ()}
    used = teaching | {stage.start for stage in config.stages}
    for stage in config.stages:
        key = f"stages.{stage.name}"
        own = [stage.name, *_replicas(stage, config.seeds)]
        for name in taken.intersection(own):
            yield Problem(f"{key}.name", f"{name!r} is what something else is called: a teacher, a stage, or a model of "
                          "the report; choose another name")  # fmt: skip
        longest = max(own, key=len)
        if len(longest) > LONGEST_NAME:
            yield Problem(f"{key}.name", f"makes the name {longest!r} of {len(longest)} characters, of which {LONGEST_NAME} are "
                          "allowed; choose a shorter name")  # fmt: skip
        known = [*teachers, *before]
        for name in stage.teachers or ():
            if name not in known:
                yield Problem(f"{key}.teachers", f"found {name!r}{nearest(name, known)}; there are {', '.join(known)}: the recipe's "
                              "teachers, and the stages before this one")  # fmt: skip
        if len(set(stage.teachers or ())) < len(stage.teachers or ()):
            yield Problem(f"{key}.teachers", "names a teacher twice; name each once")
        if stage.start is not None and stage.start not in before:
            stages = ", ".join(before) or "none"
            yield Problem(f"{key}.start", f"found {stage.start!r}{nearest(stage.start, before)}; the stages before this one: {stages}")  # fmt: skip
        if stage is not config.stages[-1] and stage.name not in used:
            yield Problem(key, "does nothing: no later stage names it in `teachers` or `start`; name it there, or leave it out")  # fmt: skip
        if stage.teach != "best" and stage.name not in teaching:
            yield Problem(f"{key}.teach", f"found {stage.teach}, but its students teach nobody: no later stage names it in `teachers`; "
                          "name it there, or leave this out")  # fmt: skip
        taken.update(own)
        before.append(stage.name)


def _refused(config: Config) -> Iterator[Problem]:
    """What does not go together with stages."""
    task = find_task(config.task).settings
    if task.chunks or task.fitted_as is not None:
        yield Problem("stages", f"found {len(config.stages)} with `task: {config.task}`, whose students cannot be teachers yet; run "
                      "the stages one by one: a teacher with `weights: RUN/student/model.safetensors`")  # fmt: skip
    if config.folds is not None:
        yield Problem("stages", f"found beside folds={config.folds}; a chain is not cross-validated yet: leave one of the two out")  # fmt: skip
    yield from _rollouts(config)
    for stage in config.stages:
        if stage.start is not None and "weights" in stage.student:
            yield Problem(f"stages.{stage.name}.start", "stands beside student.weights; leave one of the two out")  # fmt: skip


def _rollouts(config: Config) -> Iterator[Problem]:
    """What visits states needs an environment, and students that act."""
    source = config.data.source
    for stage in config.stages:
        if stage.rollouts is None:
            continue
        key = f"stages.{stage.name}.rollouts"
        if not isinstance(source, GymnasiumSource):
            yield Problem(key, f"found with `data.source: {source.type}`, which has no environment to act in; take {{type: gymnasium}}")  # fmt: skip
            continue
        if stage.start is None:
            yield Problem(key, "found without `start`: name the earlier stage whose students act, and are trained on")  # fmt: skip
        if stage.join:
            yield Problem(f"stages.{stage.name}.join", "means nothing with `rollouts`, whose rounds have the same teachers; leave it out")  # fmt: skip
        known = ["nominal", *source.simulators]
        for name in stage.rollouts.simulators or ():
            if name not in known:
                yield Problem(f"{key}.simulators", f"found {name!r}{nearest(name, known)}; there are {', '.join(known)}")  # fmt: skip


def stage_recipes(
    config: Config, folder: Path, build: Build, merge: Callable[[Any, Any], Tree]
) -> list[StageRecipe]:
    """The recipe of each stage, in order.

    Args:
        config: a recipe with stages, checked.
        folder: of the run; a stage other than the last one has its own in `stages/<name>` there.
        build: as of `stage_problems`.
        merge: as of `stage_problems`.
    """
    made: dict[str, StageRecipe] = {}
    for index, stage in enumerate(config.stages):
        recipe = build(_tree(config, index, folder, merge))
        names = [name for name in (*(stage.teachers or ()), stage.start) if name in made]
        fits = {name: made[name].config.train for name in names}
        visits = {name: made[name].rollouts for name in _visiting(config, index)[:-1]}
        planned = _planned(recipe, fits, {**visits, stage.name: stage.rollouts})
        made[stage.name] = StageRecipe(
            stage.name,
            recipe,
            tuple(dict.fromkeys(names)),
            planned,
            stage.teach,
            stage.rollouts,
            stage.start,
        )
    return list(made.values())


def control_recipes(
    config: Config, build: Build, merge: Callable[[Any, Any], Tree]
) -> list[StageRecipe]:
    """The recipes of `direct`, `longer` and `cloning`, as far as they are asked for."""
    found = []
    for name in _controls(config):
        recipe = build(_control_tree(config, name, merge))
        found.append(StageRecipe(name, recipe, (), recipe))
    return found


def _controls(config: Config) -> list[str]:
    return [name for name in config.evaluate.controls if name in CHAIN_CONTROLS]


def _tree(config: Config, index: int, folder: Path, merge: Callable[[Any, Any], Tree]) -> Tree:
    """One stage as plain values; students of earlier stages have the files that these will have written."""
    stage, last = config.stages[index], index == len(config.stages) - 1
    tree = _overlaid(config, index, merge)
    named = stage.teachers or [teacher["name"] for teacher in tree["teachers"]]
    teachers = {teacher["name"]: [teacher] for teacher in tree["teachers"]}
    for place, earlier in enumerate(config.stages[:index]):
        if earlier.name in named:
            teachers[earlier.name] = _as_teachers(config, place, folder, merge)
    tree["teachers"] = [one for name in named for one in teachers[name]]
    if files := [str(folder_of_rollouts(folder, name)) for name in _visiting(config, index)]:
        tree["data"] = {**tree["data"], "source": {**tree["data"]["source"], "visited": files}}
    if stage.start is not None:
        checkpoints = RunFolder(folder).stage(stage.start).checkpoints(f"student/replica{REPLICA}")
        file = checkpoints / "best.safetensors"
        tree["student"] = {**tree["student"], "weights": str(file), "prefix": None}
    controls = [name for name in config.evaluate.controls if name not in CHAIN_CONTROLS]
    if sum(one.get("teaches") in (None, 0) for one in tree["teachers"]) == 1:
        controls = [name for name in controls if name != "best_teacher"]
    tree["evaluate"] = {**tree["evaluate"], "controls": controls} if last else _unheld(tree)
    return tree


def _unheld(tree: Tree) -> Tree:
    """How students are evaluated that are held against nothing: on as many episodes, where they act."""
    return {"controls": [], "episodes": tree["evaluate"]["episodes"]}


def _visiting(config: Config, index: int) -> list[str]:
    """The stages whose visits a stage learns from: its own, and those of all that it starts from, oldest first."""
    return [stage.name for stage in _line_of(config, index) if stage.rollouts is not None]


def _line_of(config: Config, index: int) -> list[Stage]:
    """A stage and all that it starts from, oldest first."""
    stages = {stage.name: stage for stage in config.stages}
    found = [config.stages[index]]
    while (start := found[-1].start) is not None:
        found.append(stages[start])
    return found[::-1]


def folder_of_rollouts(folder: Path, stage: str) -> Path:
    """The file with the states that were visited for a stage."""
    return RunFolder(folder).rollouts / f"{stage}.npz"


def _overlaid(config: Config, index: int, merge: Callable[[Any, Any], Tree]) -> Tree:
    """The recipe with the keys of one stage, and its seed."""
    stage = config.stages[index]
    tree: Tree = config.model_dump(mode="json")
    tree |= {"stages": [], "search": None}
    if index < len(config.stages) - 1:
        tree["student"] = {**tree["student"], "limits": {}}
    for key in _OVERLAID:
        tree[key] = merge(tree[key], getattr(stage, key))
    if index > 0 and "seed" not in stage.student:
        tree["student"]["seed"] = derive(_seed(config), "stage", stage.name)
    return tree


def _seed(config: Config) -> int:
    return config.seed if config.student.seed is None else config.student.seed


def _as_teachers(
    config: Config, index: int, folder: Path, merge: Callable[[Any, Any], Tree]
) -> list[Tree]:
    """The students of a stage as teachers of a later one: the best replica, or all of them."""
    student, stage = _overlaid(config, index, merge)["student"], config.stages[index]
    own = RunFolder(folder).stage(stage.name)
    tree = {
        "name": stage.name,
        "model": student["model"],
        "preprocess": student.get("preprocess") or {},
        "weights": str(own.student / WEIGHTS),
        "license": student.get("license"),
        "stage": stage.name,
    }
    if stage.teach == "best":
        return [tree]
    return [
        {
            **tree,
            "name": name,
            "weights": str(own.checkpoints(f"student/replica{replica}") / "best.safetensors"),
            "teaches": replica if stage.teach == "each" else None,
        }
        for replica, name in enumerate(_replicas(stage, config.seeds))
    ]


def _replicas(stage: Stage, seeds: int) -> list[str]:
    """Names of a stage's replicas as teachers, where not only the best one teaches."""
    return [] if stage.teach == "best" else [f"{stage.name}-{r}" for r in range(seeds)]


def _control_tree(config: Config, name: str, merge: Callable[[Any, Any], Tree]) -> Tree:
    """The last student as it is without the stages: taught by the recipe's own teachers, as the recipe says."""
    last = len(config.stages) - 1
    whole = _overlaid(config, last, merge)
    tree: Tree = {**config.model_dump(mode="json"), "stages": [], "search": None}
    tree |= {"student": whole["student"], "train": whole["train"], "evaluate": _unheld(tree)}
    if name == LONGER:
        tree["train"] = {**tree["train"], "epochs": _equal_epochs(config, merge)}
    if name == CLONING:
        tree |= _cloning(config, tree, merge)
    return tree


def _cloning(config: Config, tree: Tree, merge: Callable[[Any, Any], Tree]) -> Tree:
    """As many episodes of the teachers alone as the last stage learns from, and as many updates as all rounds have."""
    last = len(config.stages) - 1
    rounds = [config.stages.index(stage) for stage in _line_of(config, last)]
    episodes = dict(tree["data"]["source"]["episodes"])
    seen, counts = episodes["train"], list[int]()
    for index in rounds:
        rollouts = config.stages[index].rollouts
        seen += 0 if rollouts is None else rollouts.episodes
        counts.append(seen)
    epochs = [_overlaid(config, index, merge)["train"]["epochs"] for index in rounds]
    updates = sum(count * one for count, one in zip(counts, epochs, strict=True))
    source = {**tree["data"]["source"], "episodes": {**episodes, "train": seen}}
    train = {**tree["train"], "epochs": max(1, round(updates / seen))}
    return {"data": {**tree["data"], "source": source}, "train": train}


def _equal_epochs(config: Config, merge: Callable[[Any, Any], Tree]) -> int:
    """Epochs of the last stage's batches with as many updates as all stages have, early stopping left aside."""
    every = [_overlaid(config, index, merge)["train"] for index in range(len(config.stages))]
    batch = every[-1]["batch_size"]
    equal: int = max(1, round(sum(one["epochs"] * batch / one["batch_size"] for one in every)))
    return equal


def _planned(
    config: Config, fits: Mapping[str, Training], visits: Mapping[str, Rollouts | None]
) -> Config:
    """A recipe whose earlier stages are still to be trained, and whose states are still to be visited."""
    source = config.data.source
    if isinstance(source, GymnasiumSource) and source.visited:
        planned = tuple((name, one.episodes) for name, one in visits.items() if one is not None)
        source = source.model_copy(update={"visited": (), "planned": planned})
        data = config.data.model_copy(update={"source": source})
        config = config.model_copy(update={"data": data})
    teachers = tuple(
        one
        if one.stage is None
        else one.model_copy(update={"weights": None, "fit": Fit(**dict(fits[one.stage]))})
        for one in config.teachers
    )
    student = config.student
    if student.weights is not None and REPLICA in student.weights:
        student = student.model_copy(update={"weights": None})
    return config.model_copy(update={"teachers": teachers, "student": student})


def searched_part(config: Config) -> Config:
    """The recipe up to the stage that its search is of, with the search's keys as they are written in that stage.

    Keys `stages.<name>.<key>` name it. Without any it is the last one, and the recipe is as it was.

    Args:
        config: a recipe with a search.

    Raises:
        InputError: the keys are of several stages, or of one that there is not.
    """
    assert config.search is not None, "only for recipes with a search"
    names = [stage.name for stage in config.stages]
    found: dict[str, Any] = {}
    of = dict[str, str]()
    for key, space in config.search.parameters.items():
        head, _, rest = key.partition(".")
        name, _, own = rest.partition(".") if head == "stages" else (names[-1], "", key)
        if own in found and name in of.values():
            raise InputError.at(f"search.parameters.{key}", "is searched twice, with the stage's name and without; leave one out")  # fmt: skip
        of[key], found[own] = name, space
        if name not in names:
            raise InputError.at(f"search.parameters.{key}", f"names no stage{nearest(name, names)}; the stages: {', '.join(names)}")  # fmt: skip
    first, name = next(iter(of.items()))
    if others := [key for key, other in of.items() if other != name]:
        raise InputError.at(f"search.parameters.{others[0]}", f"is of the stage {of[others[0]]!r}, and {first} of {name!r}; a sweep is of "
                            "one stage, since another value of an earlier one is another teacher with targets of its own: search "
                            "one, write its best values into the recipe, and then search the next")  # fmt: skip
    if name == names[-1] and found.keys() == of.keys():
        return config
    index = names.index(name)
    needed = {name}
    for stage in reversed(config.stages[: index + 1]):
        if stage.name in needed:
            needed |= {*(stage.teachers or ()), *([stage.start] if stage.start else ())}
    changed: dict[str, Any] = {
        "stages": tuple(stage for stage in config.stages[: index + 1] if stage.name in needed),
        "search": config.search.model_copy(update={"parameters": found}),
    }
    if index < len(names) - 1:  # the recipe's limits hold for its last student
        changed["student"] = config.student.model_copy(update={"limits": Limits()})
    return config.model_copy(update=changed)


def searching(last: StageRecipe, config: Config) -> StageRecipe:
    """The last stage with the search of the whole recipe, whose keys are then those of this stage alone."""
    config_of, plan = (
        one.model_copy(update={"search": config.search}) for one in (last.config, last.plan)
    )
    return replace(last, config=config_of, plan=plan)


def names_of(stages: Sequence[StageRecipe]) -> str:
    """Their names in words."""
    return ", ".join(one.name for one in stages)
