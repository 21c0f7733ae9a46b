"""Estimators of scikit-learn as teachers: fitted where they are hosted, on what they may see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from raykd.config import load_config
from raykd.config.models import SklearnModel
from raykd.errors import InputError
from raykd.evaluate.costs import costs
from raykd.models import build_model
from raykd.models.weights import apply_weights
from raykd.models.zoo import estimator as module
from raykd.models.zoo.estimator import examples_of
from raykd.pipeline.evaluation import labels_used
from raykd.pipeline.preparation import prepare
from raykd.targets.codec import decode
from raykd.teachers.model import TeacherModel

TREES = "sklearn.ensemble:ExtraTreesClassifier"
FEW = {"n_estimators": 10}


def rows(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:count]).float(), torch.tensor(labels[:count])


def built(labels, path=TREES, outputs=10, seed=7, weights=None, **kwargs):
    examples = examples_of(rows()[0], labels, weights, seed=seed)
    spec = SklearnModel(path=path, kwargs=kwargs)
    model = build_model(spec, input_shape=(64,), classes=outputs, key="model", weights=examples)
    return model, examples


def fresh():
    module._fitted.cache_clear()


def test_its_logits_are_its_log_probabilities():
    inputs, labels = rows()
    model, _ = built(labels, **FEW)
    forest = ExtraTreesClassifier(**FEW, random_state=7).fit(inputs.numpy(), labels.numpy())
    new = torch.tensor(load_digits().data[100:130]).float()
    found = model(new.reshape(30, 1, 8, 8)).softmax(1)
    np.testing.assert_allclose(found, forest.predict_proba(new.numpy()), atol=1e-6)


def test_each_process_fits_the_same_one():
    new = rows(80)[0][60:]
    one, examples = built(rows()[1], **FEW)
    said = one(new)
    fresh()
    again, _ = built(rows()[1], **FEW)
    assert torch.equal(again(new), said)
    apply_weights(again, examples, key="k")
    assert torch.equal(again(new), said)
    other, _ = built(rows()[1], seed=8, **FEW)
    assert not torch.equal(other(new), said)
    given, _ = built(rows()[1], seed=8, **FEW, random_state=7)
    assert torch.equal(given(new), said)


def test_a_class_without_an_example_is_ruled_out():
    inputs, labels = rows()
    keep = labels != 3
    examples = examples_of(inputs[keep], labels[keep], None, seed=0)
    spec = SklearnModel(path=TREES, kwargs=FEW)
    model = build_model(spec, input_shape=(64,), classes=10, key="model", weights=examples)
    said = model(inputs)
    assert said.shape == (60, 10)
    assert (said[:, 3] < -27).all()
    assert (said.argmax(1)[keep] == labels[keep]).all()


def test_values_and_marks():
    inputs, labels = rows()
    model, _ = built(labels.float(), "sklearn.ensemble:ExtraTreesRegressor", 1, **FEW)
    forest = ExtraTreesRegressor(**FEW, random_state=7).fit(inputs.numpy(), labels.float().numpy())
    np.testing.assert_allclose(model(inputs)[:, 0], forest.predict(inputs.numpy()), rtol=1e-6)
    marks = torch.stack([labels % 2, torch.ones_like(labels)], dim=1)
    for path in (TREES, "sklearn.neighbors:KNeighborsClassifier"):
        kwargs = FEW if path == TREES else {"n_neighbors": 1}
        said = built(marks, path, 2, **kwargs)[0](inputs)
        assert torch.equal((said > 0).long(), marks), path
        assert said.isfinite().all()


def test_weights_count():
    inputs, labels = rows()
    heavy = torch.where(labels == 0, 1000.0, 1.0)
    path, kwargs = "sklearn.tree:DecisionTreeClassifier", {"max_depth": 1}
    plain, weighed = (built(labels, path, weights=w, **kwargs)[0] for w in (None, heavy))
    share = [float(one(inputs).softmax(1)[:, 0].mean()) for one in (plain, weighed)]
    assert share[1] > share[0] + 0.05


@pytest.mark.parametrize(
    ("path", "kwargs", "key", "words"),
    [
        (TREES, {"trees": 3}, "model.kwargs", "do not fit sklearn.ensemble:ExtraTreesClassifier"),
        (TREES, {"n_estimators": -3}, "model", "cannot be fitted on 60 samples"),
        ("sklearn.svm:LinearSVC", {}, "model.path", "has no predict_proba"),
        ("sklearn.datasets:load_digits", {}, "model.path", "returned Bunch, which has no fit"),
        ("sklearn.ensemble:Forest", {}, "model.path", "has no function 'Forest'"),
    ],
)
def test_what_is_no_estimator(path, kwargs, key, words):
    with pytest.raises(InputError) as caught:
        built(rows()[1], path, **kwargs)
    assert caught.value.problems[0].key == key
    assert words in caught.value.problems[0].message


def recipe(tree, **given):
    model = {"type": "sklearn", "path": TREES, "kwargs": FEW}
    tree["teachers"] = [{"name": "trees", "model": model, **given}]
    return tree


def test_it_is_fitted_on_the_labels_that_it_may_see(tiny_recipe):
    prepared = prepare(load_config(recipe(tiny_recipe)))
    samples = prepared.samples
    weights = {"trees": prepared.teachers["trees"].weights}
    assert len(weights["trees"]["labels"]) == 200
    used = labels_used(prepared)
    assert used["teachers"] == {"trees": 200}
    assert used["total"] == 300
    spec = prepared.specs(weights)["trees"]
    fresh()
    validation = samples.splits["validation"]
    scorer = TeacherModel(spec)
    said = decode(scorer.score(samples, validation, np.full(len(validation), -1))).values_NC
    accuracy = (said.argmax(1).numpy() == samples.labels[validation]).mean()
    assert accuracy > 0.8
    inputs = samples.batch(validation[:2], -1).inputs
    found, _ = costs({"trees": scorer.network}, inputs, batch_sizes=(1,))
    known = found["trees"]
    assert (known["parameters"], known["bytes"]) == (None, None), "its rows are not its size"

    every = prepare(load_config(recipe(tiny_recipe, labels="all")))
    train = samples.splits["train"]
    assert len(every.teachers["trees"].weights["labels"]) == len(train)
    assert labels_used(every)["teachers"] == {"trees": len(train)}


def test_a_version_of_the_library_that_answers_otherwise_is_another_teacher(
    tiny_recipe, monkeypatch
):
    def fingerprint():
        fresh()
        prepared = prepare(load_config(recipe(tiny_recipe)))
        weights = {"trees": prepared.teachers["trees"].weights}
        return prepared.specs(weights)["trees"].fingerprint

    one, again = fingerprint(), fingerprint()
    plain = module._classes
    changed = {**module.ANSWERS, "classes": lambda *given: 0.9 * plain(*given)}
    monkeypatch.setattr(module, "ANSWERS", changed)
    assert one == again != fingerprint()
    fresh()


@pytest.mark.parametrize(
    ("given", "key", "words"),
    [
        ({"fit": {}}, "teachers.trees.fit", "fits itself, as its `kwargs` say"),
        ({"weights": "w.pt"}, "teachers.trees.weights", "fits itself"),
        ({"dtype": "float16"}, "teachers.trees.dtype", "computes in its own"),
        ({"kind": "probabilities"}, "teachers.trees.kind", "leave it out"),
        ({"label_map": [0, 1]}, "teachers.trees.label_map", "this data's own classes"),
    ],
)
def test_what_it_does_not_take(tiny_recipe, given, key, words):
    with pytest.raises(InputError) as caught:
        load_config(recipe(tiny_recipe, **given))
    assert [key] == [problem.key for problem in caught.value.problems]
    assert words in caught.value.problems[0].message


def test_it_is_no_student(tiny_recipe):
    tiny_recipe["student"]["model"] = f"sklearn:{TREES}"
    with pytest.raises(InputError, match=r"student\.model: found sklearn, which cannot be trained"):
        load_config(tiny_recipe)
