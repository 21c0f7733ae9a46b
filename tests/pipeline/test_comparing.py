"""Comparing methods and ranking teachers on Ray: one set of targets, paired replicas, resumable."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from raykd.config import load_config
from raykd.config.variants import method_variants
from raykd.errors import InputError
from raykd.evaluate import Evaluation, holm, paired_t_pvalue
from raykd.folders import read_json
from raykd.pipeline import Options, ablate, compare, run
from raykd.pipeline.comparing import kept_variants, rank
from raykd.report.comparison import comparison_cells, comparison_verdict
from raykd.tracking.jsonl import read_lines

pytestmark = [
    pytest.mark.ray,
    pytest.mark.figures,
    pytest.mark.e2e,
    pytest.mark.usefixtures("ray_cluster"),
]
METHODS = ("kl+uniform", "dkd+uniform", "kl+uniform+hint", "kl+confidence", "wider")


@pytest.fixture(scope="module")
def recipe():
    fit = {"epochs": 10, "batch_size": 32, "optimizer": {"type": "adamw", "lr": 0.01}}
    return {
        "seeds": 2,
        "data": {
            "source": {"type": "digits"},
            "splits": {"validation": 100, "test": 0.2},
            "labels": 200,
            "views": {"count": 2, "policy": [{"type": "shift", "pixels": 1}]},
        },
        "teachers": [
            {"name": "wide", "model": {"type": "mlp", "width": 1.0, "depth": 2}, "fit": fit},
            {"name": "conv", "model": {"type": "cnn", "width": 0.25, "depth": 2}, "fit": fit},
        ],
        "student": {"model": {"type": "mlp", "width": 0.25, "depth": 2}},
        "train": {"epochs": 1, "batch_size": 128, "optimizer": {"type": "adamw", "lr": 0.01}},
        "evaluate": {"controls": ["labels"]},
        "tracking": {"wandb": {"mode": "disabled"}},
    }


def variants_of(config):
    """A tap of one variant alone, a student of its own, and more views than the recipe shows."""
    return method_variants(
        config,
        losses=["dkd", "hint"],
        weightings=["confidence"],
        taps="blocks.0=wide.blocks.0",
        others={"wider": ["student.model.width=0.5", "train.epochs=2"]},
    )


@pytest.fixture(scope="module")
def finished(ray_cluster, recipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(root / "home"))
        config = load_config(recipe)
        result = compare(config, variants_of(config), Options(output=root / "compared"))
    return SimpleNamespace(config=config, path=root / "compared", home=root / "home", result=result)


@pytest.fixture
def same_home(finished, monkeypatch):
    monkeypatch.setenv("RAYKD_HOME", str(finished.home))


def test_every_method_is_held_against_the_recipes_own(finished):
    summary = finished.result.summary
    assert summary == read_json(finished.path / "summary.json")
    assert set(summary["methods"]) == {*METHODS, "labels"}
    assert summary["reference"] == "kl+uniform"
    assert summary["test_scored_times"] == 1
    evaluation = Evaluation.load(finished.path / "evaluation.safetensors")
    test = evaluation.splits["test"]

    def accuracies(name):
        right = test.students[name].argmax(-1) == test.labels_N
        return right.double().mean(1).numpy()

    raw = {}
    for name, method in summary["methods"].items():
        assert method["test"]["accuracy"]["values"] == pytest.approx(accuracies(name))
        assert method["seconds"]["n"] == finished.config.seeds
        if name == "kl+uniform":
            assert "gain" not in method
            continue
        difference = accuracies(name) - accuracies("kl+uniform")
        assert method["gain"]["values"] == pytest.approx(difference)
        raw[name] = paired_t_pvalue(difference)
        assert method["p"] == pytest.approx(raw[name])
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    assert {n: summary["methods"][n]["p_holm"] for n in raw} == pytest.approx(corrected)
    means = [summary["methods"][n]["validation"]["accuracy"]["mean"] for n in summary["ranking"]]
    assert means == sorted(means, reverse=True)


def test_the_teachers_are_asked_once_for_all(finished):
    targets = finished.result.summary["targets"]
    sizes = {"validation": 100, "test": 359, "train": 1338}
    wanted = 2 * (sizes["validation"] + sizes["test"] + 2 * sizes["train"])
    assert targets["teacher_samples_scored"] == wanted, "two views: as many as the longest shows"


def test_page_and_words_name_every_method(finished):
    page = (finished.path / "report" / "index.html").read_text()
    words = (finished.path / "report" / "report.md").read_text().replace("\\", "")
    for name in METHODS:
        assert name in page
        assert name in words
    assert "labels alone" in page
    assert {path.stem for path in (finished.path / "report" / "figures").iterdir()} == {
        "gains",
        "size",
    }
    cells = comparison_cells(finished.result.summary)
    assert len(cells) == len(METHODS) + 1
    assert comparison_verdict(finished.result.summary)[0].startswith("Best on validation is ")


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_a_method_is_trained_as_a_run_of_its_own_would(finished, tmp_path):
    dkd = next(v for v in kept_variants(_folder(finished)) if v.name == "dkd+uniform").config
    once = load_config(dkd.model_dump(mode="json"), ["seeds=1", "evaluate.controls=[]"])
    alone = run(once, Options(output=tmp_path / "alone"))
    # Each tap is an entry of its own: who wants none of them reads the outputs that are there.
    assert alone.summary["targets"]["teacher_samples_scored"] == 0
    compared = finished.result.summary["methods"]["dkd+uniform"]["test"]
    for metric, value in alone.summary["student"]["test"].items():
        assert value["values"] == compared[metric]["values"][:1], metric


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_resuming_trains_nothing_and_refuses_other_methods(finished):
    config = finished.config
    before = read_json(finished.path / "summary.json")
    options = Options(output=finished.path, resume=True)
    again = compare(config, kept_variants(_folder(finished)), options).summary
    assert again["methods"] == before["methods"]
    assert again["test_scored_times"] == before["test_scored_times"] + 1
    changed = method_variants(config, others={"wider": ["student.model.width=0.75"]})
    with pytest.raises(InputError, match=r"wider.*is not what it was"):
        compare(config, changed, options)
    with pytest.raises(InputError, match=r"--reference: knows no 'nobody'"):
        compare(config, kept_variants(_folder(finished)), options, reference="nobody")


@pytest.mark.usefixtures("same_home")
@pytest.mark.soak
def test_parts_are_left_out_without_asking_a_teacher_again(finished, tmp_path):
    """The whole recipe is what the comparison trained as `kl+uniform`: it is not trained again."""
    before = tmp_path / "run" / "checkpoints" / "student"
    shutil.copytree(finished.path / "checkpoints" / "kl+uniform", before)
    options = Options(output=tmp_path / "ablated")
    found = ablate(finished.config, options, of=tmp_path / "run").summary
    assert found == read_json(tmp_path / "ablated" / "summary.json")
    assert found["kind"] == "ablation"
    assert found["targets"]["teacher_samples_scored"] == 0
    parts = ["teacher.wide", "teacher.conv", "term.labels", "term.soft_targets"]
    assert list(found["parts"]) == parts
    assert found["whole"]["test"] == finished.result.summary["methods"]["kl+uniform"]["test"]
    trained = {
        line["fit"].split("/")[0]
        for line in read_lines(tmp_path / "ablated" / "metrics.jsonl")
        if line["kind"] == "epoch"
    }
    assert trained == set(parts)
    evaluation = Evaluation.load(tmp_path / "ablated" / "evaluation.safetensors")
    test = evaluation.splits["test"]
    right = {n: (a.argmax(-1) == test.labels_N).double().mean(1) for n, a in test.students.items()}
    for name, part in found["parts"].items():
        assert part["worth"]["values"] == pytest.approx((right["whole"] - right[name]).tolist())
    assert len({tuple(map(tuple, a.argmax(-1).tolist())) for a in test.students.values()}) == 5
    assert "teacher conv" in (tmp_path / "ablated" / "report" / "index.html").read_text()
    again = ablate(finished.config, Options(output=tmp_path / "ablated", resume=True)).summary
    assert (again["parts"], again["test_scored_times"]) == (found["parts"], 2)


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_without_a_view_step_the_teachers_are_asked_about_other_views(finished, tmp_path):
    found = ablate(finished.config, Options(output=tmp_path / "ablated"), views=True).summary
    assert found["targets"]["teacher_samples_scored"] == 2 * 1338, "two teachers, one plain view"
    assert "view.0" in found["parts"]
    noted = read_json(tmp_path / "ablated" / "targets.json")["entries"]
    assert len(noted) == 4, (
        "those of the whole recipe: of each teacher its views and held-out samples"
    )


@pytest.mark.soak
@pytest.mark.usefixtures("same_home")
def test_teachers_are_ranked_before_any_student_trains(finished, tmp_path):
    found = rank(finished.config, Options(output=tmp_path / "ranked"))
    assert found == read_json(tmp_path / "ranked" / "ranking.json")
    assert {step["teacher"] for step in found["greedy"]} == {"wide", "conv"}
    validation = Evaluation.load(finished.path / "evaluation.safetensors").splits["validation"]
    for name, numbers in found["teachers"].items():
        right = validation.teachers[name].argmax(-1) == validation.labels_N
        assert numbers["accuracy"] == pytest.approx(float(right.double().mean()))
        assert math.isfinite(numbers["nll"])
    assert not (tmp_path / "ranked" / "checkpoints" / "student").exists()
    assert np.isfinite(found["oracle"])


def _folder(finished):
    from raykd.folders import RunFolder

    return RunFolder(finished.path)
