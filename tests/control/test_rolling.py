"""Episodes depend on their seeds and the policy alone, end as their environment says, and fail by name."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from raykd.config.environments import Environment
from raykd.control import RolloutError, fingerprint, make, roll, spaces
from raykd.control.policies import (
    EnsemblePolicy,
    MixedPolicy,
    ModelPolicy,
    RandomPolicy,
    RecordedPolicy,
    RulePolicy,
)
from raykd.control.rolling import joined
from raykd.errors import InputError

LIMIT = {"type": "time_limit", "steps": 12}
RULE = RulePolicy("raykd_test_environments:home", "teachers.home.path", {})


def walk(*, wrappers=(), limit=LIMIT, **more):
    kwargs = {
        name: more.pop(name) for name in ("fails", "marker", "actions", "start") if name in more
    }
    return Environment(
        id="raykd_test_environments:Walk", kwargs=kwargs, wrappers=(limit, *wrappers), **more
    )


def network(outputs=2, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs))


def same(one, other):
    for name in (
        "observations",
        "actions",
        "rewards",
        "terminated",
        "truncated",
        "returns",
        "lengths",
        "seeds",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize(
    ("policy", "actions"),
    [
        (ModelPolicy(network(), discrete=True), "discrete"),
        (ModelPolicy(network(), discrete=True, take="sample"), "discrete"),
        (ModelPolicy(network(), discrete=False, take="sample"), "box"),
        (
            EnsemblePolicy(
                (ModelPolicy(network(), True), ModelPolicy(network(seed=1), True)), (1, 2), "sample"
            ),
            "discrete",
        ),
        (
            EnsemblePolicy(
                (ModelPolicy(network(), False), ModelPolicy(network(seed=1), False)), (1, 2)
            ),
            "box",
        ),
        (MixedPolicy(RULE, ModelPolicy(network(), discrete=True), 0.5), "discrete"),
        (RULE, "discrete"),
        (RandomPolicy(spaces(walk(actions="box"))), "box"),
    ],
)
def test_an_episode_is_the_same_in_any_company(policy, actions):
    environment, seeds = (
        walk(actions=actions, wrappers=[{"type": "observation_noise", "std": 0.1}]),
        [5, 11, 2, 70, 9],
    )
    alone = joined([roll(environment, policy, [seed]) for seed in seeds])
    for width in (1, 2, 16):
        same(roll(environment, policy, seeds, width=width), alone)
    assert len(set(alone.returns)) == 5, "seeds differ"


def test_steps_are_those_of_gymnasium_s_own_loop():
    environment, seeds = (
        Environment(id="CartPole-v1", wrappers=[{"type": "time_limit", "steps": 60}]),
        [3, 4],
    )
    found = roll(environment, RandomPolicy(spaces(environment)), seeds, width=2)
    env = make(environment)
    for index, seed in enumerate(seeds):
        rows = np.flatnonzero(found.episode == index)
        seen, _ = env.reset(seed=seed)
        for row in rows:
            np.testing.assert_array_equal(found.observations[row], seen)
            seen, reward, terminated, truncated, _ = env.step(found.actions[row])
            assert reward == found.rewards[row]
        assert (terminated, truncated) == (found.terminated[index], found.truncated[index])
        np.testing.assert_array_equal(found.step[rows], np.arange(found.lengths[index]))
        assert found.returns[index] == len(rows)
    env.close()


def test_an_end_and_a_time_limit_are_told_apart():
    found = roll(walk(), RULE, range(30))
    assert found.lengths[found.truncated].tolist() == [12] * int(found.truncated.sum())
    assert found.truncated.any()
    away = roll(walk(), MixedPolicy(RandomPolicy(spaces(walk())), RULE, 1.0), range(60))
    assert away.terminated.any()
    assert not (away.terminated & away.truncated).any()
    assert (away.terminated | away.truncated).all()
    assert (np.bincount(away.episode) == away.lengths).all(), "no step is lost or doubled"


def test_success_is_what_the_settings_say():
    assert roll(walk(), RULE, [1]).success is None
    by_return = roll(walk(success_return=-8.0), RULE, range(20))
    np.testing.assert_array_equal(by_return.success, by_return.returns >= -8.0)
    assert 0 < roll(walk(success="home"), RULE, range(20)).success.mean() <= 1
    with pytest.raises(RolloutError, match="no 'landed'; it has home"):
        roll(walk(success="landed"), RULE, [1])


@pytest.mark.parametrize(
    ("fails", "told"),
    [("raises", "ValueError: the motor is stuck"), ("nan", "its observation is not finite")],
)
def test_who_fails_is_named_with_seed_and_step(fails, told):
    with pytest.raises(
        RolloutError, match=f"raykd_test_environments:Walk, episode of seed 4, step 3: {told}"
    ) as caught:
        roll(walk(fails=fails), RULE, [1, 4, 3])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
    roll(walk(fails=fails), RULE, [1, 3])


def test_a_policy_s_wrong_actions_are_refused():
    class Wrong:
        def actions(self, observations, draws):
            return np.array([7] * len(draws))

    with pytest.raises(RolloutError, match="the policy took action 7; allowed are 0 to 1"):
        roll(walk(), Wrong(), [1])
    with pytest.raises(RolloutError, match="finite numbers are needed"):
        roll(
            walk(actions="box"),
            ModelPolicy(lambda x: torch.full((len(x), 2), torch.nan), False),
            [1],
        )


def test_continuous_actions_stay_within_bounds_and_first_numbers_are_mapped():
    far = ModelPolicy(lambda seen: torch.tensor([[5.0, 0.0]]).repeat(len(seen), 1), discrete=False)
    assert (roll(walk(actions="box"), far, [1, 2]).actions == 1.0).all()
    same(roll(walk(), RULE, [1, 2, 3]), roll(walk(start=3), RULE, [1, 2, 3]))


def test_privileged_teachers_answer_while_rolling_and_may_act():
    asked = {"seer": "raykd_test_environments:seer"}
    found = roll(walk(), RULE, [1, 2], privileged=asked)
    np.testing.assert_array_equal(found.answers["seer"][:, 0], found.observations[:, 0])
    acts = roll(walk(), RecordedPolicy("seer", discrete=True), [1, 2], privileged=asked, width=1)
    np.testing.assert_array_equal(acts.actions, (acts.observations[:, 0] < 0))


def test_wrappers_and_attributes_change_what_happens_and_the_fingerprint():
    plain = roll(walk(), RULE, [7])
    shift = {"type": "factory", "path": "raykd_test_environments:Tilted", "kwargs": {"by": 0.5}}
    variants = {
        "noise": walk(wrappers=[{"type": "observation_noise", "std": 0.3}]),
        "delay": walk(wrappers=[{"type": "action_delay", "steps": 2}]),
        "tilted": walk(wrappers=[shift]),
        "pull": walk(attributes={"pull": 0.2}),
        "limit": walk(limit={"type": "time_limit", "steps": 5}),
    }
    for environment in variants.values():
        assert roll(environment, RULE, [7]).returns[0] != plain.returns[0]
    prints = {fingerprint(one) for one in [walk(), *variants.values()]}
    assert len(prints) == 1 + len(variants)
    assert fingerprint(walk(success_return=1.0)) == fingerprint(walk())


def test_a_delayed_action_comes_later_and_none_is_lost():
    delayed = make(walk(wrappers=[{"type": "action_delay", "steps": 2}]))
    direct = make(walk())
    delayed.reset(seed=1), direct.reset(seed=1)
    for late, now in zip([1, 0, 0, 1, 1], [1, 1, 1, 0, 0], strict=True):
        assert delayed.step(late)[1] == direct.step(now)[1]


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"id": "CartPool-v1"}, "has no environment 'CartPool-v1'; did you mean 'CartPole-v1'"),
        ({"id": "CartPole-v1", "kwargs": {"wind": 1}}, "CartPole-v1 cannot be made"),
        (
            {"id": "CartPole-v1", "attributes": {"mass": 1}},
            "environment.attributes.mass: .* it has force_mag, gravity, length",
        ),
        ({"id": "raykd_test_environments:Walk"}, "no time limit.*type: time_limit"),
        (
            {"id": "raykd_test_environments:images", "wrappers": [LIMIT]},
            "a vector is needed: flatten",
        ),
        ({"id": "raykd_test_environments:nothing"}, "returned NoneType; a gymnasium.Env"),
        ({"id": "raykd_test_environments:away"}, "has no function 'away'"),
        ({"id": "os:system"}, "is refused"),
    ],
)
def test_an_environment_that_cannot_be_is_one_clear_error(environment, told):
    with pytest.raises(InputError, match=told):
        spaces(Environment(**environment))


def test_gymnasium_is_asked_for_by_name(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(InputError, match=r"needs gymnasium.*pip install 'raykd\[control\]'"):
        spaces(walk())
