"""Episodes: a policy acts in environments, side by side in one process.

Each episode has an environment, a seed and a stream of random numbers of its own, and no environment starts a new episode
by itself: what happens in an episode depends on its seed and on the policy, not on the episodes beside it.

Shapes: B episodes under way, E episodes, N steps of all episodes, O numbers of an observation, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np

from raykd.config.environments import Environment
from raykd.control.environments import Spaces, make, spaces_of
from raykd.errors import RaykdError
from raykd.importing import load_callable
from raykd.seeding import derive


class RolloutError(RaykdError):
    """An environment or a policy failed: it raised, hung, or gave numbers that are not finite.

    Attributes:
        environment: its id.
        seed: of the episode.
        step: of the episode, from 0; −1 = before its first step.
        what: what happened.
    """

    def __init__(self, environment: str, seed: int, step: int, what: str) -> None:
        self.environment, self.seed, self.step, self.what = environment, seed, step, what
        super().__init__(f"environment {environment}, episode of seed {seed}, step {step}: {what}")

    def __reduce__(self) -> tuple[type[RolloutError], tuple[str, int, int, str]]:
        return type(self), (self.environment, self.seed, self.step, self.what)


_RESET = 0x7FFFFFFF
"""Bits of a seed that an environment is given: some are seeded with 32 bits at most."""


def env_seed(seed: int) -> int:
    """What an environment is given of an episode's seed."""
    return seed & _RESET


_UNDER_WAY: list[tuple[str, int, int]] = []


def under_way() -> tuple[str, int, int] | None:
    """Environment, seed and step that this process is at, if it rolls; for whoever waits for it."""
    return _UNDER_WAY[0] if _UNDER_WAY else None


Draws = Sequence[np.random.Generator]
"""The streams of random numbers of the episodes under way, one for each."""


class Policy(Protocol):
    """Who acts. It can be sent to another process, and keeps nothing from one step to the next."""

    def actions(self, observations_BO: np.ndarray, draws: Draws) -> np.ndarray:
        """An action for each observation, which depends on that observation and its own draws alone.

        Args:
            observations_BO: float32 [B, O].
            draws: B streams, of which each row draws from its own.

        Returns:
            int64 [B] in [0, A) for discrete actions, float32 [B, A] for continuous ones.
        """
        ...


@runtime_checkable
class PrivilegedPolicy(Protocol):
    """Who acts on answers that were given while rolling, by teachers that see the simulator itself."""

    def recorded_actions(self, answers: Mapping[str, np.ndarray], draws: Draws) -> np.ndarray:
        """As of `Policy`, of the answers (name -> float32 [B, C]) of the privileged teachers."""
        ...


@dataclass(frozen=True, eq=False)
class Episodes:
    """What happened in some episodes; steps are in the order of the episodes.

    Attributes:
        observations: float32 [N, O], before each action.
        actions: int64 [N], or float32 [N, A] within the bounds of the environment.
        rewards: float64 [N].
        episode: int64 [N] in [0, E).
        step: int64 [N], from 0 in each episode.
        terminated: bool [E]: the environment came to an end, so that nothing follows the last step.
        truncated: bool [E]: it was cut off by a time limit, and would have gone on.
        returns: float64 [E], sums of rewards.
        lengths: int64 [E].
        success: bool [E], or None where the settings do not say what a success is.
        seeds: int64 [E].
        answers: privileged teacher -> float32 [N, C], what it said at each step.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray | None
    seeds: np.ndarray
    answers: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)


def joined(parts: Sequence[Episodes]) -> Episodes:
    """The episodes of several parts, one part after the other; at least one part."""
    offsets = np.cumsum([0, *(len(part) for part in parts[:-1])])
    made: dict[str, Any] = {}
    for one in fields(Episodes):
        values = [getattr(part, one.name) for part in parts]
        if one.name == "answers":
            made[one.name] = {n: np.concatenate([v[n] for v in values]) for n in values[0]}
        elif one.name == "episode":
            shifted = [value + offset for value, offset in zip(values, offsets, strict=True)]
            made[one.name] = np.concatenate(shifted)
        else:
            made[one.name] = None if values[0] is None else np.concatenate(values)
    return Episodes(**made)


def roll(
    environment: Environment,
    policy: Policy | PrivilegedPolicy,
    seeds: Sequence[int],
    *,
    width: int = 16,
    privileged: Mapping[str, str] | None = None,
) -> Episodes:
    """Let a policy act, `width` episodes at a time.

    Args:
        environment: where.
        policy: who.
        seeds: of the episodes; each decides its episode's start, its environment's chance and the policy's draws.
        width: environments side by side; the policy is asked once a step for all of them.
        privileged: teacher -> `module:function`, called as `function(env.unwrapped, observation)` before each step; its
            answers are kept.

    Raises:
        InputError: the environment cannot be made.
        RolloutError: the environment or the policy failed.
    """
    asked = {name: load_callable(path, key=f"teachers.{name}.path") for name, path in (privileged or {}).items()}  # fmt: skip
    waiting = iter(enumerate(int(seed) for seed in seeds))
    done: dict[int, _Episode] = {}
    with ExitStack() as stack:
        lanes = []
        for _ in range(max(1, min(width, len(seeds)))):
            env = stack.enter_context(closing(make(environment)))
            lanes.append(_Lane(env, environment, spaces_of(env, environment), asked))
        running = [lane for lane in lanes if lane.begin(waiting)]
        while running:
            _act(policy, running)
            for lane in running:
                if lane.episode.ended:
                    done[lane.index] = lane.episode
            running = [lane for lane in running if not lane.episode.ended or lane.begin(waiting)]
    return _stacked([done[index] for index in range(len(seeds))], environment, lanes[0].spaces, [*asked])  # fmt: skip


@dataclass
class _Episode:
    """One episode as far as it has come."""

    seed: int
    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    answers: list[dict[str, np.ndarray]] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class _Lane:
    """One environment, and the episode that is under way in it."""

    def __init__(
        self,
        env: Any,
        settings: Environment,
        spaces: Spaces,
        privileged: Mapping[str, Callable[..., Any]],
    ) -> None:
        self._env, self._settings, self.spaces, self._privileged = env, settings, spaces, privileged
        self.index = -1
        self.episode = _Episode(0)
        self.draws = np.random.default_rng(0)

    def begin(self, waiting: Iterator[tuple[int, int]]) -> bool:
        """The next episode; False where there is none."""
        following = next(waiting, None)
        if following is None:
            return False
        self.index, seed = following
        self.episode = _Episode(seed)
        self.draws = np.random.default_rng(derive(seed, "policy"))
        seen, _ = self.guarded(lambda: self._env.reset(seed=env_seed(seed)))
        self._see(seen)
        return True

    def guarded(self, call: Callable[[], Any]) -> Any:
        """What a call gives.

        Raises:
            RolloutError: it raised.
        """
        _UNDER_WAY[:] = [(self._settings.id, self.episode.seed, len(self.episode.actions) - 1)]
        try:
            return call()
        except RaykdError:
            raise
        except Exception as error:  # whatever an environment or a policy raises
            told = " ".join(str(error).split())[:300]
            raise self.failed(f"{type(error).__name__}: {told}") from error

    def failed(self, what: str) -> RolloutError:
        """The error of this episode at its step."""
        return RolloutError(
            self._settings.id, self.episode.seed, len(self.episode.actions) - 1, what
        )

    def _see(self, seen: Any) -> None:
        observation = np.array(seen, np.float32)
        if observation.shape != (self.spaces.observations,):
            raise self.failed(f"its observation has the shape {list(observation.shape)}; {self.spaces.observations} numbers are needed")  # fmt: skip
        if not np.isfinite(observation).all():
            raise self.failed(f"its observation is not finite: {observation.tolist()}")
        self.episode.observations.append(observation)
        answers = {}
        for name, function in self._privileged.items():
            said = self.guarded(lambda one=function: one(self._env.unwrapped, observation))  # type: ignore[misc]
            answers[name] = np.array(said, np.float32).reshape(-1)
        self.episode.answers.append(answers)

    @property
    def observation(self) -> np.ndarray:
        """What is seen now."""
        return self.episode.observations[-1]

    @property
    def answers(self) -> dict[str, np.ndarray]:
        """What privileged teachers say of it."""
        return self.episode.answers[-1]

    def act(self, action: Any) -> None:
        """One step."""
        episode, spaces = self.episode, self.spaces
        if spaces.discrete:
            taken: Any = int(action)
            if not 0 <= taken < spaces.actions:
                raise self.failed(f"the policy took action {taken}; allowed are 0 to {spaces.actions - 1}")  # fmt: skip
            given: Any = np.int64(taken + spaces.start)
        else:
            taken = np.array(action, np.float32).reshape(-1)
            if taken.shape != (spaces.actions,) or not np.isfinite(taken).all():
                raise self.failed(f"the policy took {taken.tolist()}; {spaces.actions} finite numbers are needed")  # fmt: skip
            taken = np.clip(taken, *np.array([spaces.low, spaces.high], np.float32))
            given = taken
        episode.actions.append(taken)
        seen, reward, terminated, truncated, info = self.guarded(lambda: self._env.step(given))
        if not np.isfinite(reward):
            raise self.failed(f"its reward is {reward}")
        episode.rewards.append(float(reward))
        episode.terminated = bool(terminated)
        episode.truncated = bool(truncated) and not episode.terminated
        if episode.ended:
            if not np.isfinite(np.array(seen, np.float64)).all():
                raise self.failed("its last observation is not finite")
            episode.success = self._success(info)
        else:
            self._see(seen)

    def _success(self, info: Mapping[str, Any]) -> bool | None:
        entry, least = self._settings.success, self._settings.success_return
        if entry is not None:
            if entry not in info:
                raise self.failed(f"its last `info` has no {entry!r}; it has {', '.join(sorted(info)) or 'nothing'}")  # fmt: skip
            return bool(info[entry])
        return None if least is None else sum(self.episode.rewards) >= least


def _act(policy: Policy | PrivilegedPolicy, running: Sequence[_Lane]) -> None:
    """One step of all episodes under way."""
    draws = [lane.draws for lane in running]
    if isinstance(policy, PrivilegedPolicy):
        said = {n: np.stack([lane.answers[n] for lane in running]) for n in running[0].answers}
        actions = running[0].guarded(lambda: policy.recorded_actions(said, draws))
    else:
        seen = np.stack([lane.observation for lane in running])
        actions = running[0].guarded(lambda: policy.actions(seen, draws))
    if len(actions) != len(running):
        raise running[0].failed(f"the policy answered {len(actions)} actions of {len(running)}")
    for lane, action in zip(running, actions, strict=True):
        lane.act(action)


def _stacked(
    done: Sequence[_Episode], environment: Environment, spaces: Spaces, privileged: Sequence[str]
) -> Episodes:
    lengths = np.array([len(one.actions) for one in done], np.int64)
    taken = [action for one in done for action in one.actions]
    form: tuple[Any, tuple[int, ...]] = (np.int64, (-1,)) if spaces.discrete else (np.float32, (-1, spaces.actions))  # fmt: skip
    says = environment.success is not None or environment.success_return is not None
    seen = [observation for one in done for observation in one.observations]
    return Episodes(
        observations=np.array(seen, np.float32).reshape(-1, spaces.observations),
        actions=np.array(taken, form[0]).reshape(form[1]),
        rewards=np.array([reward for one in done for reward in one.rewards], np.float64),
        episode=np.repeat(np.arange(len(done), dtype=np.int64), lengths),
        step=np.concatenate(
            [np.arange(0, dtype=np.int64), *(np.arange(n, dtype=np.int64) for n in lengths)]
        ),
        terminated=np.array([one.terminated for one in done], bool),
        truncated=np.array([one.truncated for one in done], bool),
        returns=np.array([sum(one.rewards) for one in done], np.float64),
        lengths=lengths,
        success=np.array([bool(one.success) for one in done], bool) if says else None,
        seeds=np.array([one.seed for one in done], np.int64),
        answers={
            name: np.array([said[name] for one in done for said in one.answers], np.float32)
            for name in privileged
        },
    )
