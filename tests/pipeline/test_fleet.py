"""A recipe's teachers asked directly: `raykd.teachers.Fleet(config)`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

import raykd
import raykd.teachers
from raykd.errors import InputError
from raykd.targets import TargetStore
from raykd.teachers import Fleet

pytestmark = [pytest.mark.ray, pytest.mark.own_processes]


@pytest.fixture(scope="module")
def fleet(finished):
    """The teachers of the finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYKD_HOME", str(finished.home))
        with Fleet(raykd.load_config(finished.recipe)) as fleet:
            yield fleet


def test_it_has_two_public_names():
    assert raykd.Fleet is Fleet is raykd.teachers.Fleet


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].values_NC.equal(other[name].values_NC) for name in one
    )


def test_rows_are_answered_as_they_are_stored(fleet, finished):
    rows = fleet.samples.splits["train"][:40]
    store = TargetStore.open(finished.path)
    for view in (0, 1):
        stored = store.gather(store.rows(fleet.samples.ids[rows]), view)
        assert same(fleet.score(rows, view), stored)


def test_inputs_are_answered_as_the_rows_that_they_are(fleet):
    rows = fleet.samples.splits["test"][:70]
    asked = fleet.score(rows, -1)
    assert list(asked) == ["wide", "conv"]
    inputs = fleet.samples.batch(rows, -1).inputs
    for given in (inputs, inputs["inputs"], inputs["inputs"].numpy()):
        assert same(fleet.score_inputs(given), asked)
    assert asked["wide"].values_NC.shape == (70, 10)
    assert asked["wide"].valid_N.all()
    whole = (inputs["inputs"] * 255).round().to(torch.uint8)
    again = fleet.score_inputs(whole)["conv"].values_NC
    assert (again - asked["conv"].values_NC).abs().max() < 0.1, "uint8 is 0..255"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), r"inputs: found \[3, 8, 8\]; needs \[B, 1, 8, 8\]"),
        (np.zeros((0, 1, 8, 8), np.float32), r"inputs: found \[0, 1, 8, 8\]"),
        (np.full((3, 1, 8, 8), np.nan, np.float32), "inputs: found float32 or NaN"),
        ({"image": np.zeros((3, 1, 8, 8))}, "found inputs image; needs inputs"),
    ],
)
def test_inputs_of_another_shape_are_refused(fleet, inputs, message):
    with pytest.raises(ValueError, match=message):
        fleet.score_inputs(inputs)


def test_teachers_that_are_not_fitted_are_named(finished):
    tree = yaml.safe_load(finished.recipe.read_text())
    with pytest.raises(
        InputError, match=r"teachers\.conv\.fit: is not fitted yet; `raykd teachers RECIPE`"
    ) as info:
        Fleet(raykd.load_config(tree))
    assert len(info.value.problems) == 2
