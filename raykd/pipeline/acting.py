"""What a job does where its models act: rolls them to be evaluated, films one episode, trains by rewards alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from raykd.config import Config
from raykd.config.environments import Environment
from raykd.config.stages import REINFORCED
from raykd.control.environments import Spaces
from raykd.control.filming import Film, film
from raykd.control.reinforcement import check_installed, reinforce
from raykd.control.rolling import Policy, PrivilegedPolicy
from raykd.control.seeds import episode_seeds
from raykd.data import Samples
from raykd.evaluate.returns import NOMINAL
from raykd.evaluate.statistics import spread
from raykd.models.weights import fingerprint
from raykd.pipeline.evaluation import StudentSpec, fit_ids
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.returns import (
    Actor,
    Arena,
    Returned,
    acts,
    judges_of,
    keep_frames,
    roll_returns,
    source_of,
    student_actor,
    teacher_actors,
    variants_of,
)
from raykd.pipeline.rolled import common_spaces, simulators
from raykd.pipeline.rollouts import in_groups
from raykd.pipeline.taught import student_rows
from raykd.pipeline.teachers import Specs
from raykd.seeding import derive
from raykd.tracking import events
from raykd.train.checkpoint import FitFolder

if TYPE_CHECKING:
    from raykd.pipeline.job import Job


def acting_roles(config: Config) -> tuple[str, ...]:
    """Controls that are trained in the run's folder, and are no fits."""
    return (REINFORCED,) if REINFORCED in config.evaluate.controls else ()


def check_acting(config: Config) -> None:
    """What has to be there before anything starts.

    Raises:
        InputError: what trains by rewards is not installed.
    """
    if acting_roles(config):
        check_installed("evaluate.controls")


def states_learnt_from(prepared: Prepared) -> list[int]:
    """How many states each replica of the student is trained on."""
    config, samples = prepared.config, prepared.samples
    return [len(student_rows(config, samples, replica)) for replica in range(config.seeds)]


def reinforced(
    samples: Samples,
    spec: StudentSpec,
    folder: FitFolder,
    environments: Sequence[Environment],
    spaces: Spaces,
    steps: int,
    seed: int,
) -> None:
    """Train one replica of the student by rewards alone, unless it was; its weights are those of a fit."""
    identity = f"rl {fingerprint_of(spec)} {seed} {steps} {[one.model_dump_json() for one in environments]}"
    if folder.result_of([identity]) is not None:
        return
    torch.manual_seed(seed)
    network = spec.network(samples, None)
    taken = reinforce(network, environments, spaces, steps=steps, seed=seed)
    weights = {name: one.detach().clone() for name, one in network.model.state_dict().items()}
    known = dict.fromkeys(("best", "last"), fingerprint(weights))
    folder.keep({"identity": identity, "fingerprints": known, "steps": taken}, weights, weights)


def fingerprint_of(spec: StudentSpec) -> str:
    """What a student's network is known by."""
    return f"{spec.model.model_dump_json()} {spec.preprocessing} {spec.outputs}"


def train_by_rewards(job: Job) -> None:
    """Train every replica of the control `rl`, with as many steps as the student's training has states."""
    prepared = job.prepared
    config, source = prepared.config, source_of(prepared.config)
    spec, own = StudentSpec.of(prepared), config.seed if config.student.seed is None else config.student.seed  # fmt: skip
    environments = tuple(simulators(source).values())
    given = [
        (spec, FitFolder(job.folder.checkpoints(fit_id)), environments, common_spaces(source, config.task), steps,
         derive(own, REINFORCED, replica))
        for replica, (fit_id, steps) in enumerate(
            zip(fit_ids(prepared, REINFORCED), states_learnt_from(prepared), strict=True)
        )
    ]  # fmt: skip
    with job.stage("student", fits=fit_ids(prepared, REINFORCED)):
        job.ask(reinforced, given)


def arena_of(job: Job, specs: Specs, spaces: Spaces) -> Arena:
    """Where a job's models are rolled."""
    config = job.config
    cluster = config.cluster

    def tell(what: str) -> Callable[[int, int], None]:
        def told(done: int, total: int) -> None:
            unit = f"groups of episodes ({what})"
            job.emit(events.progress("evaluate", done=done, total=total, unit=unit))

        return told

    side_by_side = partial(
        in_groups,
        job.crew,
        resources={"CPU": cluster.rollouts.cpus},
        runners=cluster.rollouts.runners or max(1, job.placement.lanes),
        patience_s=cluster.student.start_timeout_s,
        limit_s=cluster.rollouts.group_timeout_s,
    )
    return Arena(config, job.folder, judges_of(config, specs, spaces), side_by_side, tell)


def stage_returns(job: Job, specs: Specs) -> dict[str, Any]:
    """What the students of a stage earn on the seeds that choose, as numbers over replicas; none where they do not act."""
    if not acts(job.config):
        return {}
    spaces = common_spaces(source_of(job.config), job.config.task)
    own = {"student": student_actor(job.prepared, job.folder, "student", spaces)}
    rolled = arena_of(job, specs, spaces).roll("validation", NOMINAL, own)["student"]
    found = {"return": spread(rolled.mean_R.tolist())}
    if rolled.success_RE is not None:
        found["success"] = spread(rolled.success_RE.mean(axis=1).tolist())
    return found


def evaluate_by_return(job: Job, specs: Specs, students: Mapping[str, Prepared]) -> Returned:
    """Roll every model of a run in every variant, and film the student and the best teacher.

    Args:
        job: the run.
        specs: its teachers.
        students: role -> the recipe that it was trained by.

    Raises:
        RolloutError: an environment or a model failed each time; names the variant.
    """
    spaces = common_spaces(source_of(job.config), job.config.task)
    own = {role: student_actor(one, job.folder, role, spaces) for role, one in students.items()}
    teachers = teacher_actors(job.config, specs, spaces)
    found = roll_returns(arena_of(job, specs, spaces), own, teachers, spaces)
    best = found.cast.best[NOMINAL]
    _film(job, {"student": own["student"], best: teachers[best]})
    return found


def _film(job: Job, actors: Mapping[str, Actor]) -> None:
    """Keep moments of the first common episode; says why where there are none."""
    config = job.config
    (seed,) = episode_seeds(config.seed, "evaluate", 1)
    given = [(variants_of(config)[NOMINAL], one.policies[0], seed) for one in actors.values()]
    resources, patience_s = {"CPU": config.cluster.rollouts.cpus}, config.cluster.student.start_timeout_s  # fmt: skip
    films = job.crew.each(filmed, given, resources, len(given), patience_s=patience_s)
    kept = {name: one for name, one in zip(actors, films, strict=True) if isinstance(one, Film)}
    if len(kept) == len(actors):
        keep_frames(job.folder, NOMINAL, kept)
        return
    why = next(one for one in films if isinstance(one, str))
    job.emit(events.message("evaluate", f"the report shows no frames: {why}"))


def filmed(environment: Environment, policy: Policy | PrivilegedPolicy, seed: int) -> Film | str:
    """`film`, for another process: a privileged teacher, whose answers it lacks, is not filmed."""
    if isinstance(policy, PrivilegedPolicy):
        return "the best teacher sees the simulator itself"
    return film(environment, policy, seed)
