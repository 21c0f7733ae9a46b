"""Environments and rules that tests name in recipes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """A walk on a line with chance: ends beyond ±3; `fails` says what happens at step 4 of episodes of even seeds.

    Where `marker` names a folder, an episode fails only if no file of its seed is there, which it makes.
    """

    def __init__(self, fails=None, marker=None, actions="discrete", start=0):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        box = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = box if actions == "box" else gymnasium.spaces.Discrete(2, start=start)
        self.fails, self.marker, self.pull, self.start = fails, marker, 0.0, start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.at, self.steps = seed, self.np_random.uniform(-1, 1), 0
        return self._seen(), {}

    def step(self, action):
        moved = float(np.ravel(action)[0])
        if isinstance(self.action_space, gymnasium.spaces.Discrete):
            moved = 2 * (moved - self.start) - 1
        self.at += 0.5 * moved + 0.3 * self.np_random.standard_normal() + self.pull
        self.steps += 1
        seen = self._seen()
        if self.fails and self.steps == 4 and self.seed % 2 == 0 and self._still():
            if self.fails == "raises":
                raise ValueError("the motor is stuck")
            if self.fails == "hangs":
                time.sleep(60)
            if self.fails == "nan":
                seen = np.array([np.nan, 0], np.float32)
            if self.fails == "dies":
                os._exit(1)
        return seen, -abs(self.at), abs(self.at) > 3, False, {"home": abs(self.at) < 1}

    def _still(self):
        if self.marker is None:
            return True
        try:
            Path(self.marker, str(self.seed)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _seen(self):
        return np.array([self.at, self.steps / 10], np.float32)


def images():
    env = Walk()
    env.observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    return env


def nothing():
    return None


class Tilted(gymnasium.Wrapper):
    """What is seen is shifted."""

    def __init__(self, env, by=0.0):
        super().__init__(env)
        self.by = by

    def step(self, action):
        seen, *rest = self.env.step(action)
        return (seen + np.float32(self.by), *rest)


def home(observations):
    """Towards the middle."""
    return (observations[:, 0] < 0).astype(np.int64)


def home_dying(observations, after, marker):
    """The same; its fleet's process ends at the first question after a file is there. Runners ask for 16 rows at a time."""
    import ray

    hosted = ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
    if hosted and len(observations) != 16 and Path(after).is_file() and not Path(marker).is_file():
        Path(marker).touch()
        os._exit(1)
    return home(observations)


def home_continuous(observations):
    return np.clip(-observations[:, :1], -1, 1)


def seer(env, observation):
    """A privileged teacher: logits by where the walker truly is."""
    return [env.at, -env.at]


def recorded(task, episodes=30):
    """States of random episodes with the actions of a rule, as a data set in whole episodes."""
    from raykd.config.environments import Environment
    from raykd.control import roll, spaces
    from raykd.control.policies import RandomPolicy
    from raykd.data import Dataset
    from raykd.data.transitions import outputs_of

    kind = "discrete" if task == "control" else "box"
    environment = Environment(
        id="raykd_test_environments:Walk",
        kwargs={"actions": kind},
        wrappers=({"type": "time_limit", "steps": 20},),
    )
    found = roll(environment, RandomPolicy(spaces(environment)), range(episodes))
    own = home if task == "control" else home_continuous
    part = found.episode % 5
    return Dataset(
        inputs=found.observations,
        labels=own(found.observations),
        classes=("left", "right") if task == "control" else outputs_of(1),
        task=task,
        splits={
            "train": np.flatnonzero(part < 3),
            "validation": np.flatnonzero(part == 3),
            "test": np.flatnonzero(part == 4),
        },
    )
