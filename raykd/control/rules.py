"""Rules of thumb for environments of gymnasium, as teachers of `model: {type: rule}`.

Shapes: B states, O numbers of an observation, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def linear(
    observations_BO: np.ndarray, *, gains: Sequence[float], offset: float = 0.0
) -> np.ndarray:
    """Action 1 where Σ gain · observation + offset is above 0, else action 0: int64 [B].

    Raises:
        ValueError: there is not one gain for each number of an observation.
    """
    return (_weighed(observations_BO, gains) + offset > 0).astype(np.int64)


def linear_continuous(
    observations_BO: np.ndarray, *, gains: Sequence[float], limit: float = 1.0
) -> np.ndarray:
    """Σ gain · observation, within ±limit: float32 [B, 1].

    Raises:
        ValueError: there is not one gain for each number of an observation.
    """
    return _weighed(observations_BO, gains).clip(-limit, limit).astype(np.float32)[:, None]


def swing_up(
    observations_BO: np.ndarray,
    *,
    energy_gain: float = 3.0,
    angle_gain: float = 12.0,
    speed_gain: float = 3.0,
    limit: float = 2.0,
    mass: float = 1.0,
) -> np.ndarray:
    """Pendulum: pump energy until it is enough (Åström & Furuta 2000), then hold the pole upright: float32 [B, 1].

    Args:
        observations_BO: float32 [B, 3], cosine and sine of the angle (0 is upright), angular speed.
        energy_gain: torque for each unit of energy that lacks.
        angle_gain: torque for each radian, near the top.
        speed_gain: torque for each radian per second, near the top.
        limit: largest torque.
        mass: of the pole, of length 1 under g = 10.
    """
    cosine, sine, speed = observations_BO.astype(np.float64).T
    energy = mass * (speed**2 / 6 + 5 * (cosine - 1))  # 0 at rest upright
    pumped = -energy_gain * energy * np.where(speed >= 0, 1.0, -1.0)
    held = -angle_gain * np.arctan2(sine, cosine) - speed_gain * speed
    torque: np.ndarray = np.where(cosine > 0.9, held, pumped).clip(-limit, limit)
    return torque.astype(np.float32)[:, None]


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


def _weighed(observations_BO: np.ndarray, gains: Sequence[float]) -> np.ndarray:
    if len(gains) != observations_BO.shape[1]:
        raise ValueError(f"found {len(gains)} gains for observations of {observations_BO.shape[1]} numbers; one for each is needed")  # fmt: skip
    total: np.ndarray = observations_BO.astype(np.float64) @ np.asarray(gains, np.float64)
    return total
