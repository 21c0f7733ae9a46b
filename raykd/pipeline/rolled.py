"""States as samples: episodes of the teachers, rolled before there is any sample, and what students visited later.

$RAYKD_HOME/decoded/rolled/<hash>.npz       episodes of the teachers, by all that decides them
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config import Config
from raykd.config.environments import Environment
from raykd.config.places import cache_root
from raykd.config.sources import GymnasiumSource, TransitionsSource
from raykd.control.environments import Spaces, fingerprint, spaces
from raykd.control.rolling import Episodes, joined
from raykd.control.seeds import episode_seeds
from raykd.data import Samples, build_samples
from raykd.data.dataset import PARTS
from raykd.data.domains import SIMULATOR
from raykd.data.transitions import ANSWERS, outputs_of, read_transitions
from raykd.data.visited import Visited, with_visited
from raykd.disks import write_whole
from raykd.errors import InputError
from raykd.pipeline.policies import (
    acting_teachers,
    code_of_path,
    first_policy,
    privileged_of,
)
from raykd.pipeline.rollouts import Rolling, groups_of, roll_group, roll_side_by_side
from raykd.runtime import connect, engine
from raykd.tasks import find_task

_VERSION = 2
"""Raise it where what is rolled changes."""
_KEY = "data.source"
_FEW = 256
"""Episodes of the teachers that are rolled in the process that reads the data, beside the start of the cluster."""
NOMINAL = "nominal"
"""Name of the source's own environment among its simulators."""


def rolled_samples(
    config: Config, source: GymnasiumSource, columns: Sequence[str], *, address: str | None = None
) -> Samples:
    """The states that the teachers of a recipe visit, and those of its earlier students behind them.

    Args:
        config: the recipe.
        source: its `data.source`.
        columns: that samples are to be sliced by.
        address: of the Ray cluster whose nodes roll; None = the one at hand, where there is enough to do.

    Raises:
        InputError: the environment or a teacher that is to act cannot be made, or they do not fit each other.
        RolloutError: an environment or a teacher failed while it was rolled.
    """
    path = roll_teachers(config, source, address)
    plain = config.data.model_copy(update={"source": TransitionsSource(path=str(path))})
    samples = build_samples(plain, seed=config.seed, task=config.task, columns=columns)
    arrays = read_transitions(path, key=_KEY)
    answers = {n.removeprefix(ANSWERS): a for n, a in arrays.items() if n.startswith(ANSWERS)}
    samples = _with_answers(samples, answers)
    for file in source.visited:
        samples = with_visited(samples, read_visited(Path(file)))
    for stage, episodes in source.planned:
        samples = with_visited(samples, _expected(config, samples, arrays, stage, episodes))
    return samples


def _with_answers(samples: Samples, answers: Mapping[str, np.ndarray]) -> Samples:
    return replace(samples, recorded=answers) if answers else samples


def simulators(source: GymnasiumSource) -> dict[str, Environment]:
    """The source's environments, by name; its own one first.

    Raises:
        InputError: what a simulator replaces is no setting of an environment.
    """
    found = {NOMINAL: source.environment}
    for name, changes in source.simulators.items():
        try:
            found[name] = source.varied(changes)
        except ValueError as error:
            why = " ".join(str(error).split())[:300]
            raise InputError.at(f"{_KEY}.simulators.{name}", why) from error
    return found


def common_spaces(source: GymnasiumSource, task: str) -> Spaces:
    """What policies see and do in all of the source's environments.

    Raises:
        InputError: they differ, or the actions are not those of the task.
    """
    found = {}
    for name, environment in simulators(source).items():
        key = _KEY if name == NOMINAL else f"{_KEY}.simulators.{name}"
        found[name] = spaces(environment, key=key)
    own = found[NOMINAL]
    for name, other in found.items():
        if other != own:
            raise InputError.at(f"{_KEY}.simulators.{name}", f"has {other.in_words}, where the source's own environment has {own.in_words}")  # fmt: skip
    settings = find_task(task).settings
    if not settings.acts or settings.class_logits != own.discrete:
        right = "control" if own.discrete else "control_continuous"
        raise InputError.at("task", f"is {task}, but {source.id} has {own.in_words}: set `task: {right}`")  # fmt: skip
    return own


def roll_teachers(config: Config, source: GymnasiumSource, address: str | None = None) -> Path:
    """The file with the teachers' episodes, rolled now unless it is kept.

    Raises:
        InputError: as of `rolled_samples`.
        RolloutError: an environment or a teacher failed.
    """
    known = common_spaces(source, config.task)
    environments = simulators(source)
    actors = acting_teachers(config, source.behaviour)
    policies = {one.name: first_policy(config, one, known, source.take) for one in actors}
    privileged = privileged_of(config)
    decides = {
        "version": _VERSION,
        "environments": {name: fingerprint(one) for name, one in environments.items()},
        "policies": {name: told for name, (_, told) in policies.items()},
        "privileged": {n: code_of_path(p, f"teachers.{n}.model.path") for n, p in privileged.items()},
        "episodes": source.episodes.model_dump(),
        "seed": source.seed,
        "take": source.take,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
    path = cache_root(config.data) / "rolled" / f"{digest}.npz"
    if path.is_file():
        return path
    pairs = [(s, t) for s in environments for t in policies]
    wanted: list[tuple[str, str, str]] = []
    rollings: list[Rolling] = []
    for part in PARTS:
        seeds = episode_seeds(source.seed, part, getattr(source.episodes, part))
        for place, (simulator, teacher) in enumerate(pairs):
            if own := seeds[place :: len(pairs)]:
                wanted.append((part, simulator, teacher))
                rollings.append(Rolling(environments[simulator], policies[teacher][0], own, privileged))  # fmt: skip
    done = _rolled(config, rollings, address)
    parts = [_Part(*one, episodes) for one, episodes in zip(wanted, done, strict=True)]
    write_arrays(path, _arrays(parts, known))
    return path


def _rolled(config: Config, wanted: Sequence[Rolling], address: str | None) -> list[Episodes]:
    """Here where that is sooner than to start processes for it, else on the cluster; the same episodes either way."""
    episodes = sum(len(one.seeds) for one in wanted)
    if address is None and episodes <= _FEW:
        return [joined([roll_group(one, own) for own in groups_of(one.seeds)]) for one in wanted]
    cluster = config.cluster
    with engine(address, config, resume=True) as crew, connect(address) as resources:
        return roll_side_by_side(
            crew,
            wanted,
            resources={"CPU": cluster.rollouts.cpus},
            runners=cluster.rollouts.runners
            or max(1, int(resources.cpus // cluster.rollouts.cpus)),
            patience_s=cluster.student.start_timeout_s,
            limit_s=cluster.rollouts.group_timeout_s,
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """Episodes of one part that a teacher acted in, in one simulator."""

    part: str
    simulator: str
    teacher: str
    episodes: Episodes


def _arrays(parts: Sequence[_Part], known: Spaces) -> dict[str, np.ndarray]:
    """Episodes as arrays of a transitions file; ids are made of part, simulator, who acted, seed and step."""
    whole = joined([one.episodes for one in parts])
    counts = [len(one.episodes.step) for one in parts]
    names = [
        f"{one.part}/{one.simulator}/{one.teacher}/{one.episodes.seeds[own]}/{step}"
        for one in parts
        for own, step in zip(one.episodes.episode.tolist(), one.episodes.step.tolist(), strict=True)
    ]
    named = [str(index) for index in range(known.actions)]
    return {
        **steps_of(whole),
        "splits": np.repeat([one.part for one in parts], counts),
        SIMULATOR: np.repeat([one.simulator for one in parts], counts),
        "ids": np.array(names),
        "names": np.array(named if known.discrete else outputs_of(known.actions)),
    }


def steps_of(episodes: Episodes) -> dict[str, np.ndarray]:
    """What happened at each step, as arrays of a transitions file."""
    last = np.zeros(len(episodes.step), bool)
    last[np.cumsum(episodes.lengths) - 1] = True
    return {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
        "episode": episodes.episode,
        "step": episodes.step,
        "terminated": last & episodes.terminated[episodes.episode],
        "truncated": last & episodes.truncated[episodes.episode],
        **{f"{ANSWERS}{name}": said for name, said in episodes.answers.items()},
    }


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write a transitions file whole; its SHA-256.

    Raises:
        DiskError: it cannot be written.
    """
    held = io.BytesIO()
    np.savez(held, **arrays)
    write_whole(path, [held.getvalue()])
    return hashlib.sha256(held.getvalue()).hexdigest()


def read_visited(path: Path) -> Visited:
    """The states in a file of `RUN/rollouts`.

    Raises:
        InputError: it is missing or damaged.
    """
    arrays = read_transitions(path, key=_KEY)
    return Visited(
        observations=arrays["observations"],
        replica=arrays["replica"],
        names=tuple(arrays["ids"].tolist()),
        answers={n.removeprefix(ANSWERS): a for n, a in arrays.items() if n.startswith(ANSWERS)},
        simulators=arrays.get(SIMULATOR),
    )


def _expected(
    config: Config,
    samples: Samples,
    arrays: Mapping[str, np.ndarray],
    stage: str,
    episodes: int,
) -> Visited:
    """As many states as a stage may be expected to visit: episodes as long as the teachers', to plan with."""
    mean = len(arrays["step"]) / max(1, len(np.unique(arrays["episode"])))
    each = max(1, round(mean * episodes))
    replica = np.repeat(np.arange(config.seeds), each)
    rows = np.resize(np.arange(len(arrays["observations"])), len(replica))
    return Visited(
        observations=arrays["observations"][rows],
        replica=replica,
        names=tuple(f"{stage}/planned/{place}" for place in range(len(replica))),
        answers={name: said[rows] for name, said in samples.recorded.items()},
        simulators=arrays[SIMULATOR][rows],
    )
