"""Simulators that policies act in: where samples of `task: control` come from, and where students are scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from raykd.config.base import Count, ImportPath, Json, NonNegative, Real, Settings

EnvironmentId = Annotated[
    str, Field(pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*|[A-Za-z][\w.-]*(/[\w.-]+)?)$")
]


class ObservationNoise(Settings):
    """Adds normal noise to every observation; its draws depend on the episode's seed alone."""

    type: Literal["observation_noise"] = "observation_noise"
    std: NonNegative
    """Standard deviation, in the units of the observations."""


class ActionDelay(Settings):
    """An action takes effect so many steps later; until then the first action of the episode does."""

    type: Literal["action_delay"] = "action_delay"
    steps: Count
    """So many steps later."""


class TimeLimit(Settings):
    """Truncates an episode after so many steps, in place of the environment's own limit."""

    type: Literal["time_limit"] = "time_limit"
    steps: Count
    """Most steps of an episode."""


class FactoryWrapper(Settings):
    """A wrapper of your own: a subclass of `gymnasium.Wrapper`, or a function, called with the environment."""

    type: Literal["factory"] = "factory"
    path: ImportPath
    """`module:Class`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Keyword arguments."""


# A new one also needs its function in raykd/control/environments.py.
Wrapper = Annotated[
    ObservationNoise | ActionDelay | TimeLimit | FactoryWrapper, Field(discriminator="type")
]


class Environment(Settings):
    """An environment of gymnasium with vectors as observations, and discrete or continuous actions."""

    type: Literal["gymnasium"] = "gymnasium"
    id: EnvironmentId
    """As gymnasium registers it (`CartPole-v1`), or a function of your own that makes one: `module:function`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Keyword arguments that make it."""
    attributes: dict[str, Real] = Field(default_factory=dict)
    """Numbers that are set on the unwrapped environment once it is made, such as the `length` of CartPole's pole. What
    the environment computed of them when it was made is given too: `polemass_length` there."""
    wrappers: tuple[Wrapper, ...] = ()
    """Laid around it in this order."""
    success_return: Real | None = None
    """An episode is a success if its return is at least this."""
    success: str | None = None
    """Name of the entry of the last step's `info` that says whether the episode was a success, such as `is_success`."""

    @property
    def environment(self) -> Environment:
        """The environment alone, without what a subclass adds."""
        return Environment(**{name: getattr(self, name) for name in Environment.model_fields})

    def varied(self, changes: Mapping[str, Any]) -> Environment:
        """This environment with some of its keys replaced; `kwargs` and `attributes` are merged."""
        tree = self.environment.model_dump(mode="json")
        for name, value in changes.items():
            merges = name in ("kwargs", "attributes") and isinstance(value, Mapping)
            tree[name] = {**tree[name], **value} if merges else value
        return Environment.model_validate(tree)
