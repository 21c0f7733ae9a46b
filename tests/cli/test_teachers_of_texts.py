"""Teachers that ask for texts themselves, through the command line."""

from __future__ import annotations

import csv

import pytest
import yaml
from raykd_foreign_models import NAMES, topics

PLAIN = {"tokenizer": "none"}


@pytest.fixture
def recipe(tmp_path):
    texts, labels = topics()
    with (tmp_path / "posts.csv").open("w", newline="") as file:
        rows = zip(texts, (NAMES[label] for label in labels), strict=True)
        csv.writer(file).writerows([("post", "topic"), *rows])
    return {
        "data": {
            "source": {"type": "csv", "path": str(tmp_path / "posts.csv"), "text": "post", "label": "topic"},
            "splits": {"validation": 18, "test": 18},
        },
        "teachers": [],
        "student": {"model": {"type": "bag", "width": 0.25}, "preprocess": {"tokenizer": {"type": "hashed", "size": 64}}},
        "train": {"epochs": 2, "batch_size": 16},
        "evaluate": {"controls": []},
        "tracking": {"wandb": {"mode": "disabled"}},
    }  # fmt: skip


def teacher(name, model, **more):
    return {"name": name, "model": model, "kind": "probabilities", "preprocess": PLAIN, **more}


@pytest.fixture
def ended(call, recipe, tmp_path):
    def end(*teachers, command="check", **changed):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**recipe, "teachers": list(teachers), **changed}))
        return call(command, path)

    return end


def test_pipelines_and_modules_get_texts(ended):
    """At 7d0af11 a TF-IDF pipeline was given hashed ids: exit 1, "an error in raykd, or in your own code"."""
    found = ended(
        teacher("function", "raykd_foreign_models:fitted_tfidf", expect={"accuracy": 0.95}),
        teacher("listener", "raykd_foreign_models:Listener", kind="logits"),
        teacher("fitted", {"type": "sklearn", "path": "raykd_foreign_models:tfidf"}, kind="logits"),
    )
    assert found.code == 0, found.err
    assert found.out.count("100.0 %") == 2, found.out


@pytest.mark.parametrize(
    "model", ["raykd_foreign_models:fitted_tfidf", {"type": "sklearn", "path": "raykd_foreign_models:tfidf"}]
)  # fmt: skip
def test_a_teacher_that_is_given_ids_says_what_it_wants(ended, model):
    """At 7d0af11: exit 1, an AttributeError, and no teacher named."""
    kind = "probabilities" if isinstance(model, str) else "logits"
    found = ended(teacher("words", model, kind=kind, preprocess={}))
    assert found.code == 2
    assert "teachers.words.model" in found.err
    assert "AttributeError" in found.err
    assert "preprocess: {tokenizer: none}" in found.err


def test_texts_are_for_models_that_take_them(ended, recipe):
    student = {**recipe["student"], "preprocess": PLAIN}
    found = ended(teacher("function", "raykd_foreign_models:fitted_tfidf"), student=student)
    assert found.code == 2
    assert "student.preprocess.tokenizer: found none" in found.err
    onnx = {"type": "onnx", "path": "any.onnx"}
    found = ended(teacher("graph", onnx))
    assert found.code == 2
    assert "teachers.graph.model: onnx takes no texts" in found.err
    numbers = {"source": {"type": "digits"}}
    found = ended(teacher("function", "raykd_foreign_models:fitted_tfidf"), data=numbers)
    assert found.code == 2
    assert "teachers.function.preprocess.tokenizer: is for texts" in found.err
