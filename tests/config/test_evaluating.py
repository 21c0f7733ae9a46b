"""What a recipe says of other models and of slices."""

from __future__ import annotations

import pytest

from raykd.config import load_config
from raykd.errors import InputError


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("onnx:models/today-v2.onnx", "today-v2"),
        ("my.package:make_old", "make_old"),
        ({"type": "timm", "name": "resnet18", "pretrained": True}, "resnet18"),
        ({"type": "onnx", "path": "/models/2024.onnx"}, "model_2024"),
        ({"name": "now", "model": "cnn", "weights": "now.safetensors"}, "now"),
    ],
)
def test_a_model_alone_is_called_after_its_file_or_name(given, name):
    recipe = load_config("digits").model_dump(mode="json")
    recipe["evaluate"]["compare"] = [given]
    config = load_config(recipe)
    assert [one.name for one in config.evaluate.compare] == [name]
    assert load_config(config.model_dump(mode="json")) == config
    teacher = config.evaluate.compare[0].as_teacher()
    assert (teacher.name, teacher.model) == (name, config.evaluate.compare[0].model)


def test_slices_stand_in_a_resolved_recipe_as_they_are_written():
    slices = (
        "[{column: age, bins: [18, 65]}, {class: '3'}, {column: sex, values: [f, m], name: who}]"
    )
    config = load_config("digits", [f"evaluate.slices={slices}"])
    tree = config.model_dump(mode="json")
    assert [one["class"] for one in tree["evaluate"]["slices"]] == [None, "3", None]
    assert load_config(tree) == config


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("evaluate.compare=[resnet]",
         ["evaluate.compare.resnet.name", "evaluate.compare.resnet.weights"]),
        ("evaluate.compare=[{name: a, model: cnn}]", ["evaluate.compare.a.weights"]),
        ("evaluate.compare=['onnx:a.onnx', 'onnx:b/a.onnx']", ["evaluate.compare.a.name"]),
        ("evaluate.compare=[{name: student, model: 'onnx:a.onnx'}]", ["evaluate.compare.student.name"]),
        ("evaluate.compare=[{name: a, model: 'onnx:a.onnx', weights: b.pt, dtype: float16}]",
         ["evaluate.compare.a.weights", "evaluate.compare.a.dtype"]),
        ("evaluate.compare=[{name: a, model: 'onnx:a.onnx', weight: b.pt}]",
         ["evaluate.compare.a.weight"]),
        ("evaluate.compare=[{name: a, model: 'onnx:a.onnx', label_map: [-1, 0]}]",
         ["evaluate.compare.a.label_map.0"]),
        ("evaluate.compare=[{name: a, model: 'sklearn:sklearn.svm:SVC', kind: top1, label_map: [0], weights: b.pt}]",
         ["evaluate.compare.a.kind", "evaluate.compare.a.label_map", "evaluate.compare.a.weights"]),
        ("evaluate.compare=[{name: a, model: 'onnx:a.onnx', embedding: pool}]", ["evaluate.compare.a.embedding"]),
        ("evaluate.slices=[{}]", ["evaluate.slices.0"]),
        ("evaluate.slices=[{column: a, class: b}]", ["evaluate.slices.0"]),
        ("evaluate.slices=[{class: b, values: [1]}]", ["evaluate.slices.0.values"]),
        ("evaluate.slices=[{column: a, values: [1], bins: 3}]", ["evaluate.slices.0.bins"]),
        ("evaluate.slices=[{column: a, bins: [3, 3]}]", ["evaluate.slices.0.bins"]),
        ("evaluate.slices=[{colum: a}]", ["evaluate.slices.0.colum"]),
    ],
)  # fmt: skip
def test_what_cannot_work_is_named(override, keys):
    with pytest.raises(InputError) as caught:
        load_config("digits", [override])
    assert sorted(problem.key for problem in caught.value.problems) == sorted(keys)


def test_a_regression_has_neither_classes_nor_label_maps():
    with pytest.raises(InputError) as caught:
        load_config(
            "diabetes",
            ["evaluate.slices=[{class: high}]",
             "evaluate.compare=[{name: a, model: 'onnx:a.onnx', label_map: [1, 0]}]"],
        )  # fmt: skip
    assert {problem.key for problem in caught.value.problems} == {
        "evaluate.slices.0.class", "evaluate.compare.a.label_map",
    }  # fmt: skip
