"""DAgger as stages: round 0 is cloning, rounds learn from their own states, and what was cut off goes on to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from raykd_cut_runs import cut_off, epochs_of, killed, run_to_the_end

from raykd.config import load_config
from raykd.control.rolling import env_seed
from raykd.errors import RaykdError, TrainingError
from raykd.folders import RunFolder, read_json
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import run, visiting
from raykd.search import sweep

WALK = {
    "task": "control",
    "seeds": 2,
    "data": {
        "source": {
            "type": "gymnasium",
            "id": "raykd_test_environments:Walk",
            "wrappers": [{"type": "time_limit", "steps": 12}],
            "episodes": {"train": 4, "validation": 2, "test": 2},
            "take": "sample",
            "simulators": {"windy": {"attributes": {"pull": 0.2}}},
        }
    },
    "teachers": [
        {
            "name": "home",
            "model": {"type": "rule", "path": "raykd_test_environments:home", "confidence": 0.8},
        },
        {"name": "seer", "model": "privileged:raykd_test_environments:seer"},
    ],
    "student": {"model": {"type": "mlp", "width": 0.1, "depth": 1}},
    "train": {"epochs": 2, "batch_size": 16},
    "evaluate": {"controls": []},
    "tracking": {"wandb": {"mode": "disabled"}},
    "cluster": {"teachers": {"cpus": 0.5}},
}
STAGES = [
    {"name": "cloned"},
    {
        "name": "dagger",
        "start": "cloned",
        "rounds": 2,
        "rollouts": {"episodes": 3, "mix": [0.5, 0.0]},
    },
]
DAGGER = {**WALK, "stages": STAGES}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "home"))


def trained(folder):
    files = sorted(folder.path.glob("**/checkpoints/student/replica*/best.safetensors"))
    return {
        str(f.relative_to(folder.path)): fingerprint(load_weights(f, key="best")) for f in files
    }


def weights(folder):
    files = [folder.checkpoints(f"student/replica{r}") / "best.safetensors" for r in range(2)]
    return [fingerprint(load_weights(file, key="best")) for file in files]


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_rounds_learn_from_their_own_states_and_round_0_is_cloning(tmp_path):
    one = {**STAGES[1], "rounds": 1}
    summary = run({**DAGGER, "stages": [STAGES[0], one]}, output=tmp_path / "run").summary
    folder = RunFolder(tmp_path / "run")
    visited = len(np.load(folder.rollouts / "dagger.npz")["step"])
    scored = [stage["teacher_samples_scored"] for stage in summary["generations"]]
    assert scored[1] == 2 * visited, "two teachers are asked about new states alone"
    note = read_json(folder.rollouts / "dagger.json")
    assert (note["episodes"], note["states"]) == (6, visited)
    cloned = run(WALK, output=tmp_path / "cloned")
    expected = weights(RunFolder(cloned.path))
    assert weights(folder.stage("cloned")) == expected, "round 0 is cloning, bit for bit"
    assert weights(folder) != expected


POINTS = [
    ("chain:_visit", 2),  # nothing is visited yet
    ("visiting:roll_side_by_side", 1),
    ("visiting:write_arrays", 1),  # rolled, and not written
    ("target_stage:TargetStage.start", 2),  # the teachers are to be asked about the new states
    ("chain:_conclude", 2),
    ("visiting:roll_side_by_side", 2),
]


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("place", "call"), POINTS)
def test_a_run_that_was_cut_off_has_the_same_weights(tmp_path, monkeypatch, place, call):
    whole = run(DAGGER, output=tmp_path / "whole")
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "other"))
    output = tmp_path / "cut"
    with monkeypatch.context() as patch:
        cut_off(patch, place, call)
        with pytest.raises(TrainingError, match="power cut"):
            run(DAGGER, output=output)
    run(DAGGER, output=output, resume=True)
    assert trained(RunFolder(output)) == trained(RunFolder(whole.path))


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_states_that_were_damaged_are_rolled_again(tmp_path):
    output = tmp_path / "run"
    run(DAGGER, output=output)
    file = RunFolder(output).rollouts / "dagger.npz"
    before = file.read_bytes()
    file.write_bytes(before[:-10])
    (output / "summary.json").unlink()
    run(DAGGER, output=output, resume=True)
    assert file.read_bytes() == before


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_driver_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    """SIGKILL as soon as the first round's states are there, and again while the last round's students train."""
    recipe, whole, output = tmp_path / "walk.yaml", tmp_path / "whole", tmp_path / "killed"
    recipe.write_text(yaml.safe_dump({**DAGGER, "train": {"epochs": 6, "batch_size": 16}}))
    run_to_the_end(recipe, whole, home=tmp_path / "other")
    folder = RunFolder(output)
    killed(recipe, output, (folder.rollouts / "dagger_round1.npz").is_file)
    killed(recipe, output, lambda: epochs_of(folder, "student/"), "--resume")
    run_to_the_end(recipe, output, "--resume")
    assert len(trained(folder)) == 6, "two replicas of cloning and of two rounds"
    assert trained(folder) == trained(RunFolder(whole))


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_runner_that_was_killed_loses_nothing(tmp_path, monkeypatch):
    whole = run(DAGGER, output=tmp_path / "whole")
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "other"))
    deaths, roll_side_by_side = tmp_path / "deaths", visiting.roll_side_by_side
    deaths.mkdir()

    def deadly(crew, wanted, **more):
        """The first episode of an even seed ends its process, once."""
        seeds = [env_seed(seed) for one in wanted for seed in one.seeds]
        even = [seed for seed in seeds if seed % 2 == 0]
        for seed in even[1:]:
            (deaths / str(seed)).touch()
        expected.append(even[0])
        dying = {"fails": "dies", "marker": str(deaths)}
        changed = [
            replace(one, environment=one.environment.model_copy(update={"kwargs": dying}))
            for one in wanted
        ]
        return roll_side_by_side(crew, changed, **more)

    expected = []
    monkeypatch.setattr(visiting, "roll_side_by_side", deadly)
    run(DAGGER, output=tmp_path / "run")
    assert len(expected) == 2, "once in each round"
    assert all((deaths / str(seed)).is_file() for seed in expected), "a process has died"
    assert trained(RunFolder(tmp_path / "run")) == trained(RunFolder(whole.path))


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_teacher_that_was_killed_loses_nothing(tmp_path, monkeypatch):
    whole = run(DAGGER, output=tmp_path / "whole")
    monkeypatch.setenv("RAYKD_HOME", str(tmp_path / "other"))
    output, death = tmp_path / "run", tmp_path / "death"
    after = RunFolder(output).rollouts / "dagger_round1.json"
    home, seer = DAGGER["teachers"]
    dying = {"path": "raykd_test_environments:home_dying", "kwargs": {"after": str(after), "marker": str(death)}}  # fmt: skip
    teachers = [{**home, "model": {**home["model"], **dying}}, seer]
    run({**DAGGER, "teachers": teachers}, output=output)
    assert death.is_file(), "it has died"
    assert trained(RunFolder(output)) == trained(RunFolder(whole.path))


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_the_last_round_can_be_searched(tmp_path):
    lr = "train.optimizer.lr"
    search = {
        "parameters": {lr: {"space": "choice", "categories": [1e-4, 3e-2]}},
        "searcher": {"type": "grid"},
        "trials": None,
        "scheduler": {"type": "none"},
        "finalists": None,
    }
    summary = sweep({**DAGGER, "search": search}, output=tmp_path / "sweep").summary
    assert summary["metric"] == "accuracy", "agreement with the actions that were taken"
    by_lr = {one["values"][lr]: one for one in summary["trials"]}
    agreement = {value: one["validation"]["accuracy"] for value, one in by_lr.items()}
    assert summary["ranking"][0] == by_lr[max(agreement, key=agreement.get)]["trial"]
    folder = RunFolder(tmp_path / "sweep")
    assert (folder.rollouts / "dagger.npz").is_file(), "the students before it have visited"
    assert [one["stage"] for one in summary["generations"]] == [
        "cloned",
        "dagger_round1",
        "dagger",
    ]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.source.id=CartPool-v1"], "did you mean 'CartPole-v1'"),
        (["task=control_continuous", "teachers.0.model.confidence=0.95"], "set `task: control`"),
        (
            ["data.source.simulators.windy.attributes.pool=1"],
            "environment.attributes.pool|simulators.windy.attributes.pool",
        ),
        (["data.source.behaviour=[nobody]"], "found 'nobody'; the teachers are home, seer"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_starts(overrides, told):
    from raykd.pipeline.preparation import prepare

    with pytest.raises(RaykdError, match=told):
        prepare(load_config({**WALK, "evaluate": {}}, overrides))


def test_a_recipe_plans_its_rounds():
    from raykd.pipeline.chain import planned, prepare_stages

    stages = planned(load_config(DAGGER))
    cloning, first, last = prepare_stages(stages)
    rows = [len(one.samples.splits["train"]) for one in (cloning, first, last)]
    each = rows[1] - rows[0]
    assert rows[2] - rows[1] == each > 0
    assert [len(one) for one in last.samples.visited.values()] == [each, each]
    assert last.samples.recorded["seer"].shape == (len(last.samples), 2)


def test_the_same_states_are_rolled_once(tmp_path):
    from raykd.pipeline.loading import load_samples

    config = load_config(WALK)
    samples = load_samples(config)
    (file,) = (tmp_path / "home" / "decoded" / "rolled").glob("*.npz")
    before = file.stat().st_mtime_ns
    again = load_samples(load_config({**WALK, "seed": 5}))
    assert file.stat().st_mtime_ns == before
    np.testing.assert_array_equal(samples.ids, again.ids)
    parts = {
        name: {n.split("/")[3] for n in samples.named(rows)}
        for name, rows in samples.splits.items()
    }
    assert not (parts["train"] & parts["validation"] | parts["train"] & parts["test"]), (
        "no seed is shared"
    )
    load_samples(load_config(WALK, ["data.source.seed=1"]))
    assert len([*file.parent.glob("*.npz")]) == 2
    assert json.loads(json.dumps(config.model_dump(mode="json")))["data"]["source"]["visited"] == []
