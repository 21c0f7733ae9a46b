"""Other models and slices, checked before anything starts and asked as students are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from raykd.config import load_config
from raykd.config.models import MlpModel
from raykd.config.root import Slice
from raykd.data import Dataset
from raykd.errors import InputError
from raykd.models import build_model
from raykd.models.weights import save_weights
from raykd.pipeline.evaluation import (
    external_baseline_specs,
    predict_baseline,
    slices_of_test,
)
from raykd.pipeline.preparation import prepare, with_external_baselines


def columned():
    """Forty people of three classes."""
    inputs = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    columns = {
        "sex": np.array(["f", "m"] * 20), "age": np.arange(40) + 10, "site": np.arange(40.0) % 4,
        "patient": np.array([f"p{i}" for i in range(40)]),
    }  # fmt: skip
    return Dataset(
        inputs=inputs, labels=np.arange(40) % 3, classes=("cat", "dog", "eel"), columns=columns
    )


@pytest.fixture
def recipe(tiny_recipe, monkeypatch):
    import raykd_test_models

    monkeypatch.setattr(raykd_test_models, "columned", columned, raising=False)
    source = {"type": "factory", "path": "raykd_test_models:columned"}
    data = {"source": source, "splits": {"validation": 8, "test": 12}}
    mlp = {"type": "mlp", "width": 0.25, "depth": 1}
    teachers = [{"name": "wide", "model": mlp, "fit": {"epochs": 1}}]
    return {**tiny_recipe, "data": data, "teachers": teachers, "student": {"model": mlp}}


def with_slices(recipe, *slices):
    config = load_config({**recipe, "evaluate": {"slices": list(slices)}})
    prepared = prepare(config)
    return prepared.samples, slices_of_test(config.evaluate.slices, prepared.samples)


def test_an_old_model_answers_through_its_own_classes(recipe, tmp_path):
    torch.manual_seed(3)
    spec = MlpModel(width=0.25, depth=1)
    old = build_model(spec, input_shape=(4,), classes=4, key="old").eval()
    save_weights(old.state_dict(), tmp_path / "old.safetensors")
    given = {
        "name": "old", "model": spec.model_dump(), "weights": str(tmp_path / "old.safetensors"),
        "preprocess": {"normalize": "none"}, "label_map": ["eel", None, "cat", "dog"],
    }  # fmt: skip
    prepared = with_external_baselines(
        prepare(load_config({**recipe, "evaluate": {"compare": [given]}}))
    )
    rows = prepared.samples.splits["test"]
    spec = external_baseline_specs(prepared)["old"]
    answers = predict_baseline(prepared.samples, spec, {"test": rows})["test"]
    with torch.no_grad():
        inputs = torch.from_numpy(prepared.samples.inputs["inputs"][rows])
        expected = old(inputs)[:, [2, 3, 0]].log_softmax(1)
    assert torch.allclose(answers, expected, atol=5e-3)
    assert (answers.argmax(1) == expected.argmax(1)).all()
    assert "old" not in prepared.teachers


def test_an_estimator_is_fitted_on_the_budget(recipe):
    given = {
        "name": "nearest", "model": "sklearn:sklearn.neighbors:KNeighborsClassifier",
    }  # fmt: skip
    tree = {**recipe, "data": {**recipe["data"], "labels": 15}, "evaluate": {"compare": [given]}}
    prepared = with_external_baselines(prepare(load_config(tree)))
    samples = prepared.samples
    known, rows = samples.labelled_rows("train"), samples.splits["test"]
    assert len(known) == 15
    spec = external_baseline_specs(prepared)["nearest"]
    answers = predict_baseline(samples, spec, {"test": rows})["test"]
    mean, std = (np.array(found, np.float32) for found in samples.statistics())
    inputs = (samples.inputs["inputs"] - mean) / std
    own = KNeighborsClassifier().fit(inputs[known], samples.labels[known])
    assert np.array_equal(answers.argmax(1).numpy(), own.predict_proba(inputs[rows]).argmax(1))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"weights": "nowhere.safetensors"}, "evaluate.compare.old.weights"),
        ({"label_map": ["cat", "mouse"]}, "evaluate.compare.old.label_map"),
        ({"model": "raykd_test_models:chance"}, "evaluate.compare.old.model"),
    ],
)
def test_a_model_that_does_not_fit_is_named_before_anything_starts(recipe, change, key):
    given = {"name": "old", "model": "raykd_test_models:Linear", **change}
    prepared = prepare(load_config({**recipe, "evaluate": {"compare": [given]}}))
    with pytest.raises(InputError) as caught:
        with_external_baselines(prepared)
    assert all(problem.key.startswith(key) for problem in caught.value.problems)


def test_slices_by_value_range_and_class(recipe):
    samples, found = with_slices(
        recipe, {"column": "sex"}, {"column": "age", "bins": [20, 40]}, {"class": "dog"},
        {"column": "site", "values": [1, 3], "name": "at"}, {"column": "age", "bins": 2, "name": "half"},
    )  # fmt: skip
    rows = samples.splits["test"]
    age = rows + 10
    expected = {
        "sex=f": rows % 2 == 0, "sex=m": rows % 2 == 1,
        "age below 20": age < 20, "age 20 to 40": (age >= 20) & (age < 40), "age from 40": age >= 40,
        "class dog": samples.labels[rows] == 1, "at=1": rows % 4 == 1, "at=3": rows % 4 == 3,
        "half below 30": age < 30, "half from 30": age >= 30,
    }  # fmt: skip
    assert list(found) == list(expected)
    for name, inside in expected.items():
        assert found[name].tolist() == inside.tolist(), name
    assert set(samples.columns) == {"sex", "age", "site"}, "only what is asked for travels"


@pytest.mark.parametrize(
    ("entry", "key", "says"),
    [
        ({"column": "sx"}, "evaluate.slices", "the source has sex, age, site, patient"),
        ({"column": "sex", "values": ["x"]}, "evaluate.slices.0.values", "it has f, m"),
        ({"column": "sex", "bins": 2}, "evaluate.slices.0.bins", "ranges need numbers"),
        ({"column": "patient"}, "evaluate.slices.0", "has 40 values"),
        ({"class": "dig"}, "evaluate.slices.0.class", "did you mean 'dog'"),
    ],
)
def test_slices_of_what_is_not_there_are_named(recipe, entry, key, says):
    with pytest.raises(InputError, match=says) as caught:
        with_slices(recipe, entry)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_two_slices_of_one_name(recipe):
    with pytest.raises(InputError, match="second slice 'sex=f'"):
        with_slices(recipe, {"column": "sex"}, {"column": "sex", "values": ["f"]})


def test_a_label_of_several_is_a_slice_too():
    config = load_config("digits_attributes")
    samples = prepare(config).samples
    (found,) = slices_of_test((Slice.model_validate({"class": "prime"}),), samples).values()
    rows = samples.splits["test"]
    assert found.tolist() == (samples.all_labels[rows][:, 1] == 1).tolist()
