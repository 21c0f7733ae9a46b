"""Evaluation by return without Ray: seeds that all models share, episodes that are read again, failures by name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from raykd.config import load_config
from raykd.control import RolloutError, make
from raykd.control.rolling import env_seed
from raykd.control.seeds import episode_seeds
from raykd.errors import InputError
from raykd.evaluate.returns import NOMINAL
from raykd.folders import RunFolder
from raykd.pipeline import acting
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.fits import known_weights
from raykd.pipeline.preparation import prepare
from raykd.pipeline.returns import (
    Arena,
    apart,
    judges_of,
    roll_returns,
    source_of,
    student_actor,
    teacher_actors,
    together,
    trained_on,
)
from raykd.pipeline.rolled import common_spaces
from raykd.pipeline.rollouts import WIDTH
from raykd.pipeline.runs import check_required
from raykd.train.checkpoint import FitFolder

EPISODES = 20
WALK = {
    "task": "control",
    "seeds": 2,
    "data": {
        "source": {
            "type": "gymnasium",
            "id": "raykd_test_environments:Walk",
            "wrappers": [{"type": "time_limit", "steps": 12}],
            "success": "home",
            "episodes": {"train": 4, "validation": 2, "test": 2},
            "take": "sample",
            "simulators": {"pulled": {"attributes": {"pull": 0.2}}},
        }
    },
    "teachers": [
        {"name": "home", "model": {"type": "rule", "path": "raykd_test_environments:home"}},
        {"name": "seer", "model": "privileged:raykd_test_environments:seer"},
    ],
    "student": {"model": {"type": "mlp", "width": 0.1, "depth": 1}},
    "train": {"epochs": 1, "batch_size": 16},
    "evaluate": {
        "controls": [],
        "episodes": EPISODES,
        "variants": {"pulled": {"attributes": {"pull": 0.2}}, "blown": {"attributes": {"pull": 0.4}}},
    },
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip


def locally(work, given, **_):
    return [
        [work(*one, one[0].seeds[at : at + WIDTH]) for at in range(0, len(one[0].seeds), WIDTH)]
        for one in given
    ]


def never(work, given, **_):
    raise AssertionError("it was rolled again")


class Rolled:
    """A recipe whose students are as they are before training, in a run folder."""

    def __init__(self, path, **evaluate):
        tree = {**WALK, "evaluate": {**WALK["evaluate"], **evaluate}}
        self.prepared, self.folder = prepare(load_config(tree)), RunFolder(path)
        self.config = self.prepared.config
        for replica in range(self.config.seeds):
            weights = student_network(self.prepared).model.state_dict()
            folder = FitFolder(self.folder.checkpoints(f"student/replica{replica}"))
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.keep({"identity": str(replica)}, weights, weights)

    def __call__(self, side_by_side=locally):
        specs = self.prepared.specs(known_weights(self.prepared))
        spaces = common_spaces(source_of(self.config), self.config.task)
        judges = judges_of(self.config, specs, spaces)
        arena = Arena(self.config, self.folder, judges, side_by_side, lambda _: lambda *_: None)
        students = {"student": student_actor(self.prepared, self.folder, "student", spaces)}
        return roll_returns(arena, students, teacher_actors(self.config, specs, spaces), spaces)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))


def same(one, other):
    for variant, models in one.test.items():
        for name, rolled in models.items():
            np.testing.assert_array_equal(rolled.returns_RE, other.test[variant][name].returns_RE)
            np.testing.assert_array_equal(rolled.apart_RE, other.test[variant][name].apart_RE)


def test_returns_are_those_of_a_plain_loop_on_the_common_seeds(tmp_path):
    rolled = Rolled(tmp_path)
    found = rolled()
    assert list(found.test) == [NOMINAL, "pulled", "blown"]
    assert set(found.test["blown"]) == {"student", "home", "seer", "ensemble", "random"}
    assert found.trained_on == ["nominal", "pulled"] == trained_on(rolled.config)
    seeds = episode_seeds(rolled.config.seed, "evaluate", EPISODES)
    env = make(source_of(rolled.config).varied({"attributes": {"pull": 0.4}}))
    for index, seed in enumerate(seeds):
        seen, _ = env.reset(seed=env_seed(seed))
        total, steps, ended, info = 0.0, 0, False, {}
        while not ended:
            seen, reward, over, cut, info = env.step(int(seen[0] < 0))
            total, steps, ended = total + float(reward), steps + 1, over or cut
        own = found.test["blown"]["home"]
        assert own.returns_RE[0, index] == pytest.approx(total, rel=1e-12)
        assert own.lengths_RE[0, index] == steps
        assert own.success_RE[0, index] == info["home"]
    numbers = found.numbers()
    assert numbers["returns_overall"]["episodes"] == EPISODES
    agreement = numbers["returns"]["nominal"]["ensemble"]["agreement"]
    assert 0.4 < agreement <= 1.0, (
        "the ensemble acts without the privileged teacher, which judges, too"
    )


def test_no_seed_of_the_evaluation_is_one_of_training_or_of_choosing():
    parts = ["train", "validation", "test", "rollouts/dagger", "evaluate/validation"]
    own = {env_seed(seed) for seed in episode_seeds(0, "evaluate", 100)}
    assert len(own) == 100
    for part in parts:
        assert own.isdisjoint(env_seed(seed) for seed in episode_seeds(0, part, 200))


def test_what_was_rolled_is_read_again_unless_something_else_decides_it(tmp_path):
    rolled = Rolled(tmp_path)
    first = rolled()
    same(first, rolled(never))
    file = rolled.folder.returns / "test-blown.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    with pytest.raises(AssertionError, match="rolled again"):
        rolled(never)
    same(first, rolled())
    assert file.read_bytes() == whole
    folder = FitFolder(rolled.folder.checkpoints("student/replica1"))
    weights = {name: one + 1 for name, one in folder.read_weights("best").items()}
    folder.keep({"identity": "1"}, weights, weights)
    with pytest.raises(AssertionError, match="rolled again"):
        rolled(never)


@pytest.mark.parametrize("fails", ["raises", "nan"])
def test_an_environment_that_fails_is_named_with_its_variant_and_model(tmp_path, fails):
    rolled = Rolled(tmp_path, variants={"broken": {"kwargs": {"fails": fails}}})
    with pytest.raises(RolloutError, match=r"broken \(raykd_test_environments:Walk, \w+\), episode of seed \d+, step 3") as caught:  # fmt: skip
        rolled()
    assert caught.value.seed in {
        *episode_seeds(0, "evaluate/validation", EPISODES),
        *episode_seeds(0, "evaluate", EPISODES),
    }
    kept = {path.stem for path in rolled.folder.returns.glob("*.npz")}
    assert kept == {"validation-nominal", "test-nominal"}, "what was finished before is kept"


def test_disagreement_is_the_jensen_shannon_divergence():
    logits = np.random.default_rng(0).normal(0, 3, (2, 50, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    expected = jensenshannon(probs[0], probs[1], axis=1) ** 2
    np.testing.assert_allclose(apart(logits, discrete=True), expected, rtol=1e-9)
    np.testing.assert_allclose(np.exp(together(logits)), probs.mean(axis=0), rtol=1e-12)
    assert not apart(np.stack([logits[0]] * 3), discrete=True).any()
    assert np.isfinite(apart(400 * logits, discrete=True)).all()
    assert apart(400 * logits, discrete=True).max() <= np.log(2) + 1e-12
    means = np.array([[[1.0, 5.0, 0.0, 0.0]], [[3.0, 5.0, 0.0, 0.0]]])
    np.testing.assert_allclose(apart(means, discrete=False), [0.5])


def test_a_requirement_may_be_of_returns(tmp_path):
    kept = "returns.blown.student.against_teacher.ci95_bootstrap.0 >= -10"
    rolled = Rolled(tmp_path, require=[kept, "student.test.return > -30", "controls.rl.test.return < 0"], controls=["rl"])  # fmt: skip
    check_required(rolled.prepared, ("rl",))
    wrong = Rolled(tmp_path, require=["returns.calm.student.return > 0"])
    with pytest.raises(InputError, match=r"evaluate\.require\.0: the summary has no"):
        check_required(wrong.prepared)


@pytest.mark.parametrize(
    ("evaluate", "key", "says"),
    [
        ({"variants": {"nominal": {}}}, "evaluate.variants.nominal", "choose another name"),
        ({"variants": {"odd": {"gravity": -3}}}, "evaluate.variants.odd.gravity", "allowed are the keys of an environment"),
        ({"controls": ["cloning"]}, "evaluate.controls.0", "stages with `rollouts`"),
        ({"episodes": 0}, "evaluate.episodes", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_refused(evaluate, key, says):
    with pytest.raises(InputError) as caught:
        load_config({**WALK, "evaluate": {**WALK["evaluate"], **evaluate}})
    assert {one.key: one.message for one in caught.value.problems}[key].find(says) >= 0


def test_without_an_environment_there_are_no_variants_and_no_rewards():
    tree = {"data": {"source": {"type": "digits"}}, "teachers": [{"name": "a", "model": {"type": "mlp"}, "fit": {}}],
            "student": {"model": {"type": "mlp"}}, "evaluate": {"variants": {"a": {}}, "controls": ["rl"]}}  # fmt: skip
    with pytest.raises(InputError) as caught:
        load_config(tree)
    assert {"evaluate.variants", "evaluate.controls.0"} <= {
        one.key for one in caught.value.problems
    }


def test_without_stable_baselines_rewards_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("raykd.control.reinforcement.find_spec", lambda _: None)
    config = load_config({**WALK, "evaluate": {**WALK["evaluate"], "controls": ["rl"]}})
    with pytest.raises(InputError, match=r"evaluate.controls: needs stable_baselines3, which is not installed: pip install"):  # fmt: skip
        acting.check_acting(config)
    acting.check_acting(load_config(WALK))
