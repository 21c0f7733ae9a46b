"""Frames of one episode, for a person to look at.

Shapes: K frames, of H × W pixels.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from raykd.config.environments import Environment
from raykd.control.environments import make, spaces
from raykd.control.rolling import Policy, PrivilegedPolicy, env_seed, roll
from raykd.errors import RaykdError


@dataclass(frozen=True, eq=False)
class Film:
    """Some moments of one episode.

    Attributes:
        frames: uint8 [K, H, W, 3].
        steps: int64 [K], before which step each was taken; the last one is after the last step.
        earned: the episode's return.
    """

    frames: np.ndarray
    steps: np.ndarray
    earned: float


def film(
    environment: Environment,
    policy: Policy | PrivilegedPolicy,
    seed: int,
    *,
    count: int = 8,
    width: int = 150,
) -> Film | str:
    """Roll an episode, and do the same actions once more where they can be seen.

    Args:
        environment: where.
        policy: who acts.
        seed: of the episode.
        count: K.
        width: W.

    Returns:
        the film, or why there is none: the environment draws no pictures, or lacks a package for it.
    """
    with closing(make(environment)) as plain:
        if "rgb_array" not in plain.metadata.get("render_modes", ()):
            return f"{environment.id} draws no pictures (it has no render mode rgb_array)"
    done = roll(environment, policy, [seed])
    first = spaces(environment).start if done.actions.ndim == 1 else 0
    length = len(done.actions)
    wanted = np.unique(np.linspace(0, length, count).round().astype(np.int64))
    frames, earned = [], 0.0
    try:
        with closing(make(environment, render=True)) as shown:
            shown.reset(seed=env_seed(seed))
            for step in range(length + 1):
                if step in wanted:
                    frames.append(_small(np.asarray(shown.render()), width))
                if step < length:
                    earned += float(shown.step(done.actions[step] + first)[1])
    except RaykdError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever drawing lacks, the numbers are there
        told = " ".join(str(error).split())[:200]
        return f"{environment.id} cannot be drawn here ({type(error).__name__}: {told})"
    return Film(np.stack(frames), wanted, earned)


def _small(pixels_HWC: np.ndarray, width: int) -> np.ndarray:
    """A frame of fewer pixels, each the mean of those that it stands for, uint8 [H, W, 3]."""
    height = max(1, round(pixels_HWC.shape[0] * width / pixels_HWC.shape[1]))
    frame = torch.from_numpy(np.ascontiguousarray(pixels_HWC[..., :3])).float()
    small = torch.nn.functional.interpolate(frame.permute(2, 0, 1)[None], (height, width), mode="area")  # fmt: skip
    found: np.ndarray = small[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
    return found
