"""`raykd plan`: what it says beforehand, held against runs, byte by byte."""

from __future__ import annotations

import json
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import raykd
from raykd.config import load_config
from raykd.forecast import timing
from raykd.forecast.counts import Share, count, total
from raykd.forecast.durations import Load, durations, spread_s
from raykd.forecast.timing import Pace, measure
from raykd.pipeline import Options, run
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.placement import make_placement
from raykd.pipeline.preparation import prepare
from raykd.runtime import Resources
from raykd.targets import NoTargets, codec

TRAIN, HELD_OUT = 1797 - 100 - 359, 100 + 359
TAPS = [{"loss": {"type": "hint"}, "teacher": "conv", "student_tap": "blocks.0", "teacher_tap": "blocks.1"}]  # fmt: skip


def on_disk(home: Path) -> dict[str, int]:
    """Bytes of a store's shards and manifests."""
    return {
        kind: sum(file.stat().st_size for file in (home / "targets").rglob(pattern))
        for kind, pattern in (("bytes", "*.safetensors"), ("manifests_bytes", "manifest.json"))
    }


def planned(tree) -> Share:
    found = count(prepare(load_config(tree)))
    assert found.stored is not None
    return total(found.stored)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_is_as_planned(finished, raykd_home, monkeypatch):
    """Nothing there beforehand, everything afterwards; also where students would ask live."""
    before = planned(finished.recipe)
    targets = json.loads((finished.path / "summary.json").read_text())["targets"]
    assert before.passes == before.passes_to_come == targets["teacher_samples_scored"]
    assert before.bytes == before.bytes_to_come == targets["store_bytes"]
    assert on_disk(finished.home) == {
        "bytes": before.bytes, "manifests_bytes": before.manifests_bytes
    }  # fmt: skip
    assert not raykd_home.exists(), "planning leaves nothing behind"

    monkeypatch.setenv("RAYKD_HOME", str(finished.home))
    after = count(prepare(load_config(finished.recipe)))
    assert after.unfitted == ()
    assert total(after.stored) == Share(before.passes, 0, before.bytes, 0, before.manifests_bytes)
    live = total(after.live)
    assert live.passes - live.passes_to_come == 2 * HELD_OUT
    assert live.bytes_to_come == 0


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_taps_and_top_k_and_a_further_view_are_as_planned(tiny_recipe, raykd_home, tmp_path):
    """Then another view, of which the store holds nothing: only its shards are to come."""
    tree = deepcopy(tiny_recipe) | {
        "student": {"model": {"type": "cnn", "width": 0.25, "depth": 2}},
        "objective": {"features": TAPS},
        "targets": {"full_up_to": 5, "top_k": 3, "features": "int8"},
    }
    for views, scored in ((1, 2 * (TRAIN + HELD_OUT)), (2, 2 * TRAIN)):
        tree["data"]["views"]["count"] = views
        before, held = planned(tree), on_disk(raykd_home)["bytes"]
        assert before.passes_to_come == scored
        assert before.bytes_to_come == before.bytes - held > 0
        folder = tmp_path / f"run{views}"
        run(load_config(tree), Options(output=folder, until="targets"))
        told = {"bytes": before.bytes, "manifests_bytes": before.manifests_bytes}
        assert on_disk(raykd_home) == told
        assert f"; {scored:,} teacher samples scored" in (folder / "metrics.jsonl").read_text()


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_regression_is_as_planned(raykd_home, tmp_path):
    whole = load_config("diabetes", ["teachers.0.fit.epochs=8", "tracking.wandb.mode=disabled"])
    config = whole.model_copy(update={"teachers": whole.teachers[:1]})
    share = total(count(prepare(config)).stored)
    run(config, Options(output=tmp_path / "run", until="targets"))
    assert on_disk(raykd_home) == {"bytes": share.bytes, "manifests_bytes": share.manifests_bytes}
    assert share.passes == 442


def test_live_is_counted_for_students_and_controls(tiny_recipe):
    tree = tiny_recipe | {"seeds": 3, "evaluate": {"controls": ["labels", "best_teacher", "hard"]}}
    tree["data"]["views"]["count"] = None
    found = count(prepare(load_config(tree)))
    assert found.stored is None
    assert found.better == found.mode == "live"
    each = 3 * 2 * TRAIN  # replicas, epochs
    assert found.live["wide"].passes == HELD_OUT + 3 * each, "student, best_teacher, hard"
    assert found.live["conv"].passes == HELD_OUT + 2 * each
    assert found.step_bytes == 2 * 128 * (10 * 2 + 4)


@pytest.mark.parametrize(("store", "mirrored"), [(None, False), ("s3://bucket/prefix", True)])
def test_a_bucket_is_mirrored_on_each_node(tiny_recipe, store, mirrored):
    found = count(prepare(load_config(tiny_recipe | {"targets": {"store": store}})))
    share = total(found.stored)
    assert found.node_bytes == (share.bytes + share.manifests_bytes if mirrored else 0)


def test_plan_of_a_bucket_fetches_nothing(recipe, call):
    ended = call("plan", recipe, "targets.store=s3://bucket/prefix", "--no-timing")
    assert ended.code == 0, ended
    assert "what this node's mirror lacks" in ended.out
    assert "mirror" not in call("plan", recipe, "--no-timing").out


@pytest.fixture
def hasty(monkeypatch):
    """Measures little, and starts no process."""
    monkeypatch.setattr(timing, "_BUDGET_S", 0.02)
    monkeypatch.setattr(timing, "_starting", lambda: nullcontext(lambda: 5.0))


def test_plan_says_it_in_a_table_and_as_json(recipe, call):
    rows = 2 * (2 * TRAIN + HELD_OUT)
    share = planned(recipe)
    ended = call("plan", recipe, "--no-timing")
    assert ended.code == 0, ended
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in ended.out.splitlines()
             if line.startswith("|")}  # fmt: skip
    assert cells["teacher passes, in all"] == f"{rows:,}"
    assert cells["bytes of targets, to come"] == f"{share.bytes:,}"
    assert "to be fitted first: wide, conv" in ended.out
    assert "time:" not in ended.out
    told = json.loads(call("plan", recipe, "--no-timing", "--json").out)
    assert told["stored"]["passes"] == rows
    assert told["stored"]["bytes"] == share.bytes
    assert sum(one["bytes"] for one in told["stored"]["teachers"].values()) == share.bytes
    assert told["time"] is None
    assert "not possible" in call("plan", recipe, "data.views.count=null", "--no-timing").out


def test_plan_is_public_and_gives_what_the_command_prints(recipe, call):
    config = load_config(recipe, ["folds=3"])
    found = raykd.plan(config, timing=False)
    assert isinstance(found, raykd.Plan)
    printed = json.loads(call("plan", recipe, "folds=3", "--no-timing", "--json").out)
    assert json.loads(json.dumps(found.to_json())) == printed
    assert (found.mode, found.hours, found.folds) == ("stored", None, 3)
    assert found.teacher_passes == printed["stored"]["passes_to_come"]
    assert found.bytes == printed["stored"]["bytes"]
    live = raykd.plan(load_config(recipe, ["data.views.count=null"]), timing=False)
    assert live.mode == "live"
    assert live.teacher_passes == total(live.counts.live).passes_to_come


def test_without_the_gpus_that_a_recipe_asks_for_no_time_is_told(recipe, call):
    argv = ("plan", recipe, "cluster.teachers.gpus=99")
    assert "time: not estimated; cluster.teachers.gpus" in call(*argv).out
    told = json.loads(call(*argv, "--json").out)
    assert "asks for" in told["time"]["why_not"]
    assert told["stored"]["passes"] == 2 * (2 * TRAIN + HELD_OUT)


@pytest.mark.usefixtures("hasty")
def test_time_is_told_with_what_it_was_made_from(recipe, call):
    threads = torch.get_num_threads()
    told = json.loads(call("plan", recipe, "--json").out)["time"]
    assert torch.get_num_threads() == threads
    stages = [told[f"{stage}_s"] for stage in ("teachers", "targets", "student")]
    assert min(stages) > 0.0
    assert stages[0] > 5.0, "its processes start, and go on with the rest"
    assert told["total_s"] == pytest.approx(sum(stages))
    measured = told["measured"]
    assert measured["score_s"].keys() == measured["teacher_fit_s"].keys() == {"wide", "conv"}
    assert measured["student_fit_s"].keys() == {"student", "labels"}
    assert min(*measured["score_s"].values(), *measured["student_fit_s"].values()) > 0


@pytest.mark.usefixtures("hasty")
def test_hours_are_those_of_all_stages(recipe):
    found = raykd.plan(load_config(recipe))
    assert found.hours == found.to_json()["time"]["total_s"] / 3600 > 0


@pytest.mark.usefixtures("hasty")
def test_recorded_outputs_cost_nothing(tiny_recipe, tmp_path):
    from safetensors.torch import save_file

    ids = torch.arange(1797)
    save_file({"ids": ids, "logits": torch.randn(1797, 10)}, tmp_path / "said.safetensors")
    known = {"name": "known", "outputs": str(tmp_path / "said.safetensors")}
    tree = tiny_recipe | {"teachers": [tiny_recipe["teachers"][0], known]}
    tree["data"]["views"] = {"count": 1, "policy": []}
    prepared = prepare(load_config(tree))
    assert count(prepared).unfitted == ("wide",)
    found = measure(prepared, make_placement(prepared.config, Resources(2.0, 0.0, local=True)), ())
    assert found.score_s["known"] == 0.0 < found.score_s["wide"]
    assert found.teacher_fit_s == {}


@pytest.mark.usefixtures("hasty")
def test_what_there_is_no_time_to_measure_is_named(recipe, call, monkeypatch):
    """At 7d0af11 a plan took as long as its models did."""
    monkeypatch.setattr(timing, "_MEASURED_S", 0.0)
    ended = call("plan", recipe, "--json")
    measured = json.loads(ended.out)["time"]["measured"]
    assert measured["skipped"] == ["conv", "labels"]
    assert measured["score_s"]["conv"] == measured["score_s"]["wide"] > 0
    assert measured["student_fit_s"]["labels"] == measured["student_fit_s"]["student"] > 0
    assert "to be done in time: conv, labels" in call("plan", recipe).out


def test_several_steps_are_measured_at_once():
    """`raykd plan digits` ended with an IndexError where steps are short: answers for one were there, 32 asked."""
    answers = codec.encode(torch.randn(3, 2), {}, "logits")
    source = timing.MadeUp({"wide": answers}, {"wide": 1.0})
    batch = SimpleNamespace(labels=torch.zeros(7))
    assert len(source.collect(source.submit(batch), 1.0)["wide"].values_NC) == 7


@pytest.mark.parametrize(("sample_s", "asked"), [(0.001, [8, 128]), (1.0, [8])])
def test_a_fit_is_projected_from_a_few_steps(tiny_recipe, monkeypatch, sample_s, asked):
    """6 epochs of 200 rows; what is slow is judged by eight samples."""
    fit = tiny_recipe["teachers"][0]["fit"] | {"batch_size": 128}
    tiny_recipe["teachers"][0]["fit"] = fit
    prepared = prepare(load_config(tiny_recipe))
    sizes = []

    def short(fit, samples, source, device, rows):
        sizes.append(rows[1])
        return sample_s, 0.25

    monkeypatch.setattr(timing, "_short_s", short)
    fit = teacher_fit(prepared, prepared.teachers["wide"].settings)
    found = timing.fit_s(fit, prepared.samples, NoTargets(), torch.device("cpu"))
    assert found == pytest.approx(6 * (200 * sample_s + 0.25))
    assert sizes == asked


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([], 0.0),
        ([Load(12.0)], 12.0),
        ([Load(12.0, workers=4)], 6.0),
        ([Load(12.0), Load(4.0)], 12.0),
        ([Load(12.0, cpus=2), Load(4.0)], 14.0),
        ([Load(12.0, workers=4, gpus=1), Load(4.0, gpus=1)], 16.0),
    ],
)
def test_loads_are_spread_over_two_cpus_and_one_gpu(loads, expected):
    assert spread_s(loads, cpus=2, gpus=1) == expected


def test_stages_add_up(tiny_recipe):
    """Two teachers, a student and one control, on two CPUs; a process takes 3 s to start."""
    pace = Pace(3.0, {"wide": 0.01, "conv": 0.02}, {"wide": 10.0}, {"student": 8.0, "labels": 6.0})
    shares = {name: Share(5000, 1000, 0, 0, 0) for name in ("wide", "conv")}
    resources = Resources(cpus=2.0, gpus=0.0, local=True)
    config = load_config(tiny_recipe)
    found = durations(config, make_placement(config, resources), resources, pace, shares)
    assert found.teachers_s == pytest.approx(10 + 3)
    assert found.targets_s == pytest.approx((10 + 20) / 2), (
        "in the processes that are there already"
    )
    assert found.student_s == pytest.approx((8 + 6) / 2)
    kept = Pace(3.0, pace.score_s, {}, pace.student_fit_s)
    found = durations(config, make_placement(config, resources), resources, kept, shares)
    assert found.targets_s == pytest.approx(15 + 3)
    own = load_config(tiny_recipe | {"cluster": {"teachers": {"replicas": 2}}})
    found = durations(own, make_placement(own, resources), resources, pace, shares)
    assert found.targets_s == pytest.approx(15 + 3 * 4 / 2)
    assert found.student_s == pytest.approx((8 + 6) / 2 + 3)
    live = load_config(tiny_recipe | {"targets": {"mode": "live"}})
    found = durations(live, make_placement(live, resources), resources, pace, shares)
    assert found.targets_s == pytest.approx(3)
    assert found.student_s == pytest.approx((8 + 6 + 10 + 20) / 2 + 3)


def test_made_up_answers_do_for_several_steps_at_once(tiny_recipe):
    """At 7d0af11: IndexError of `raykd plan` for samples so small that several steps are one block."""
    prepared = prepare(load_config(tiny_recipe))
    teacher = prepared.teachers["wide"]
    answers = {"wide": teacher.empty_answer(prepared.samples, 4)}
    batch = prepared.samples.batch(prepared.samples.splits["train"][:10], 0)
    source = timing.MadeUp(answers, {"wide": 1.0})
    found = source.collect(source.submit(batch), 1.0)["wide"]
    assert found.values_NC.shape == (10, prepared.samples.class_count)


def test_time_of_texts_is_told(tmp_path):
    """At c269ce0: RuntimeError, since a chunk has more units than one."""
    recipe = {
        "task": "language",
        "seeds": 1,
        "data": {
            "source": {"type": "factory", "path": "tests_tasks_data:text_data"},
            "splits": {"validation": 8, "test": 8},
            "tokens": {"length": 24},
        },
        "teachers": [{"name": "ngram", "model": {"type": "ngram", "order": 3}}],
        "student": {"model": {"type": "gru_lm", "width": 0.125}},
        "objective": {"weighting": {"type": "bayesian"}},
        "train": {"epochs": 2, "batch_size": 16},
        "tracking": {"wandb": {"mode": "disabled"}},
        "targets": {"store": str(tmp_path)},
    }
    prepared = prepare(load_config(recipe))
    placement = make_placement(prepared.config, Resources(cpus=2.0, gpus=0.0, local=True))
    pace = measure(prepared, placement, ())
    assert pace.score_s["ngram"] > 0
    assert pace.student_fit_s["student"] > 0
