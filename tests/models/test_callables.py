"""Functions of arrays, such as those of scikit-learn, as models that can only be asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from raykd_foreign_models import fitted, flat

from raykd.config import load_config
from raykd.config.models import FactoryModel
from raykd.errors import InputError
from raykd.evaluate.costs import costs
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.pipeline.preparation import prepare
from raykd.targets.codec import decode
from raykd.teachers.model import TeacherModel

RAW = {"normalize": "none"}


def model_of(name, **kwargs):
    spec = FactoryModel(path=f"raykd_foreign_models:{name}", kwargs=kwargs)
    return build_model(spec, input_shape=(1, 8, 8), classes=10, key="model")


def recipe(tree, *teachers):
    tree["teachers"] = [
        {"name": f"t{i}", "preprocess": RAW, "model": f"raykd_foreign_models:{name}", **given}
        for i, (name, given) in enumerate(teachers)
    ]
    return tree


def answers(prepared, rows):
    """Teacher -> logits of untransformed samples."""
    weights = {name: one.weights for name, one in prepared.teachers.items()}
    specs = prepared.specs(weights)
    views = np.full(len(rows), -1)
    return {
        name: decode(TeacherModel(spec).score(prepared.samples, rows, views)).values_NC
        for name, spec in specs.items()
    }


def images(prepared, rows):
    return prepared.samples.batch(rows, -1).inputs["inputs"].numpy()


def test_the_probabilities_are_the_function_s():
    inputs = torch.rand(5, 1, 8, 8) * 16
    found = Network(model_of("forest"), Preprocessing())({"x": inputs})
    forest = model_of("forest", trees=20)._function
    np.testing.assert_allclose(found, forest(inputs.numpy()), atol=1e-7)
    assert found.dtype == torch.float32


def test_its_costs_are_not_known():
    network, inputs = Network(model_of("forest")), {"x": torch.rand(2, 1, 8, 8)}
    found = costs({"forest": network}, inputs, batch_sizes=(1,), rounds=1)[0]["forest"]
    assert (found["parameters"], found["flops"], found["bytes"]) == (None, None, None)
    assert found["latency_ms"]["1"] > 0


def test_every_kind_of_answer_becomes_logits(tiny_recipe):
    prepared = prepare(
        load_config(
            recipe(
                tiny_recipe,
                ("regression", {}),
                ("log_probabilities", {"kind": "log_probabilities"}),
                ("top_class", {"kind": "top1"}),
            )
        )
    )
    rows = prepared.samples.splits["validation"][:20]
    found = answers(prepared, rows)
    wanted = fitted().predict_proba(flat(images(prepared, rows)))
    for name in ("t0", "t1"):
        np.testing.assert_allclose(found[name].softmax(1), wanted, atol=2e-3)
        assert torch.isfinite(found[name]).all(), "a probability of 0 is not minus infinity"
    sure = found["t2"].softmax(1)
    np.testing.assert_array_equal(sure.argmax(1), wanted.argmax(1))
    assert sure.max(dim=1).values.min() > 1 - 1e-6


def test_a_function_is_known_by_what_it_answers(tiny_recipe):
    """It has no weights: one that was fitted anew must not be read from the old one's targets."""

    def fingerprint(**kwargs):
        model = {"type": "factory", "path": "raykd_foreign_models:forest", "kwargs": kwargs}
        tree = recipe(tiny_recipe, ("forest", {"model": model, "kind": "probabilities"}))
        prepared = prepare(load_config(tree))
        candidate = prepared.teachers["t0"]
        spec = prepared.specs({"t0": candidate.weights})["t0"]
        return candidate.behaviour, spec.fingerprint

    one, again, other = fingerprint(seed=0), fingerprint(seed=0), fingerprint(seed=1)
    assert one == again
    assert one[0] != other[0]
    assert one[1] != other[1]


@pytest.mark.parametrize(
    ("name", "given", "key", "words"),
    [
        ("estimator", {}, "teachers.t0.model.path", "its method predict_proba"),
        ("flat", {}, "teachers.t0.model.kwargs", "missing a required argument"),
        ("words", {}, "teachers.t0.model", "an array of numbers is needed"),
        ("forest", {"fit": {}}, "teachers.t0.model", "no parameters that could be trained"),
        ("forest", {"kind": "top1"}, "teachers.t0.kind", "the model answers [10]"),
    ],
)
def test_what_cannot_be_a_teacher(tiny_recipe, name, given, key, words):
    with pytest.raises(InputError) as caught:
        prepare(load_config(recipe(tiny_recipe, (name, given))))
    (problem,) = caught.value.problems
    assert problem.key == key
    assert words in problem.message


def test_a_function_cannot_be_a_student(tiny_recipe):
    tiny_recipe["student"]["model"] = "raykd_foreign_models:forest"
    with pytest.raises(InputError, match=r"student\.model: has no parameters that could be train"):
        prepare(load_config(tiny_recipe))
