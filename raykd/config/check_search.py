"""Every bound and every category of a search held against the recipe's own schema, before anything starts."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import yaml

from raykd.config.choosing import CHOSEN
from raykd.config.roles import REPLICA
from raykd.config.search import (
    COSTS,
    HIGHER_IS_BETTER,
    Asha,
    Choice,
    Grid,
    GridSearcher,
    LogUniform,
    MedianRule,
    OptunaSearcher,
    QUniform,
    RandInt,
    Search,
    Space,
    Uniform,
)
from raykd.errors import InputError, Problem
from raykd.tasks import find_task

if TYPE_CHECKING:
    from raykd.config.root import Config

SEARCHED = ("objective", "peers", "student", "train")
_LOSSES = ("loss", "objective", "train_loss", "total", "objective_loss")
_MOST = 100_000
Build = Callable[[Sequence[str]], object]


def override(key: str, value: Any) -> str:
    """`key.sub=value`, the value in YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False)
    return f"{key}={text.removesuffix('...' + chr(10)).strip()}"


def overrides(values: dict[str, Any]) -> list[str]:
    """What makes a trial of the recipe; a `type` first, since naming another one starts its entry anew."""
    keys = sorted(values, key=lambda key: (not key.endswith(".type"), key.count("."), key))
    return [override(key, values[key]) for key in keys]


def values_of(space: Space) -> list[Any] | None:
    """Every value of a space; None where there is no end of them, or more than `_MOST`."""
    if isinstance(space, Choice):
        return list(space.categories)
    if isinstance(space, RandInt | QUniform):
        step = space.step if isinstance(space, QUniform) else 1
        if (space.upper - space.lower) / step >= _MOST:
            return None
    if isinstance(space, RandInt):
        return list(range(space.lower, space.upper + 1))
    if isinstance(space, QUniform):
        steps = math.floor((space.upper - space.lower) / space.step + 1e-9)
        return [_tidy(space.lower + i * space.step) for i in range(steps + 1)]
    if isinstance(space, Grid):
        parts = [i / (space.points - 1) for i in range(space.points)]
        return [_tidy(_between(space, part)) for part in parts]
    return None


def combinations_of(search: Search) -> int | None:
    """How many configurations the whole space holds; None where there is no end of them."""
    sizes = [values_of(space) for space in search.parameters.values()]
    if any(size is None for size in sizes):
        return None
    return math.prod(len(size) for size in sizes if size is not None)


def search_problems(config: Config, build: Build) -> list[Problem]:
    """Everything that is wrong with `config.search`.

    Args:
        config: the recipe; its search is not None.
        build: overrides -> the recipe with them; raises InputError.
    """
    search = config.search
    assert search is not None, "only for recipes with a search"
    chooses = config.objective.choose is not None
    found = [*_metric(config, search), *_scheduler(config, search)]
    found += parameter_problems(search, build, chooses=chooses)
    return found or [*_searcher(search), *_replicas(config, search)]


def parameter_problems(search: Search, build: Build, *, chooses: bool = False) -> list[Problem]:
    """What is wrong with the keys and spaces that are searched.

    Args:
        search: the search.
        build: as of `search_problems`.
        chooses: whether the recipe leaves its target to `objective.choose`.
    """
    found = [*_keys(search, chooses=chooses), *_inside(search)]
    shapes = {key: list(_shape(key, space)) for key, space in search.parameters.items()}
    found += [problem for problems in shapes.values() for problem in problems]
    wrong = {problem.key for problem in found}
    sound = {k: s for k, s in search.parameters.items() if not wrong & {_at(k), *_ats(k, wrong)}}
    for key, space in sound.items():
        found += _fits_schema(key, space, build)
    return found


def _at(key: str) -> str:
    return f"search.parameters.{key}"


def _ats(key: str, wrong: set[str]) -> set[str]:
    return {name for name in wrong if name.startswith(f"{_at(key)}.")}


def _metric(config: Config, search: Search) -> Iterator[Problem]:
    allowed = find_task(config.task).settings.select
    metrics = search.judged_by(allowed[0])
    for index, metric in enumerate(metrics):
        yield from _one_metric(config, metric, (*allowed, *COSTS) if index else allowed)
    if twice := sorted({metric for metric in metrics if metrics.count(metric) > 1}):
        yield Problem("search.metric", f"names {twice[0]} twice; leave one out")
    better = "max" if metrics[0] in HIGHER_IS_BETTER else "min"
    if search.mode is not None and len(metrics) > 1:
        yield Problem("search.mode", f"found {search.mode}, but search.metric names {len(metrics)}, and what is better "
                      "follows from each; leave mode out")  # fmt: skip
    elif search.mode not in (None, better) and metrics[0] in allowed:
        yield Problem("search.mode", f"found {search.mode}, but of {metrics[0]} {'more' if better == 'max' else 'less'} is "
                      f"better; leave mode out, or take {better}")  # fmt: skip


def _one_metric(config: Config, metric: str, allowed: Sequence[str]) -> Iterator[Problem]:
    if metric.split(".")[0] in _LOSSES or metric.split(".")[-1] in _LOSSES:
        yield Problem("search.metric", f"found {metric}: the objective's own value cannot judge a search that changes "
                      f"its scale; take a metric of the task: {', '.join(allowed)}")  # fmt: skip
    elif metric in COSTS and metric not in allowed:
        yield Problem("search.metric", f"found {metric} in the first place: what a student costs is known before it is "
                      f"trained and cannot rank trials alone; name a metric of the task first, e.g. "
                      f"[{allowed[0]}, {metric}]")  # fmt: skip
    elif metric not in allowed:
        yield Problem("search.metric", f"found {metric}; with `task: {config.task}` validation has "
                      f"{', '.join(allowed)}")  # fmt: skip


def _keys(search: Search, *, chooses: bool) -> Iterator[Problem]:
    for key in search.parameters:
        head = key.split(".")[0]
        if key.startswith("objective.choose"):
            yield Problem(_at(key), "a sweep chooses once, before its trials; leave it out")
        elif chooses and key in (*CHOSEN, "objective.labels.mode"):
            yield Problem(_at(key), "is what objective.choose sets, once for all trials; leave one of the two out, or give "
                          "objective.choose=null")  # fmt: skip
        if key.startswith("data.transfer"):
            yield Problem(_at(key), "a transfer set is made once, and the teachers are asked about it once, for all trials: give "
                          "data.transfer a set for each value, and search student.learns_from")  # fmt: skip
        elif head == "stages":
            yield Problem(_at(key), "names a stage, and the recipe has none; write the key alone, such as student.model.width")  # fmt: skip
        elif head not in SEARCHED or "." not in key:
            yield Problem(_at(key), f"only keys under {', '.join(SEARCHED)} can be searched: data and teachers are "
                          "shared by all trials; vary others in separate runs")  # fmt: skip
        elif key.startswith("student.limits"):
            yield Problem(_at(key), "limits are what a search keeps to; set student.limits itself")
        elif "=" in key or any(not part for part in key.split(".")):
            yield Problem(_at(key), "is no dotted key; write e.g. objective.soft_targets.temperature")  # fmt: skip


def _inside(search: Search) -> Iterator[Problem]:
    """Keys that lie inside one that is searched too."""
    for one, other in combinations(search.parameters, 2):
        short, long = sorted((one, other), key=len)
        if long.startswith(f"{short}."):
            yield Problem(_at(long), f"lies inside {short}, which is searched too; leave one out")


def _scheduler(config: Config, search: Search) -> Iterator[Problem]:
    scheduler = search.scheduler
    if isinstance(search.metric, tuple) and isinstance(scheduler, Asha | MedianRule):
        yield Problem("search.scheduler", f"found {scheduler.type}, which compares trials by {search.metric[0]} alone "
                      f"and would end those that are good in {', '.join(search.metric[1:])}; write "
                      "scheduler: {type: none}, or name one metric")  # fmt: skip
        return
    if not isinstance(scheduler, Asha | MedianRule) or "train.epochs" in search.parameters:
        return
    if scheduler.grace_epochs >= config.train.epochs:
        yield Problem("search.scheduler.grace_epochs", f"found {scheduler.grace_epochs}, but trials have "
                      f"{config.train.epochs} epochs, so that none would ever be stopped; lower it, or use "
                      "{type: none}")  # fmt: skip


def _shape(key: str, space: Space) -> Iterator[Problem]:
    """What a space itself can be wrong in."""
    if isinstance(space, Choice):
        written = [override(key, value) for value in space.categories]
        if twice := sorted({text for text in written if written.count(text) > 1}):
            yield Problem(f"{_at(key)}.categories", f"names {twice[0].partition('=')[2]} twice; "
                          "leave one out")  # fmt: skip
        return
    if space.lower >= space.upper:
        yield Problem(f"{_at(key)}.lower", f"found {space.lower:g}, must be less than upper, which is {space.upper:g}")  # fmt: skip
        return
    if (
        isinstance(space, LogUniform) or (isinstance(space, Grid) and space.log)
    ) and space.lower <= 0:
        yield Problem(f"{_at(key)}.lower", f"found {space.lower:g}, must be above 0 on a logarithmic scale; "
                      "raise it, or use uniform")  # fmt: skip
    if values_of(space) is None and not isinstance(space, Uniform | LogUniform):
        yield Problem(f"{_at(key)}.upper", f"found {space.upper:g}, which makes more than {_MOST:,} values; lower it, take "
                      "a larger step, or uniform")  # fmt: skip
        return
    if isinstance(space, QUniform) and space.step > space.upper - space.lower:
        yield Problem(f"{_at(key)}.step", f"found {space.step:g}, is more than upper - lower = "
                      f"{space.upper - space.lower:g}; lower it")  # fmt: skip


def _fits_schema(key: str, space: Space, build: Build) -> list[Problem]:
    """The recipe can be built with both bounds, a value between them, and every category."""
    problems: dict[str, Problem] = {}
    for where, value in _probes(space):
        try:
            build([override(key, value)])
        except InputError as error:
            first = error.problems[0]
            about = "" if first.key == key else f"{first.key}: "
            problem = Problem(
                _at(key), f"{where} {_short(value)} is refused: {about}{first.message}"
            )
            problems.setdefault(str(first.message), problem)
    return list(problems.values())


def _probes(space: Space) -> Iterator[tuple[str, Any]]:
    if isinstance(space, Choice):
        yield from (("category", value) for value in space.categories)
        return
    if isinstance(space, Uniform | LogUniform):
        yield from (("lower", space.lower), ("upper", space.upper))
        yield "between the bounds", _between(space, 0.381966)
        return
    values = values_of(space)
    if values is None:  # too many of them, which `_shape` has told
        return
    yield from (("lower", values[0]), ("upper", values[-1]))
    yield "between the bounds", values[len(values) // 2]


def _between(space: Uniform | LogUniform | Grid, part: float) -> float:
    """The value at a part of the way from lower to upper."""
    if isinstance(space, LogUniform) or (isinstance(space, Grid) and space.log):
        return float(space.lower * (space.upper / space.lower) ** part)
    return float(space.lower + part * (space.upper - space.lower))


def draw(space: Space, part: float) -> Any:
    """The value of a space at a part in [0, 1) of the way through it."""
    if isinstance(space, Uniform | LogUniform):
        return _between(space, part)
    values = values_of(space)
    assert values is not None, "all other spaces have an end"
    return values[int(part * len(values))]


def _searcher(search: Search) -> Iterator[Problem]:
    total = combinations_of(search)
    if isinstance(search.searcher, OptunaSearcher):
        if importlib.util.find_spec("optuna") is None:
            yield Problem("search.searcher.type", "optuna is not installed; pip install 'raykd[optuna]', or use random")  # fmt: skip
    elif isinstance(search.searcher, GridSearcher):
        endless = [key for key, space in search.parameters.items() if values_of(space) is None]
        if endless:
            yield Problem(_at(endless[0]), "has no end of values, which a grid needs; use choice, grid, quniform "
                          "or randint, or searcher: {type: random}")  # fmt: skip
        elif search.trials is not None:
            yield Problem("search.trials", f"found {search.trials}, but a grid tries all its {total} combinations; "
                          "leave it out, or use searcher: {type: random}")  # fmt: skip
        elif total is not None and total > _MOST:
            yield Problem("search.parameters", f"the grid has {total:,} combinations; name fewer values")  # fmt: skip
    elif total is not None and search.count > total:
        yield Problem("search.trials", f"found {search.count}, but there are only {total} combinations; lower it, or "
                      "use searcher: {type: grid}")  # fmt: skip
    if search.finalists is not None:
        most = total if isinstance(search.searcher, GridSearcher) else search.count
        if most is not None and search.finalists.top > most:
            yield Problem("search.finalists.top", f"found {search.finalists.top}, more than the {most} trials; "
                          "lower it")  # fmt: skip


def _replicas(config: Config, search: Search) -> Iterator[Problem]:
    """Where each replica has weights to start from, or a teacher, of its own: there are no more, and they fit one network."""
    starts = config.student.weights is not None and REPLICA in config.student.weights
    taught = any(teacher.teaches is not None for teacher in config.teachers)
    finalists = search.finalists
    if finalists is not None and finalists.seeds > config.seeds and (starts or taught):
        what = "starts from weights" if starts else "has a teacher"
        yield Problem("search.finalists.seeds", f"found {finalists.seeds}, but each replica {what} of its own, of which there are "
                      f"seeds={config.seeds}; lower it to {config.seeds}, or raise seeds")  # fmt: skip
    for key in search.parameters if starts else ():
        if key.startswith("student.model"):
            yield Problem(_at(key), "varies the network, but each replica starts from weights of its own, which fit one network; "
                          "leave one of the two out")  # fmt: skip


def _tidy(value: float) -> float | int:
    """Without the last digits of binary rounding; whole numbers as such."""
    rounded = float(f"{value:.12g}")
    return int(rounded) if rounded.is_integer() else rounded


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
