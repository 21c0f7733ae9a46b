"""Whole runs of students that write themselves: as planned, and counted once also where a run goes on."""

from __future__ import annotations

import json
import shutil

import pytest

import raykd
from raykd.config import load_config
from raykd.errors import InputError
from raykd.folders import read_json
from raykd.forecast.counts import count, total
from raykd.pipeline import Options
from raykd.pipeline.placement import make_placement
from raykd.pipeline.preparation import prepare
from raykd.runtime import Resources

RECIPE = {
    "task": "language",
    "seeds": 1,
    "data": {
        "source": {"type": "factory", "path": "tests_tasks_data:text_data", "kwargs": {"count": 120}},
        "splits": {"validation": 15, "test": 15},
        "tokens": {"length": 16},
    },
    "teachers": [
        {"name": "low", "model": {"type": "ngram", "order": 2}},
        {"name": "high", "model": {"type": "ngram", "order": 3}},
    ],
    "student": {"model": {"type": "gru_lm", "width": 0.125}},
    "objective": {"labels": {"weight": 0.0}, "on_policy": {"every": 2, "from_epoch": 1}},
    "train": {"epochs": 4, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.02}},
    "evaluate": {"controls": ["labels", "best_teacher"]},
    "cluster": {"teachers": {"cpus": 0.5}},
    "tracking": {"wandb": {"mode": "disabled"}},
}  # fmt: skip


def test_a_plan_has_what_students_write_among_the_passes():
    own = prepare(load_config(RECIPE))
    found, plain = count(own), count(prepare(load_config(RECIPE, ["objective.on_policy=null"])))
    assert plain.on_policy is None
    train = len(own.samples.splits["train"])
    sequences = 2 * own.config.objective.on_policy.of_epoch(train, 32)
    assert found.on_policy.rounds == 2 * 2, "of the student and of the control of the best teacher"
    assert found.on_policy.sequences == {"low": 2 * sequences, "high": sequences}
    assert found.on_policy.tokens == {"low": 2 * sequences * 12, "high": sequences * 12}
    for ours, theirs in ((found.stored, plain.stored), (found.live, plain.live)):
        assert total(ours).passes_to_come == total(theirs).passes_to_come + 3 * sequences
        assert total(ours).bytes == total(theirs).bytes
    assert json.dumps(found.to_json()["on_policy"])


def test_the_teachers_stay_beside_the_students():
    local = Resources(2.0, 0.0, local=True)
    plain = make_placement(load_config(RECIPE, ["objective.on_policy=null"]), local)
    placement = make_placement(load_config(RECIPE), local)
    assert (plain.mode, plain.beside, plain.seats > 0) == ("stored", False, True)
    assert (placement.mode, placement.beside, placement.seats) == ("stored", True, 0)
    assert placement.lanes == 1, "beside them there is room for one"
    assert sum(one.cpus for one in placement.teachers.values()) <= 1.0


def test_prompts_that_no_text_has_are_refused():
    with pytest.raises(InputError, match="no training text has as many and room for more"):
        prepare(load_config(RECIPE, ["data.tokens.length=190", "objective.on_policy.prompt=185"]))


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_scores_as_many_tokens_as_planned_and_none_again(tmp_path):
    planned = count(prepare(load_config(RECIPE))).on_policy
    output = tmp_path / "run"
    result = raykd.run(load_config(RECIPE), output=output)
    told = result.summary["targets"]["on_policy"]
    assert told["fits"] == 2
    assert (told["rounds"], told["sequences"]) == (planned.rounds, planned.sequences["low"])
    assert told["teacher_tokens"] == sum(planned.tokens.values()) == sum(told["teachers"].values())
    samples = result.summary["targets"]["teacher_samples_scored"]
    assert samples >= sum(planned.sequences.values())
    epochs = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    rounds = [one["on_policy"]["round"] for one in epochs if one.get("on_policy")]
    assert sorted(rounds) == [0, 0, 0, 0, 1, 1]
    assert "students wrote" in (output / "report" / "index.html").read_text()
    fit = output / "checkpoints" / "student" / "replica0"
    before = read_json(fit / "result.json")
    shutil.rmtree(output / "report")
    (fit / "result.json").unlink()
    (manifest, *_) = fit.glob("on_policy/*/round-0000/manifest.json")
    written = manifest.stat().st_mtime_ns
    again = raykd.run(load_config(RECIPE), Options(output=output, resume=True))
    after = read_json(fit / "result.json")
    assert after["fingerprints"] == before["fingerprints"]
    assert again.summary["targets"]["on_policy"] == told
    assert manifest.stat().st_mtime_ns >= written
