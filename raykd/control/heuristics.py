"""Rules for environments of gymnasium, with their constants as arguments: teachers that nobody has to train.

Shapes: B observations, O numbers of one.
"""

from __future__ import annotations

import numpy as np


def lander(  # noqa: PLR0913 (its constants)
    observations_BO: np.ndarray,
    *,
    position: float = 0.5,
    drift: float = 1.0,
    tilt: float = 0.4,
    slope: float = 0.55,
    angle: float = 0.5,
    spin: float = 1.0,
    height: float = 0.5,
    fall: float = 0.5,
    least: float = 0.05,
) -> np.ndarray:
    """Two PD controllers that land gymnasium's LunarLander, with its four discrete actions.

    With the default constants it is `gymnasium.envs.box2d.lunar_lander.heuristic`.

    Args:
        observations_BO: x, y, their speeds, angle, angular speed, and whether either leg touches the ground [B, 8].
        position: wanted angle for each unit of x.
        drift: wanted angle for each unit of horizontal speed.
        tilt: the largest wanted angle, in radians.
        slope: wanted height for each unit of distance from the middle.
        angle: how strongly the angle is corrected.
        spin: how strongly angular speed is damped.
        height: how strongly the height is corrected.
        fall: how strongly vertical speed is damped.
        least: corrections below it fire no engine.

    Returns:
        int64 [B]: 0 nothing, 1 the left engine, 2 the main engine, 3 the right engine.
    """
    x, y, speed, climb, turned, turning, left, right = observations_BO.T
    wanted = np.clip(position * x + drift * speed, -tilt, tilt)
    turn = (wanted - turned) * angle - turning * spin
    lift = (slope * np.abs(x) - y) * height - climb * fall
    landed = (left > 0) | (right > 0)
    turn = np.where(landed, 0.0, turn)
    lift = np.where(landed, -climb * fall, lift)
    side = np.where(turn < -least, 3, np.where(turn > least, 1, 0))
    found: np.ndarray = np.where((lift > np.abs(turn)) & (lift > least), 2, side).astype(np.int64)
    return found
