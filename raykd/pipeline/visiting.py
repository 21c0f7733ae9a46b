"""What students of an earlier stage visit, before the stage that learns from it begins (DAgger, Ross et al. 2011).

RUN/rollouts/<stage>.npz    states of all replicas, with whose they are
RUN/rollouts/<stage>.json   what decided them, the file's SHA-256, and what the episodes were like
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config.chain import StageRecipe, folder_of_rollouts
from raykd.config.sources import GymnasiumSource
from raykd.config.stages import Rollouts
from raykd.control.environments import fingerprint
from raykd.control.policies import MixedPolicy
from raykd.control.rolling import Episodes, Policy, joined
from raykd.control.seeds import episode_seeds
from raykd.data.domains import SIMULATOR
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import fingerprint as weights_fingerprint
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.fits import known_weights
from raykd.pipeline.policies import (
    ensemble_policy,
    privileged_of,
    routed_teacher,
    student_policy,
)
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.rolled import common_spaces, simulators, steps_of, write_arrays
from raykd.pipeline.rollouts import Rolling, roll_side_by_side
from raykd.runtime import Crew
from raykd.seeding import derive
from raykd.train.checkpoint import FitFolder


@dataclass(frozen=True, eq=False)
class Visit:
    """What is rolled for one stage.

    Attributes:
        stage: the stage that is to learn from it.
        before: the recipe of the stage whose students act, prepared.
        folder: of the run.
    """

    stage: StageRecipe
    before: Prepared
    folder: RunFolder

    @property
    def path(self) -> Path:
        """The file of the states."""
        return folder_of_rollouts(self.folder.path, self.stage.name)

    @property
    def rollouts(self) -> Rollouts:
        """Its settings."""
        assert self.stage.rollouts is not None, "only for stages that visit"
        return self.stage.rollouts

    @property
    def source(self) -> GymnasiumSource:
        """Where it is rolled."""
        source = self.before.config.data.source
        assert isinstance(source, GymnasiumSource), "`stage_problems` has looked"
        return source


def visit(
    asked: Visit, crew: Crew, runners: int, tell: Callable[[int, int], None] | None = None
) -> Mapping[str, Any]:
    """Roll what a stage is to learn from, unless it is there; what the episodes were like.

    Args:
        asked: what is rolled.
        crew: whose processes roll.
        runners: processes at a time.
        tell: is called with the groups done, and their number.

    Raises:
        RolloutError: an environment or a policy failed each time.
        DiskError: the states cannot be written.
    """
    note = asked.path.with_suffix(".json")
    decides = _decides(asked)
    if asked.path.is_file() and note.is_file():
        known = read_json(note)
        same = known.get("decides") == decides
        if same and known.get("sha256") == hashlib.sha256(asked.path.read_bytes()).hexdigest():
            found: Mapping[str, Any] = known
            return found
    wanted, whose = _wanted(asked)
    cluster = asked.before.config.cluster
    done = roll_side_by_side(
        crew,
        wanted,
        resources={"CPU": cluster.rollouts.cpus},
        runners=runners,
        patience_s=cluster.student.start_timeout_s,
        limit_s=cluster.rollouts.group_timeout_s,
        tell=tell,
    )
    digest = write_arrays(asked.path, _arrays(asked.stage.name, whose, done))
    told = {"schema": 1, "decides": decides, "sha256": digest, **_told(done, whose)}
    write_json(note, told, durable=True)
    return told


def _students(asked: Visit, *, discrete: bool) -> list[Policy]:
    """The student of each replica."""
    networks = (
        student_network(asked.before, _folder(asked, replica).read_weights("best"))
        for replica in range(asked.before.config.seeds)
    )
    return [student_policy(one, discrete=discrete, take=asked.rollouts.take) for one in networks]


def _teachers(asked: Visit, *, discrete: bool) -> dict[str, Policy]:
    """Who acts beside the students in each simulator: the teachers together, or the one that it is routed to."""
    if not asked.rollouts.betas[0] > 0:
        return {}
    specs = asked.before.specs(known_weights(asked.before))
    found: dict[str, Policy] = {}
    for name in _environments(asked):
        routed = routed_teacher(asked.before.config, name)
        own = specs if routed is None else {routed: specs[routed]}
        found[name] = ensemble_policy(own, discrete=discrete)
    return found


def _folder(asked: Visit, replica: int) -> FitFolder:
    """The checkpoints of a replica of the students that act."""
    assert asked.stage.start is not None, "`stage_problems` has looked"
    stage = asked.folder.stage(asked.stage.start)
    return FitFolder(stage.checkpoints(f"student/replica{replica}"))


def _decides(asked: Visit) -> dict[str, Any]:
    """All that decides what is visited, as plain values."""
    prepared = asked.before
    specs = prepared.specs(known_weights(prepared)) if asked.rollouts.betas[0] > 0 else {}
    return {
        "rollouts": asked.rollouts.model_dump(mode="json"),
        "environments": {name: fingerprint(one) for name, one in _environments(asked).items()},
        "students": [
            weights_fingerprint(_folder(asked, replica).read_weights("best"))
            for replica in range(prepared.config.seeds)
        ],
        "teachers": {name: spec.fingerprint for name, spec in specs.items()},
        "seed": _seed(asked),
    }


def _environments(asked: Visit) -> dict[str, Any]:
    every, names = simulators(asked.source), asked.rollouts.simulators
    return {name: one for name, one in every.items() if names is None or name in names}


def _seed(asked: Visit) -> int:
    config = asked.before.config
    return config.seed if config.student.seed is None else config.student.seed


def _wanted(asked: Visit) -> tuple[list[Rolling], list[tuple[int, str]]]:
    """What is to be rolled, and of which replica and simulator each is."""
    environments, wanted, whose = _environments(asked), [], []
    privileged = privileged_of(asked.before.config)
    discrete = common_spaces(asked.source, asked.before.config.task).discrete
    teachers, beta = _teachers(asked, discrete=discrete), asked.rollouts.betas[0]
    for replica, student in enumerate(_students(asked, discrete=discrete)):
        own = derive(_seed(asked), "student", replica)
        seeds = episode_seeds(own, f"rollouts/{asked.stage.name}", asked.rollouts.episodes)
        for place, (name, environment) in enumerate(environments.items()):
            share = seeds[place :: len(environments)]
            if share:
                policy = MixedPolicy(teachers[name], student, beta) if teachers else student
                wanted.append(Rolling(environment, policy, share, privileged))
                whose.append((replica, name))
    return wanted, whose


def _arrays(
    stage: str, whose: list[tuple[int, str]], done: list[Episodes]
) -> dict[str, np.ndarray]:
    """The states as arrays of a transitions file; ids are made of stage, replica, seed and step."""
    names = [
        f"{stage}/{replica}/{simulator}/{one.seeds[own]}/{step}"
        for (replica, simulator), one in zip(whose, done, strict=True)
        for own, step in zip(one.episode.tolist(), one.step.tolist(), strict=True)
    ]
    replicas = [np.full(len(one.step), replica) for (replica, _), one in zip(whose, done, strict=True)]  # fmt: skip
    simulators = np.repeat([one for _, one in whose], [len(one.step) for one in done])
    return {
        **steps_of(joined(done)),
        "replica": np.concatenate(replicas),
        "ids": np.array(names),
        SIMULATOR: simulators,
    }


def _told(done: list[Episodes], whose: list[tuple[int, str]]) -> dict[str, Any]:
    """What the episodes were like, over replicas and simulators."""
    whole = joined(done)
    return {
        "states": len(whole.step),
        "episodes": len(whole),
        "mean_return": float(whole.returns.mean()),
        "mean_length": float(whole.lengths.mean()),
        "terminated": int(whole.terminated.sum()),
        "truncated": int(whole.truncated.sum()),
        "success": None if whole.success is None else float(whole.success.mean()),
        "replicas": len({replica for replica, _ in whose}),
    }
