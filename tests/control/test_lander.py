"""The lander's rule is gymnasium's own where its constants are."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.control.rules import lander


def test_with_its_own_constants_it_is_gymnasiums_heuristic():
    pytest.importorskip("Box2D")
    from gymnasium.envs.box2d.lunar_lander import heuristic

    class Discrete:
        unwrapped = type("Unwrapped", (), {"continuous": False})

    states = np.random.default_rng(0).normal(0, 0.6, (3000, 8)).astype(np.float32)
    states[:, 6:] = np.random.default_rng(1).random((3000, 2)) < 0.3
    expected = [heuristic(Discrete, state) for state in states]
    assert lander(states).tolist() == expected
    assert set(expected) == {0, 1, 2, 3}
    assert np.concatenate([lander(one[None]) for one in states]).tolist() == expected
