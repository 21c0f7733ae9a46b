"""Recorded episodes as samples: whole episodes in one part, both kinds of actions, and what is wrong in a word."""

from __future__ import annotations

import numpy as np
import pytest

from raykd.config.data import Data
from raykd.config.sources import TransitionsSource
from raykd.data.samples import build_samples
from raykd.data.visited import Visited, with_visited
from raykd.errors import InputError


def arrays(**changes):
    drawn = np.random.default_rng(0)
    episode = np.repeat(np.arange(20), 5)
    made = {
        "observations": drawn.normal(size=(100, 3)).astype(np.float32),
        "actions": drawn.integers(0, 2, 100),
        "episode": episode,
        "step": np.tile(np.arange(5), 20),
    }
    return {name: array for name, array in {**made, **changes}.items() if array is not None}


def loaded(tmp_path, task="control", **changes):
    path = tmp_path / "states.npz"
    np.savez(path, **arrays(**changes))
    return build_samples(Data(source=TransitionsSource(path=str(path))), seed=0, task=task)


def test_parts_are_whole_episodes(tmp_path):
    samples = loaded(tmp_path)
    episodes = [set(np.repeat(np.arange(20), 5)[rows]) for rows in samples.splits.values()]
    assert sum(map(len, episodes)) == 20
    assert samples.classes == ("0", "1")


def test_parts_and_names_that_a_file_brings_are_kept(tmp_path):
    splits = np.array(["train"] * 50 + ["validation"] * 25 + ["test"] * 25)
    samples = loaded(tmp_path, splits=splits, names=np.array(["left", "right", "stay"]))
    assert [len(rows) for rows in samples.splits.values()] == [50, 25, 25]
    assert samples.class_count == 3, "an action may never be taken"


def test_continuous_actions_have_means_and_deviations(tmp_path):
    actions = np.random.default_rng(1).normal(size=(100, 2))
    samples = loaded(tmp_path, task="control_continuous", actions=actions)
    assert samples.classes == ("mean_0", "mean_1", "log_std_0", "log_std_1")
    np.testing.assert_allclose(samples.all_labels, actions.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "task", "told"),
    [
        ({"episode": None}, "control", "data.source.path: .*no array 'episode'; it has"),
        ({"reward": np.zeros(100)}, "control", "has an array 'reward'; known are"),
        ({"step": np.zeros(3)}, "control", "has 3 step of 100 observations"),
        ({"observations": np.zeros((100, 2, 2))}, "control", r"the shape \[100, 2, 2\]; \[N, O\]"),
        (
            {"actions": np.zeros(100)},
            "control",
            "task: is control, but the actions are continuous: set `task: control_continuous`",
        ),
        ({}, "control_continuous", "the actions are discrete: set `task: control`"),
        ({}, "classification", "task: is classification, but states and actions are for control"),
        ({"actions": np.array([None] * 100)}, "control", r"objects \(pickles\) are refused"),
    ],
)
def test_what_is_wrong_is_one_clear_error(tmp_path, changes, task, told):
    with pytest.raises(InputError, match=told):
        loaded(tmp_path, task, **changes)


def test_visited_states_are_training_rows_of_their_replica(tmp_path):
    samples = loaded(tmp_path)
    seen = np.random.default_rng(2).normal(size=(7, 3)).astype(np.float32)
    more = Visited(seen, np.array([0, 0, 1, 1, 1, 0, 0]), tuple(f"dagger/{i}" for i in range(7)))
    whole = with_visited(samples, more)
    assert [whole.visited[r].tolist() for r in (0, 1)] == [[100, 101, 105, 106], [102, 103, 104]]
    np.testing.assert_array_equal(whole.ids[:100], samples.ids)
    assert len(np.unique(whole.ids)) == 107
    np.testing.assert_array_equal(whole.own_training_rows, samples.splits["train"])
    assert len(whole.splits["train"]) == len(samples.splits["train"]) + 7
    np.testing.assert_array_equal(whole.batch(np.array([103]), -1).inputs["inputs"][0], seen[3])
    assert whole.labels[100:].tolist() == [-1] * 7
    again = with_visited(
        whole, Visited(seen, np.zeros(7, int), tuple(f"second/{i}" for i in range(7)))
    )
    assert len(again.visited[0]) == 11


def test_states_know_the_simulator_that_they_are_from(tmp_path):
    simulator = np.repeat(["nominal", "heavy"], 50)
    samples = loaded(tmp_path, simulator=simulator)
    assert samples.domains.names == ("heavy", "nominal")
    rows = np.array([49, 50, 7])
    assert samples.batch(rows, -1).domain_B.tolist() == [1, 0, 1]
    seen, names = np.zeros((3, 3), np.float32), ("a", "b", "c")
    told = Visited(seen, np.zeros(3, int), names, simulators=np.array(["heavy", "moon", "nominal"]))
    assert with_visited(samples, told).domains.number_N[98:].tolist() == [0, 0, 0, -1, 1]
    untold = with_visited(samples, Visited(seen, np.zeros(3, int), names))
    assert untold.domains.number_N[100:].tolist() == [-1] * 3
    assert loaded(tmp_path).batch(rows, -1).domain_B is None


def test_test_can_be_sliced_by_simulator_and_visited_states_do_not_disturb_it(tmp_path):
    path = tmp_path / "states.npz"
    np.savez(path, **arrays(simulator=np.repeat(["nominal", "heavy"], 50)))
    data = Data(source=TransitionsSource(path=str(path)))
    samples = build_samples(data, seed=0, task="control", columns=["simulator"])
    more = Visited(np.zeros((2, 3), np.float32), np.zeros(2, int), ("a", "b"))
    np.testing.assert_array_equal(
        with_visited(samples, more).columns["simulator"][:100], samples.columns["simulator"]
    )
