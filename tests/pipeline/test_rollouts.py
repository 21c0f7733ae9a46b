"""Episodes rolled by several processes: the same ones, and none lost by what fails."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config import load_config
from raykd.config.environments import Environment
from raykd.control import RolloutError, roll
from raykd.control.policies import RulePolicy
from raykd.pipeline.rolled import roll_teachers
from raykd.pipeline.rollouts import Rolling, roll_side_by_side
from raykd.runtime import Crew

pytestmark = [
    pytest.mark.ray,
    pytest.mark.own_processes,
    pytest.mark.usefixtures("ray_cluster"),
]
RULE = RulePolicy("raykd_test_environments:home", "teachers.home.path", {})


def walk(**kwargs):
    limit = {"type": "time_limit", "steps": 12}
    return Environment(id="raykd_test_environments:Walk", kwargs=kwargs, wrappers=(limit,))


def rolled(crew, *environments, seeds=range(20), runners=2, limit_s=60.0):
    return roll_side_by_side(
        crew,
        [Rolling(one, RULE, tuple(seeds)) for one in environments],
        resources={"CPU": 0.5},
        runners=runners,
        patience_s=60,
        limit_s=limit_s,
    )


@pytest.fixture
def crew():
    found = Crew()
    yield found
    found.dismiss()


def failing_once(tmp_path, *names):
    """Environments that each fail once for every episode of an even seed."""
    for name in names:
        (tmp_path / name).mkdir()
    return [walk(fails=name, marker=str(tmp_path / name)) for name in names]


def check_nothing_is_lost(episodes):
    whole = roll(walk(), RULE, [1, 2])
    np.testing.assert_array_equal(episodes.observations, whole.observations)


def test_any_number_of_runners_rolls_the_same_and_failures_lose_nothing(crew, tmp_path):
    whole = roll(walk(), RULE, range(20))
    for runners in (1, 3):
        [found] = rolled(crew, walk(), runners=runners)
        np.testing.assert_array_equal(found.observations, whole.observations)
        np.testing.assert_array_equal(found.seeds, np.arange(20))
    for found in rolled(crew, *failing_once(tmp_path, "raises", "dies"), seeds=[1, 2]):
        check_nothing_is_lost(found)
    with pytest.raises(RolloutError, match=r"seed 2, step 3: .*stuck \(3 times\)"):
        rolled(crew, walk(fails="raises"), seeds=[1, 2])


@pytest.mark.soak
def test_what_hangs_is_ended_within_its_time_and_named_where_it_hangs_again(crew, tmp_path):
    [found] = rolled(crew, *failing_once(tmp_path, "hangs"), seeds=[1, 2], limit_s=6.0)
    check_nothing_is_lost(found)
    late = r"seed 2, step 3: its group had not ended after 5 s.*group_timeout_s"
    with pytest.raises(RolloutError, match=late):
        rolled(crew, walk(fails="hangs"), seeds=[1, 2], limit_s=5.0)


def test_episodes_of_the_teachers_are_the_same_on_a_cluster(tmp_path, monkeypatch):
    files = []
    for few, home in ((256, "here"), (0, "there")):
        monkeypatch.setattr("raykd.pipeline.rolled._FEW", few)
        config = load_config(
            "cartpole", [f"data.cache={tmp_path / home}", "cluster.rollouts.runners=1"]
        )
        files.append(roll_teachers(config, config.data.source))
    here, there = (np.load(file) for file in files)
    assert files[0].name == files[1].name
    for name in here.files:
        np.testing.assert_array_equal(here[name], there[name])
