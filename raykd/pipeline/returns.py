"""Evaluation by return: every model acts in every variant of the environment, on the same seeds.

RUN/returns/<part>-<variant>.npz     what each model's episodes came to: returns, lengths, agreement with the teachers
RUN/returns/<part>-<variant>.json    what decided them, and the file's SHA-256
RUN/returns/frames.npz               moments of one episode of the student and the best teacher

Parts are `test`, and `validation`, whose episodes choose the best teachers. Nothing else has their seeds: those that states
are rolled by are derived under other names.

Shapes: R replicas, E episodes, N steps of all of them, T teachers, C numbers of an output.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from raykd.config import Config
from raykd.config.environments import Environment
from raykd.config.sources import GymnasiumSource
from raykd.control.environments import Spaces, fingerprint
from raykd.control.filming import Film
from raykd.control.policies import RandomPolicy, RecordedPolicy, log_softmax
from raykd.control.rolling import Episodes, Policy, PrivilegedPolicy, RolloutError
from raykd.control.seeds import episode_seeds
from raykd.evaluate.returns import (
    NOMINAL,
    RANDOM,
    Cast,
    Rolled,
    Variants,
    over_variants,
    returns_numbers,
)
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import fingerprint as weights_fingerprint
from raykd.pipeline.evaluation import StudentSpec, fit_ids
from raykd.pipeline.policies import (
    HostedModel,
    ensemble_policy,
    policy_of_spec,
    privileged_of,
    student_policy,
)
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.rolled import simulators, write_arrays
from raykd.pipeline.rollouts import Rolling, roll_group
from raykd.pipeline.teachers import Specs
from raykd.teachers.model import Spec
from raykd.train.checkpoint import FitFolder

Part = Literal["validation", "test"]
InGroups = Callable[..., list[list[dict[str, np.ndarray]]]]
"""`raykd.pipeline.rollouts.in_groups` with all that says where it is done."""
_SEEDS: Mapping[Part, str] = {"test": "evaluate", "validation": "evaluate/validation"}
_CHOOSE = 2
"""So many times fewer episodes choose than are reported."""
_ARRAYS = {"returns": "returns_RE", "lengths": "lengths_RE", "success": "success_RE", "agreed": "agreed_RE", "apart": "apart_RE"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Actor:
    """A model that acts: a policy for each replica, and what tells each of them from others."""

    policies: tuple[Policy | PrivilegedPolicy, ...]
    decides: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Judges:
    """The teachers, as those who say what they would have done.

    Attributes:
        models: teachers that can be asked about any state.
        privileged: names of those that were asked while it was rolled.
        discrete: whether actions are.
    """

    models: tuple[HostedModel, ...]
    privileged: tuple[str, ...]
    discrete: bool

    def outputs(self, episodes: Episodes) -> np.ndarray:
        """What all of them say of the states that were visited, float64 [T, N, C]."""
        states = torch.from_numpy(episodes.observations)
        with torch.inference_mode():
            said = [model(states).double().numpy() for model in self.models]
        return np.stack([*said, *(episodes.answers[name].astype(np.float64) for name in self.privileged)])  # fmt: skip


@dataclass(frozen=True, eq=False)
class Arena:
    """Where models are rolled to be evaluated.

    Attributes:
        config: the recipe.
        folder: of the run, or of one of its stages.
        judges: who says what they would have done.
        side_by_side: does groups of episodes.
        tell: of what is rolled, what to call with the groups done, and their number.
    """

    config: Config
    folder: RunFolder
    judges: Judges
    side_by_side: InGroups
    tell: Callable[[str], Callable[[int, int], None]]

    def roll(self, part: Part, variant: str, actors: Mapping[str, Actor]) -> dict[str, Rolled]:
        """Each model's episodes in one variant; read again where they were rolled before.

        Raises:
            RolloutError: the environment or a model failed each time; names the variant.
            DiskError: they cannot be kept.
        """
        environment = variants_of(self.config)[variant]
        wanted = self.config.evaluate.episodes
        count = wanted if part == "test" else max(1, wanted // _CHOOSE)
        seeds = episode_seeds(self.config.seed, _SEEDS[part], count)
        decides = {
            "schema": 1,
            "environment": fingerprint(environment),
            "success": [environment.success, environment.success_return],
            "seeds": [str(seed) for seed in seeds],
            "models": {name: list(one.decides) for name, one in actors.items()},
            "judges": [*(one.spec.fingerprint for one in self.judges.models), *self.judges.privileged],
        }  # fmt: skip
        path = self.folder.returns / f"{part}-{variant}.npz"
        note = path.with_suffix(".json")
        if path.is_file() and note.is_file():
            known = read_json(note)
            whole = known.get("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
            if whole and known.get("decides") == decides:
                with np.load(path, allow_pickle=False) as arrays:
                    return _models(dict(arrays), actors)
        privileged = privileged_of(self.config)
        given = [
            (Rolling(environment, policy, seeds, privileged), self.judges, f"{variant} ({environment.id}, {name})")
            for name, one in actors.items()
            for policy in one.policies
        ]  # fmt: skip
        done = iter(self.side_by_side(judged_group, given, tell=self.tell(f"{part} in {variant}")))
        arrays = {}
        for name, one in actors.items():
            for replica in range(len(one.policies)):
                groups = next(done)
                for key in groups[0]:
                    found = np.concatenate([group[key] for group in groups])
                    arrays[f"{name}/{replica}/{key}"] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = write_arrays(path, arrays)
        write_json(note, {"decides": decides, "sha256": digest})
        return _models(arrays, actors)


def _models(arrays: Mapping[str, np.ndarray], actors: Mapping[str, Actor]) -> dict[str, Rolled]:
    return {
        name: Rolled.stacked(
            [
                Rolled(
                    **{
                        field: arrays[place][None]
                        for key, field in _ARRAYS.items()
                        if (place := f"{name}/{replica}/{key}") in arrays
                    }
                )
                for replica in range(len(one.policies))
            ]
        )
        for name, one in actors.items()
    }


def judged_group(
    rolling: Rolling, judges: Judges, what: str, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """What one group of episodes came to, in this process; see `_ARRAYS`.

    Args:
        rolling: who acts, and where.
        judges: the teachers.
        what: the variant and the model, for errors.
        seeds: of the group.

    Raises:
        RolloutError: it failed each time.
    """
    try:
        episodes = roll_group(rolling, seeds)
    except RolloutError as error:
        raise RolloutError(what, error.seed, error.step, error.what) from error
    found = {"returns": episodes.returns, "lengths": episodes.lengths}
    if episodes.success is not None:
        found["success"] = episodes.success
    outputs_TNC = judges.outputs(episodes)
    count = len(episodes)
    found["apart"] = _per_episode(apart(outputs_TNC, discrete=judges.discrete), episodes, count)
    if judges.discrete:
        agreed_N = together(outputs_TNC).argmax(axis=1) == episodes.actions
        found["agreed"] = _per_episode(agreed_N.astype(np.float64), episodes, count)
    return found


def _per_episode(values_N: np.ndarray, episodes: Episodes, count: int) -> np.ndarray:
    return np.bincount(episodes.episode, weights=values_N, minlength=count)


def together(logits_TNC: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, C] of the mean of the teachers' probabilities."""
    log_probs_TNC = log_softmax(logits_TNC)
    largest_NC = log_probs_TNC.max(axis=0)
    found: np.ndarray = largest_NC + np.log(np.exp(log_probs_TNC - largest_NC).mean(axis=0))
    return found


def apart(outputs_TNC: np.ndarray, *, discrete: bool) -> np.ndarray:
    """How far teachers are from each other in each state, float64 [N].

    Discrete: the Jensen-Shannon divergence of their probabilities, in nats (Lin 1991, Eq. 5.1). Continuous: the standard
    deviation of their means, averaged over the numbers of an action.
    """
    if not discrete:
        means_TNA = outputs_TNC[..., : outputs_TNC.shape[-1] // 2]
        spread_N: np.ndarray = means_TNA.std(axis=0).mean(axis=1)
        return spread_N
    log_probs_TNC, mean_NC = log_softmax(outputs_TNC), together(outputs_TNC)
    from_mean_TN = (np.exp(log_probs_TNC) * (log_probs_TNC - mean_NC)).sum(axis=2)
    found: np.ndarray = np.maximum(from_mean_TN.mean(axis=0), 0.0)
    return found


def acts(config: Config) -> bool:
    """Whether the models of a recipe are rolled to be evaluated."""
    return isinstance(config.data.source, GymnasiumSource)


def source_of(config: Config) -> GymnasiumSource:
    """Where the models of a recipe act."""
    source = config.data.source
    assert isinstance(source, GymnasiumSource), "`acts` has looked"
    return source


def variants_of(config: Config) -> dict[str, Environment]:
    """The source's own environment, `nominal`, and the variants that `evaluate` names, in order."""
    source = source_of(config)
    return {
        NOMINAL: source.environment,
        **{name: source.varied(changes) for name, changes in config.evaluate.variants.items()},
    }


def trained_on(config: Config) -> list[str]:
    """The variants in which states to learn from were rolled."""
    seen = [fingerprint(one) for one in simulators(source_of(config)).values()]
    return [name for name, one in variants_of(config).items() if fingerprint(one) in seen]


def student_actor(prepared: Prepared, run: RunFolder, role: str, spaces: Spaces) -> Actor:
    """Every replica of a student at its best epoch."""
    spec, policies, decides = StudentSpec.of(prepared), [], []
    for one in fit_ids(prepared, role):
        weights = FitFolder(run.checkpoints(one)).read_weights("best")
        network = spec.network(prepared.samples, weights)
        policies.append(student_policy(network, discrete=spaces.discrete))
        decides.append(weights_fingerprint(weights))
    return Actor(tuple(policies), tuple(decides))


def teacher_actors(config: Config, specs: Specs, spaces: Spaces) -> dict[str, Actor]:
    """Every teacher that can act, and the ensemble of those with a model."""
    privileged, discrete = privileged_of(config), spaces.discrete
    models = {name: spec for name, spec in specs.items() if isinstance(spec, Spec)}
    found = {
        name: Actor((policy_of_spec(spec, discrete=discrete),), (spec.fingerprint,))
        for name, spec in models.items()
    }
    for name, path in privileged.items():
        found[name] = Actor((RecordedPolicy(name, discrete),), (path,))
    if models:
        whole = ensemble_policy(models, discrete=discrete)
        found["ensemble"] = Actor((whole,), (" ".join(one.fingerprint for one in models.values()),))
    return found


def judges_of(config: Config, specs: Specs, spaces: Spaces) -> Judges:
    """The teachers of a recipe, as those who say what they would have done."""
    models = tuple(HostedModel(spec) for spec in specs.values() if isinstance(spec, Spec))
    return Judges(models, tuple(privileged_of(config)), spaces.discrete)


@dataclass(frozen=True)
class Returned:
    """What an evaluation by return has found.

    Attributes:
        test: variant -> model -> its episodes on the common seeds.
        validation: the same on the seeds that choose the best teachers, as far as it was rolled.
        cast: who is what.
        trained_on: variants in which states to learn from were rolled.
    """

    test: Variants
    validation: Variants
    cast: Cast
    trained_on: Sequence[str]

    def numbers(self) -> dict[str, Any]:
        """`returns` and `returns_overall` of the summary."""
        some = next(iter(self.test[NOMINAL].values()))
        return {
            "returns": returns_numbers(self.test, self.cast),
            "returns_overall": {
                "episodes": some.returns_RE.shape[1],
                "trained_on": list(self.trained_on),
                **over_variants(self.test, self.cast),
            },
        }


def roll_returns(arena: Arena, students: Mapping[str, Actor], teachers: Mapping[str, Actor], spaces: Spaces) -> Returned:  # fmt: skip
    """Roll students, teachers, their ensemble and chance in every variant.

    Args:
        arena: where.
        students: `student` and its controls.
        teachers: of `teacher_actors`.
        spaces: of the environment.

    Raises:
        RolloutError: an environment or a model failed each time.
    """
    chance = {RANDOM: Actor((RandomPolicy(spaces),), (RANDOM,))}
    alone = {name: one for name, one in teachers.items() if name != "ensemble"}
    test, validation, best = {}, {}, {}
    for variant in variants_of(arena.config):
        more = alone
        if variant == NOMINAL:
            more = {"student": students["student"], **teachers, **chance}
        validation[variant] = arena.roll("validation", variant, more)
        best[variant] = max(alone, key=lambda name: float(validation[variant][name].mean_R[0]))
        test[variant] = arena.roll("test", variant, {**students, **teachers, **chance})
    cast = Cast(students=tuple(students), best=best)
    return Returned(test, validation, cast, trained_on(arena.config))


def silent_returns(config: Config, students: Sequence[str]) -> Returned:
    """An evaluation of models that earn nothing, in the form of one."""
    teachers = [one.name for one in config.teachers if one.outputs is None]
    names = [*students, *teachers, "ensemble", RANDOM]

    def rolled(name: str, environment: Environment, episodes: int) -> Rolled:
        shape = (config.seeds if name in students else 1, episodes)
        says = environment.success is not None or environment.success_return is not None
        ones = np.ones(shape)
        return Rolled(returns_RE=0 * ones, lengths_RE=ones.astype(np.int64), success_RE=ones > 0 if says else None,
                      agreed_RE=ones, apart_RE=ones)  # fmt: skip

    test, validation = (
        {v: {name: rolled(name, one, episodes) for name in names} for v, one in variants_of(config).items()}
        for episodes in (2, 3)
    )  # fmt: skip
    cast = Cast(students=students, best=dict.fromkeys(test, teachers[0]))
    return Returned(test, validation, cast, [])


def with_returns(summary: Mapping[str, Any], found: Returned) -> dict[str, Any]:
    """A summary with returns: by variant, and of every model among its other numbers, those of the nominal environment."""
    numbers = found.numbers()
    on = {"test": numbers["returns"][NOMINAL]}
    nominal = {NOMINAL: found.validation[NOMINAL]}
    on["validation"] = returns_numbers(nominal, found.cast)[NOMINAL]

    def told(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
        more = {split: {**(model[split] or {}), **_headline(on[split].get(name))} for split in on}
        return {**model, **{split: one or model[split] for split, one in more.items()}}

    return {
        **summary,
        "student": told("student", summary["student"]),
        "ensemble": told("ensemble", summary["ensemble"]),
        **{group: {name: told(name, model) for name, model in summary[group].items()} for group in ("controls", "teachers")},
        **numbers,
    }  # fmt: skip


def _headline(numbers: Mapping[str, Any] | None) -> dict[str, Any]:
    if numbers is None:
        return {}
    return {key: numbers[key] for key in ("return", "success") if numbers[key] is not None}


def keep_frames(run: RunFolder, variant: str, films: Mapping[str, Film]) -> None:
    """Write the films of one episode; all have the same number of frames, the shorter ones their last one repeatedly."""
    count = max(len(one.steps) for one in films.values())

    def filled(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])

    run.returns.mkdir(parents=True, exist_ok=True)
    write_arrays(
        run.frames,
        {
            "names": np.array(list(films)),
            "variant": np.array(variant),
            "frames": np.stack([filled(one.frames) for one in films.values()]),
            "steps": np.stack([filled(one.steps) for one in films.values()]),
            "returns": np.array([one.earned for one in films.values()]),
        },
    )
