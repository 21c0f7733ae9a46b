"""Moments of one episode: the same one that is rolled, or in words why there are none."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config.environments import Environment
from raykd.control import roll
from raykd.control.filming import film
from raykd.control.policies import RulePolicy

POLE = Environment(id="CartPole-v1")
RULE = RulePolicy("raykd.control.rules:linear", "key", {"gains": [0.15, 0.4, 6.0, 1.0]})


def test_frames_are_of_the_episode_that_is_rolled():
    pytest.importorskip("pygame")
    found = film(POLE, RULE, 7, count=5, width=60)
    whole = roll(POLE, RULE, [7])
    assert found.earned == whole.returns[0]
    assert found.frames.shape == (5, 40, 60, 3)
    assert found.frames.dtype == np.uint8
    assert found.steps.tolist()[0] == 0
    assert found.steps.tolist()[-1] == whole.lengths[0]
    assert found.frames.std() > 5, "something is drawn"
    assert (film(POLE, RULE, 7, count=5, width=60).frames == found.frames).all()


def test_a_short_episode_has_fewer_frames():
    pytest.importorskip("pygame")
    short = Environment(id="CartPole-v1", wrappers=({"type": "time_limit", "steps": 3},))
    assert film(short, RULE, 0, count=8).steps.tolist() == [0, 1, 2, 3]


def test_what_draws_no_pictures_says_so():
    limit = {"type": "time_limit", "steps": 5}
    walk = Environment(id="raykd_test_environments:Walk", wrappers=(limit,))
    told = film(walk, RulePolicy("raykd_test_environments:home", "key", {}), 0)
    assert (
        told == "raykd_test_environments:Walk draws no pictures (it has no render mode rgb_array)"
    )
