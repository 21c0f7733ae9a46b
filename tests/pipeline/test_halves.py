"""Which samples of validation choose the best epoch: half of them, all where they are few, and as a run began."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.config.load import recipe_as_data
from raykd.config.optimizers import choosing_samples_as_in
from raykd.config.training import LEAST_IN_A_HALF
from raykd.config.variants import ablation
from raykd.ensemble import calibration_half
from raykd.errors import InputError
from raykd.folders import RunFolder
from raykd.pipeline.ablating import begun_plan
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.halves import choosing_in_words, validation_halves
from raykd.pipeline.preparation import prepare, vary
from raykd.pipeline.session import Options, as_begun, run_folder
from raykd.train.validation import choosing_rows

LARGE = 300
HALVED = [f"data.splits.validation={LARGE}"]
"""Of a validation part that is large enough."""


def chosen(config):
    """Of the student and of each teacher."""
    return {config.train.select_on, *(one.fit.select_on for one in config.teachers if one.fit)}


def halves_of(validation, tree):
    """Labelled samples in both halves of so many validation samples, and what the recipe makes of it."""
    prepared = prepare(load_config(tree, [f"data.splits.validation={validation}"]))
    return validation_halves(prepared.samples), prepared


def test_half_chooses_for_student_and_teachers_alike(tiny_recipe):
    found, prepared = halves_of(LARGE, tiny_recipe)
    assert sum(found) == LARGE
    assert min(found) >= LEAST_IN_A_HALF
    assert chosen(prepared.config) == {"half"}
    assert teacher_fit(prepared, prepared.teachers["wide"].settings).training.select_on == "half"
    assert not prepared.notes
    samples = prepared.samples
    words = f"{found[1]} labelled samples of validation; the other {found[0]} fit temperatures"
    assert choosing_in_words(prepared.config, samples) == words
    rows = choosing_rows(samples, "half")
    assert len(rows) == found[1]
    assert not calibration_half(torch.from_numpy(samples.ids[rows].copy())).any()
    np.testing.assert_array_equal(choosing_rows(samples, None), samples.labelled_rows("validation"))


def test_all_choose_where_a_half_is_small_and_that_is_said(tiny_recipe):
    found, prepared = halves_of(2 * LEAST_IN_A_HALF - 1, tiny_recipe)
    assert min(found) < LEAST_IN_A_HALF
    assert chosen(prepared.config) == {"all"}
    assert choosing_in_words(prepared.config, prepared.samples).startswith(f"all {sum(found)} ")
    (note,) = prepared.notes
    assert note.startswith(f"the halves of validation hold {found[0]} and {found[1]} labelled")
    assert f"fewer than {LEAST_IN_A_HALF} in either, all of them choose the best epoch" in note


def test_where_no_temperature_is_fitted_all_choose(tiny_recipe):
    tree = {
        **tiny_recipe,
        "task": "regression",
        "data": {"source": {"type": "diabetes"}, "splits": {"validation": 250}},
        "teachers": tiny_recipe["teachers"][:1],
    }
    prepared = prepare(load_config(tree))
    assert chosen(prepared.config) == {"all"}
    assert not prepared.notes
    with pytest.raises(InputError, match=r"^train\.select_on: found half, but .* no temperatures"):
        prepare(load_config(tree, ["train.select_on=half"]))


@pytest.mark.parametrize("select_on", ["half", "all"])
def test_what_the_recipe_says_is_done(tiny_recipe, select_on):
    overrides = [f"train.select_on={select_on}", "data.splits.validation=30"]
    prepared = prepare(load_config(tiny_recipe, overrides))
    assert prepared.config.train.select_on == select_on
    assert prepared.config.teachers[0].fit.select_on == "all", "left to the data"


def test_half_of_nothing_is_refused(tiny_recipe):
    half = ["train.select_on=half", "teachers.conv.fit.select_on=half", "data.splits.validation=1"]
    seeds = (prepare(load_config(tiny_recipe, [*half[2:], f"seed={n}"])) for n in range(20))
    empty = next(one.config.seed for one in seeds if not validation_halves(one.samples)[1])
    with pytest.raises(InputError) as caught:
        prepare(load_config(tiny_recipe, [*half, f"seed={empty}"]))
    found = {problem.key: problem.message for problem in caught.value.problems}
    assert found.keys() == {"train.select_on", "teachers.conv.fit.select_on"}
    assert "found half, but no labelled sample" in found["train.select_on"]
    assert "write all" in found["train.select_on"]


@pytest.fixture
def earlier(tiny_recipe, tmp_path):
    """A folder of a version that had no such key."""
    written = load_config(tiny_recipe, HALVED).model_dump(mode="json")
    for training in (written["train"], *(one["fit"] for one in written["teachers"])):
        del training["select_on"]
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text(json.dumps(written))
    return folder


def test_a_run_that_an_earlier_version_began_goes_on_with_all(earlier, tiny_recipe):
    assert chosen(recipe_as_data(earlier.config)) == {"all"}
    recipe, resume = load_config(tiny_recipe, HALVED), Options(output=earlier.path, resume=True)
    began = as_begun(recipe, run_folder(recipe, resume))
    assert chosen(began) == chosen(prepare(began).config) == {"all"}
    other = load_config(tiny_recipe, [*HALVED, "train.select_on=half"])
    with pytest.raises(InputError, match="started with another recipe: train differ"):
        run_folder(other, resume)


def test_what_is_compared_in_it_goes_on_with_all_too(earlier, tiny_recipe):
    began = as_begun(load_config(tiny_recipe, HALVED), earlier)
    variant = load_config(tiny_recipe, [*HALVED, "student.model.width=0.5"])
    prepared = prepare(began)
    assert vary(prepared, variant).config.train.select_on == "half"
    assert vary(prepared, choosing_samples_as_in(variant, began)).config.train.select_on == "all"
    named = load_config(tiny_recipe, [*HALVED, "train.select_on=half"])
    assert choosing_samples_as_in(named, began).train.select_on == "half"


def test_an_ablation_in_it_goes_on_with_all_in_every_part(earlier, tiny_recipe):
    plan = ablation(load_config(tiny_recipe, HALVED))
    assert {chosen(one.config) == {None} for one in plan.variants} == {True}
    begun = begun_plan(plan, earlier)
    assert [one.name for one in begun.variants] == [one.name for one in plan.variants]
    assert all(chosen(one.config) == {"all"} for one in begun.variants)


def test_a_run_of_today_goes_on_as_it_began(tiny_recipe, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    prepared = prepare(load_config(tiny_recipe, HALVED))
    folder.config.write_text(json.dumps(prepared.config.model_dump(mode="json")))
    assert chosen(as_begun(load_config(tiny_recipe, HALVED), folder)) == {"half"}
