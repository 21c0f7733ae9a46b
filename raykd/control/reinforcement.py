"""A policy trained by rewards alone: PPO (Schulman et al. 2017) of Stable-Baselines3, which has to be installed.

What is trained is the student's own network, as the actor; the critic is a network of its own, which nobody keeps.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.environments import Environment
from raykd.control.environments import Spaces, make
from raykd.errors import InputError
from raykd.importing import load_package

_PACKAGE = "stable_baselines3"
_INSTALL = "stable-baselines3"
_CRITIC = (64, 64)
_UPDATE = 2048
"""Steps between two updates, about: PPO's default there."""
_SEED_BITS = 0xFFFFFFFF


class Actor(nn.Module):
    """The student's outputs as what Stable-Baselines3 takes them for: logits, or means (its deviations are its own)."""

    def __init__(self, network: nn.Module, numbers: int) -> None:
        super().__init__()
        self.network, self._numbers = network, numbers

    def forward(self, observations_BO: Tensor) -> Tensor:
        """Of observations [B, O], logits or means [B, A]."""
        outputs: Tensor = self.network(observations_BO)
        return outputs[:, : self._numbers]


def check_installed(key: str) -> None:
    """Whether there is what trains.

    Raises:
        InputError: there is not; names the pip line.
    """
    if find_spec(_PACKAGE) is None:
        raise InputError.at(
            key,
            f"needs {_PACKAGE}, which is not installed: pip install '{_INSTALL}', or leave rl out",
        )


def reinforce(
    network: nn.Module,
    environments: Sequence[Environment],
    spaces: Spaces,
    *,
    steps: int,
    seed: int,
    key: str = "evaluate.controls",
) -> int:
    """Train a network in place, with PPO's default settings.

    Args:
        network: takes observations [B, O], returns outputs [B, C].
        environments: side by side, each in its share of the steps.
        spaces: of all of them.
        steps: in all of them together, at least.
        seed: of the environments, the actions and the batches.
        key: what asks for it, for errors.

    Returns:
        the steps that were taken, up to a step of all environments per update more than `steps`.

    Raises:
        InputError: Stable-Baselines3 is not installed.
    """
    sb3 = load_package(_PACKAGE, install=_INSTALL, key=key)
    vectors = load_package(f"{_PACKAGE}.common.vec_env", install=_INSTALL, key=key)
    updates = max(1, round(steps / _UPDATE))
    own = -(-steps // (updates * len(environments)))
    together = vectors.DummyVecEnv([partial(make, one) for one in environments])
    try:
        with warnings.catch_warnings():
            # Of a last batch that is smaller than the others, where the steps are to be as many as asked for.
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            model: Any = sb3.PPO(
                "MlpPolicy",
                together,
                n_steps=max(2, own),
                seed=seed & _SEED_BITS,
                device="cpu",
                policy_kwargs={"net_arch": {"pi": [], "vf": list(_CRITIC)}},
            )
        policy = model.policy
        policy.action_net = Actor(network, spaces.actions)
        policy.optimizer = policy.optimizer_class(
            policy.parameters(), lr=model.lr_schedule(1), **policy.optimizer_kwargs
        )
        with torch.enable_grad():
            model.learn(updates * max(2, own) * len(environments))
        return int(model.num_timesteps)
    finally:
        together.close()
        network.eval()
