"""Cross-validation: a run for each fold, teachers that never see its test part, and going on after a failure."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from raykd.config import load_config
from raykd.config.variants import fold_recipes
from raykd.errors import InputError, TrainingError
from raykd.folders import RunFolder, read_json, write_json
from raykd.pipeline import Options, run
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.preparation import prepare
from raykd.pipeline.runs import cross_validate, empty_summary

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def config(tiny_recipe):
    return load_config(tiny_recipe, ["folds=3", "evaluate.require=['student.test.accuracy >= 0']"])


@pytest.fixture
def fold(monkeypatch):
    """Stands for the run of a fold: notes what it was given, and leaves a summary of empty answers."""
    seen = SimpleNamespace(recipes=[], fail=set())

    def run_once(recipe, options, console):
        index = int(options.output.name)
        if index in seen.fail:
            raise TrainingError("power cut")
        seen.recipes.append(recipe)
        folder = RunFolder(options.output)
        write_json(folder.config, recipe.model_dump(mode="json"))
        write_json(folder.summary, {**empty_summary(prepare(recipe)), "timing": {"total_s": 1.0}})

    monkeypatch.setattr("raykd.pipeline.runs._run", run_once)
    return seen


def test_teachers_and_students_of_a_fold_never_see_its_test_part(config):
    tested, identities = [], set()
    for recipe in fold_recipes(config):
        assert (recipe.folds, recipe.evaluate.require) == (None, ())
        prepared = prepare(recipe)
        test = prepared.samples.splits["test"]
        for candidate in prepared.teachers.values():
            fit = teacher_fit(prepared, candidate.settings)
            assert not np.intersect1d(fit.plan.rows, test).size
            identities.add(fit.identity)
        tested.append(test)
    assert len(np.unique(np.concatenate(tested))) == 1797, "digits: each is tested once"
    assert len(identities) == 6, "two teachers, fitted anew in each of three folds"


def test_finished_folds_are_not_run_again(config, fold, tmp_path):
    fold.fail = {1}
    options = Options(output=tmp_path / "folded")
    with pytest.raises(TrainingError):
        cross_validate(config, options)
    fold.fail = set()
    resumed = Options(output=tmp_path / "folded", resume=True)
    folder, summary = cross_validate(config, resumed)
    assert [r.data.splits.fold.index for r in fold.recipes] == [0, 1, 2], "fold 0 but once"
    assert {r.tracking.wandb.group for r in fold.recipes} == {"folded"}
    assert summary == read_json(folder.summary)
    assert (summary["kind"], summary["folds"], summary["brought"]) == ("folds", 3, [])
    assert sum(one["samples"]["test"] for one in summary["per_fold"]) == 1797
    page = (tmp_path / "folded" / "report" / "index.html").read_text(encoding="utf-8")
    for text in ("Cross-validation", "Nadeau", "folds/2", "3 folds", "uncorrected"):
        assert text in page
    other = config.model_copy(update={"folds": 4})
    with pytest.raises(InputError, match="folds differ"):
        cross_validate(other, resumed)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["evaluate.require=['student.test.acuracy >= 0']"], "evaluate.require.0"),
        (["data.labels=100000"], "data.labels"),
        (["student.limits.parameters=1"], "student.limits.parameters"),
    ],
)
def test_wrong_input_stops_it_before_any_fold(config, fold, tmp_path, overrides, key):
    config = load_config(config.model_dump(mode="json"), overrides)
    with pytest.raises(InputError) as caught:
        cross_validate(config, Options(output=tmp_path / "folded"))
    assert [problem.key for problem in caught.value.problems] == [key]
    assert not fold.recipes
    assert not (tmp_path / "folded").exists()


def test_what_does_not_cross_validate_says_so(config):
    with pytest.raises(InputError, match=r"folds: found 3; only `raykd run`"):
        prepare(config)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.splits.fold={index: 0, of: 3}"], "folds"),
        (["data.splits.by={type: time, column: day}"], "folds"),
        (["folds=null", "data.splits.fold={index: 3, of: 3}"], "data.splits.fold.index"),
        (["folds=1"], "folds"),
    ],
)
def test_settings_that_contradict_each_other(config, overrides, key):
    with pytest.raises(InputError) as caught:
        load_config(config.model_dump(mode="json"), overrides)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.soak
def test_the_whole_of_it(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["folds=2"])
    found = run(config, Options(output=tmp_path / "folded"))
    summary = found.summary
    assert (summary["kind"], summary["status"]) == ("folds", "complete")
    own = [read_json(tmp_path / "folded" / "folds" / str(i) / "summary.json") for i in range(2)]
    values = summary["student"]["test"]["accuracy"]["values"]
    assert values == [one["student"]["test"]["accuracy"]["mean"] for one in own]
    low, high = summary["gains"]["labels"]["ci95"]
    assert low < summary["gains"]["labels"]["mean"] < high
    again = run(config, Options(output=tmp_path / "folded", resume=True)).summary
    assert again == summary


def test_an_estimator_is_fitted_in_each_fold(config, fold, tmp_path):
    trees = {"name": "trees", "model": "sklearn:sklearn.naive_bayes:GaussianNB"}
    tree = {**config.model_dump(mode="json"), "folds": 2, "teachers": [trees]}
    config = load_config(tree)
    known = [prepare(recipe).teachers["trees"] for recipe in fold_recipes(config)]
    for recipe, one in zip(fold_recipes(config), known, strict=True):
        samples = prepare(recipe).samples
        assert len(one.weights["labels"]) == len(samples.labelled_rows("train"))
    assert known[0].behaviour != known[1].behaviour
    _, summary = cross_validate(config, Options(output=tmp_path / "folded"))
    assert summary["brought"] == [], "it has not seen the test part of its fold"
