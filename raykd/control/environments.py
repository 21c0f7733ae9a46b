"""Environments of gymnasium as a recipe describes them, and what tells one from another.

gymnasium is imported where an environment is first made: it belongs to the extra `control`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np

from raykd.config.environments import (
    ActionDelay,
    Environment,
    FactoryWrapper,
    ObservationNoise,
    TimeLimit,
)
from raykd.config.explanations import nearest
from raykd.errors import InputError
from raykd.importing import load_callable, load_package
from raykd.seeding import derive

INSTALL = "raykd[control]"
_SIMULATORS = ("box2d", "mujoco", "pybullet")
"""Distributions that gymnasium's own environments compute with."""


@dataclass(frozen=True)
class Spaces:
    """What a policy sees and does.

    Attributes:
        observations: O, numbers of an observation.
        actions: how many discrete actions there are, or numbers of a continuous action.
        discrete: which of the two.
        start: the environment's number of discrete action 0.
        low: least values of a continuous action.
        high: largest ones.
    """

    observations: int
    actions: int
    discrete: bool
    start: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def in_words(self) -> str:
        """Both in a line."""
        kind = "discrete actions" if self.discrete else "numbers of a continuous action"
        return f"{self.observations} numbers of an observation, {self.actions} {kind}"


def make(environment: Environment, *, key: str = "environment", render: bool = False) -> Any:
    """A new environment, a `gymnasium.Env`; who makes it closes it.

    Args:
        environment: its settings.
        key: dotted key of the recipe that holds them, for errors.
        render: whether its frames are wanted (`render_mode="rgb_array"`).

    Raises:
        InputError: gymnasium is missing, the id or an attribute is unknown, it or a wrapper cannot be made, or its episodes
            may never end.
    """
    gymnasium = load_package("gymnasium", install=INSTALL, key=f"{key}.type")
    made = _unwrapped(gymnasium, environment, key, render)
    _set_attributes(made, environment, key)
    wrapped = made
    for index, wrapper in enumerate(environment.wrappers):
        where = f"{key}.wrappers.{index}"
        if isinstance(wrapper, ObservationNoise):
            wrapped = _noisy(gymnasium, wrapped, wrapper.std)
        elif isinstance(wrapper, ActionDelay):
            wrapped = _delayed(gymnasium, wrapped, wrapper.steps)
        elif isinstance(wrapper, FactoryWrapper):
            wrapped = _called(wrapper.path, (wrapped,), wrapper.kwargs, where)
    if _limit(wrapped) is None:
        raise InputError.at(
            f"{key}.wrappers",
            f"{environment.id} has no time limit, so that an episode may never end; add {{type: time_limit, steps: 1000}}",
        )
    return wrapped


def spaces(environment: Environment, *, key: str = "environment") -> Spaces:
    """What policies see and do in it.

    Raises:
        InputError: as of `make`; its observations are no vectors, or its actions neither discrete nor bounded vectors.
    """
    with closing(make(environment, key=key)) as made:
        return spaces_of(made, environment, key=key)


def fingerprint(environment: Environment, *, key: str = "environment") -> str:
    """A hash of all that decides what happens in it: settings, versions of packages, text of the user's own modules."""
    with closing(make(environment, key=key)) as made:
        layers = [*_layers(made)]
    told = environment.identity()
    for name in ("success", "success_return"):  # of which nothing that happens depends
        told.pop(name)
    known = {"environment": told, "code": sorted({_code(type(one)) for one in layers})}
    known["simulators"] = [f"{name} {found}" for name in _SIMULATORS if (found := _version(name))]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _unwrapped(gymnasium: Any, environment: Environment, key: str, render: bool) -> Any:
    """The environment before it is wrapped, but for its time limit."""
    limit = next((w.steps for w in environment.wrappers if isinstance(w, TimeLimit)), None)
    kwargs: dict[str, Any] = {**environment.kwargs}
    if render:
        kwargs["render_mode"] = "rgb_array"
    if ":" in environment.id:
        made = _called(environment.id, (), kwargs, f"{key}.id")
        if not isinstance(made, gymnasium.Env):
            raise InputError.at(f"{key}.id", f"{environment.id} returned {type(made).__name__}; a gymnasium.Env is needed")  # fmt: skip
        return made if limit is None else gymnasium.wrappers.TimeLimit(made, limit)
    if environment.id not in gymnasium.registry:
        hint = nearest(environment.id, [*gymnasium.registry])
        raise InputError.at(
            f"{key}.id", f"gymnasium {gymnasium.__version__} has no environment {environment.id!r}{hint}; one of your own is "
            "written module:function"
        )  # fmt: skip
    try:
        return gymnasium.make(
            environment.id, max_episode_steps=limit, disable_env_checker=True, **kwargs
        )
    except Exception as error:  # whatever an environment raises while it is made
        raise InputError.at(f"{key}.id", _why(environment.id, error)) from error


def _called(path: str, given: tuple[Any, ...], kwargs: dict[str, Any], key: str) -> Any:
    """What the user's function makes.

    Raises:
        InputError: it is not there, or fails.
    """
    function = load_callable(path, key=key)
    try:
        return function(*given, **kwargs)
    except Exception as error:
        raise InputError.at(key, _why(path, error)) from error


def _why(name: str, error: Exception) -> str:
    told = " ".join(str(error).split())[:300]
    return f"{name} cannot be made ({type(error).__name__}: {told}); correct its keyword arguments, or install what it needs"


def _set_attributes(made: Any, environment: Environment, key: str) -> None:
    inner = made.unwrapped
    for name, value in environment.attributes.items():
        old = getattr(inner, name, None)
        if (
            name.startswith("_")
            or isinstance(old, bool)
            or not isinstance(old, int | float | np.number)
        ):
            there = sorted(n for n, v in vars(inner).items() if not n.startswith("_")
                           and isinstance(v, int | float) and not isinstance(v, bool))  # fmt: skip
            raise InputError.at(
                f"{key}.attributes.{name}", f"{environment.id} has no number of this name; it has {', '.join(there) or 'none'}"
            )  # fmt: skip
        setattr(inner, name, value)


def spaces_of(made: Any, environment: Environment, *, key: str = "environment") -> Spaces:
    """What policies see and do in an environment that is made; see `spaces`."""
    gymnasium = load_package("gymnasium", install=INSTALL, key=f"{key}.type")
    box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete
    seen, done = made.observation_space, made.action_space
    if not isinstance(seen, box) or len(seen.shape) != 1:
        raise InputError.at(
            f"{key}.id", f"{environment.id} is observed as {seen}; a vector is needed: flatten it by a wrapper, such as "
            "gymnasium.wrappers:FlattenObservation"
        )  # fmt: skip
    if isinstance(done, discrete):
        return Spaces(seen.shape[0], int(done.n), discrete=True, start=int(done.start))
    if isinstance(done, box) and len(done.shape) == 1 and bool(done.is_bounded("both")):
        low, high = (tuple(float(one) for one in bound) for bound in (done.low, done.high))
        return Spaces(seen.shape[0], done.shape[0], discrete=False, low=low, high=high)
    raise InputError.at(
        f"{key}.id", f"{environment.id} takes actions of {done}; allowed are Discrete, and a Box of one axis with finite bounds"
    )  # fmt: skip


def _layers(made: Any) -> list[Any]:
    """The environment and each wrapper around it."""
    found = [made]
    while found[-1] is not made.unwrapped:
        found.append(found[-1].env)
    return found


def _limit(made: Any) -> int | None:
    """Steps after which an episode is truncated; None = it may go on for ever."""
    from gymnasium.wrappers import TimeLimit as Limit

    return next((one._max_episode_steps for one in _layers(made) if isinstance(one, Limit)), None)


def _code(kind: type) -> str:
    """What a class is known by: the version of its package, or the hash of the user's own file."""
    package = kind.__module__.partition(".")[0]
    if package == "raykd":
        return f"{kind.__module__}.{kind.__qualname__}"
    names = _distributions().get(package, [])
    if names and (found := _version(names[0])):
        return f"{kind.__module__}.{kind.__qualname__} {names[0]} {found}"
    file = inspect.getsourcefile(kind)
    text = b"" if file is None else Path(file).read_bytes()
    return f"{kind.__module__}.{kind.__qualname__} {hashlib.sha256(text).hexdigest()[:32]}"


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Package as it is imported -> what pip calls it; takes a while to find."""
    return packages_distributions()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _noisy(gymnasium: Any, inner: Any, std: float) -> Any:
    """The environment with noise on what is seen of it."""

    class Noisy(gymnasium.Wrapper):  # type: ignore[misc]
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self._random = np.random.default_rng(derive(seed or 0, "observation_noise"))
            seen, info = self.env.reset(seed=seed, options=options)
            return self._seen(seen), info

        def step(self, action: Any) -> Any:
            seen, *rest = self.env.step(action)
            return (self._seen(seen), *rest)

        def _seen(self, seen: np.ndarray) -> np.ndarray:
            return (seen + std * self._random.standard_normal(seen.shape)).astype(seen.dtype)

    return Noisy(inner)


def _delayed(gymnasium: Any, inner: Any, steps: int) -> Any:
    """The environment with actions that take effect later."""

    class Delayed(gymnasium.Wrapper):  # type: ignore[misc]
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self._waiting: deque[Any] = deque()
            return self.env.reset(seed=seed, options=options)

        def step(self, action: Any) -> Any:
            if not self._waiting:
                self._waiting.extend([action] * steps)
            self._waiting.append(action)
            return self.env.step(self._waiting.popleft())

    return Delayed(inner)
