"""The model card: metadata that Hugging Face reads, numbers as the run has them, names that break nothing."""

from __future__ import annotations

import pytest
import torch
import yaml

from raykd.config import load_config
from raykd.config.models import (
    HfModel,
    MlpModel,
    TimmModel,
    TorchvisionModel,
)
from raykd.evaluate import Evaluation, SplitOutputs
from raykd.evaluate.statistics import spread
from raykd.export.card import Story, weak_spots, write_card
from raykd.export.front_matter import base_models, pipeline_tag
from raykd.export.writing import Latency, Written
from raykd.models.preprocess import Preprocessing
from raykd.models.tokens import HashedTokens

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, -1])


def outputs(labels, answers, task="classification"):
    split = SplitOutputs(
        labels_N=labels,
        ids_N=torch.arange(len(labels)),
        teachers={"wide": answers[0]},
        ensemble=answers[0],
        students={"student": answers},
        students_last={"student": answers},
    )
    return Evaluation(splits={"validation": split, "test": split}, task=task)


def predicted(classes):
    """Log-probabilities of two replicas; the second is always right."""
    said = torch.nn.functional.one_hot(torch.tensor(classes), 3).float()
    right = torch.nn.functional.one_hot(LABELS.clamp(min=0), 3).float()
    return torch.stack([said, right]).log_softmax(dim=2)


EVALUATION = outputs(LABELS, predicted([0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]))


@pytest.fixture
def story(make_student, tiny_recipe):
    def make(**given):
        student = make_student({"type": "mlp"})
        recipe = {**tiny_recipe, "objective": {
            "soft_targets": {"temperature": {"type": "linear", "from": 6, "to": 2, "epochs": 4}},
            "features": [{"loss": {"type": "hint"}, "teacher": "wide", "weight": 2.5,
                          "student_tap": "a", "teacher_tap": "b"}],
        }}  # fmt: skip
        model = {"test": {"accuracy": spread([0.6, 0.8]), "nll": spread([1.1, 0.9])}}
        summary = {
            "student": model,
            "teachers": {"wide": {"test": {"accuracy": 0.9}}},
            "status": "degraded",
            "labels_used": {"student": 200, "validation": 100},
            "test_scored_times": 3,
        }
        cards = {"wide": {"fingerprint": "8c1f", "temperature": 1.7}}
        times = {"1": Latency(0.02, 0.031, 0.04, 100), "64": Latency(0.4, 0.52, 0.6, 100)}
        written = Written(("model.onnx",), 250_123, times, {"logits": 2e-6})
        plain = {
            "name": "first",
            "about": student.about,
            "outputs": student.outputs,
            "config": load_config(recipe),
            "summary": summary,
            "cards": cards,
            "evaluation": EVALUATION,
            "verdict": ["It helps."],
            "written": {"onnx": written},
            "processor": "a processor",
        }
        return Story(**{**plain, **given})

    return make


def front(card):
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_its_front_matter_is_hugging_faces(story):
    head = front(write_card(story()))
    assert (head["license"], head["library_name"]) == ("unknown", "raykd")
    assert (head["datasets"], head["tags"]) == (
        ["digits"],
        ["knowledge-distillation", "raykd", "onnx"],
    )
    assert "base_model" not in head
    assert head["pipeline_tag"] == "image-classification"
    assert head["metrics"] == ["accuracy"]
    (index,) = head["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {"type": "digits", "name": "digits", "split": "test"}
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("accuracy", 0.6), ("nll", 1.1)]


def test_it_tells_numbers_method_teachers_and_limits(story):
    lines = write_card(story()).splitlines()
    assert "| accuracy | 0.6 | 0.7 | 0.1414 | -0.5706 to 1.971 |" in lines
    assert (
        "| onnx | `model.onnx` | 250,123 | 0.02 | 0.031 | 0.04 | 0.4 | 0.52 | 0.6 | 2.0e-06 |"
        in lines
    )
    text = "\n".join(lines)
    for part in (
        "It helps.",
        "temperature linear (from 6.0, to 2.0, epochs 4",
        "Features: hint",
        "of wide, weight 2.5",
        "| wide | mlp (width 1.0, depth 1, dropout 0.0) | 0.9 | 1.7 | budget | `8c1f` | not stated |",
        "the student 200, validation 100",
        "scored: 3",
        "The run was degraded",
        "tested on 10 samples",
        "`c1` 25.0 % of 4, `c2` 50.0 % of 2, `c0` 100.0 % of 4",
        "on one thread of a processor",
        "Classification of inputs of 1×8×8 such as those of `digits`, to 3 outputs",
        "Source: digits; licence: not stated",
        "Licence: not stated. It may be bound by",
    ):
        assert part in text, part
    assert "torch.export.load" not in text, "only what was written is shown"


def test_names_break_neither_table_nor_yaml(story, make_student):
    about = make_student({"type": "mlp"}).about
    hostile = about.model_copy(update={"classes": ("a`|b", "x\n---\nlicense: mit", "# c")})
    card = write_card(story(about=hostile, name="- [x]: {evil"))
    assert front(card)["model-index"][0]["name"] == "- [x]: {evil"
    assert front(card)["license"] == "unknown"
    assert "\nlicense: mit" not in card
    assert "`a´\\|b`" in card


def test_names_licences_and_verdicts_are_text_in_the_card(story, tiny_recipe):
    """At 7d0af11 the heading, verdicts and licences were written as they are: tags and links of whoever named the run."""
    markup = "<img src=x onerror=alert(1)> [a](http://x) | **b**"
    recipe = tiny_recipe | {"data": tiny_recipe["data"] | {"license": markup}}
    recipe["student"] = recipe["student"] | {"license": markup}
    recipe["teachers"] = [{**one, "license": markup} for one in recipe["teachers"]]
    card = write_card(story(name=markup, verdict=[markup], config=load_config(recipe)))
    assert front(card)["license_name"] == markup
    text = card.split("---\n", 2)[2]
    shown = r"&lt;img src=x onerror=alert(1)&gt; \[a\](http://x) \| \*\*b\*\*"
    assert text.count(shown) == 4 + len(recipe["teachers"])
    assert "<img" not in text


def test_licences_are_those_of_the_recipe(story):
    config = story().config
    wide = config.teachers[0].model_copy(update={"license": "CC-BY-NC-4.0"})
    told = story(
        config=config.model_copy(
            update={
                "teachers": (wide, *config.teachers[1:]),
                "data": config.data.model_copy(update={"license": "own | data"}),
                "student": config.student.model_copy(update={"license": "Apache-2.0"}),
            }
        )
    )
    card = write_card(told)
    assert front(card)["license"] == "apache-2.0"
    assert "| `8c1f` | CC-BY-NC-4.0 |" in card
    assert "licence: own \\| data" in card
    assert "Licence: Apache-2.0. It may be bound by" in card


@pytest.mark.parametrize(
    ("given", "head"),
    [
        ("MIT", {"license": "mit"}),
        ("cc-by-nc-sa-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("BSD-3-Clause", {"license": "bsd-3-clause"}),
        ("ours: ask first", {"license": "other", "license_name": "ours: ask first"}),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_named(story, given, head):
    config = story().config
    student = config.student.model_copy(update={"license": given})
    found = front(write_card(story(config=config.model_copy(update={"student": student}))))
    assert {key: found[key] for key in found if key.startswith("license")} == head


def test_teachers_of_the_hub_are_its_base_models(story, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "local").mkdir(parents=True)
    models = [
        HfModel(name="org/teacher"),
        HfModel(name="mine/local"),
        HfModel(name="/data/teacher"),
        TimmModel(name="resnet18.a1_in1k", pretrained=True),
        TimmModel(name="resnet18", pretrained=True),
        TimmModel(name="resnet18.a1_in1k"),
        TimmModel(name="hf-hub:org/other", pretrained=True),
        TorchvisionModel(name="resnet18", pretrained="DEFAULT"),
        MlpModel(),
        HfModel(name="org/teacher"),
        None,
    ]
    named = ["org/teacher", "timm/resnet18.a1_in1k", "org/other"]
    assert base_models(models) == named
    config = story().config
    teacher = config.teachers[0].model_copy(update={"model": models[0]})
    changed = config.model_copy(update={"teachers": (teacher,)})
    assert front(write_card(story(config=changed)))["base_model"] == ["org/teacher"]


def test_without_labels_on_test_it_says_so(story):
    summary = {**story().summary, "student": {"test": None}}
    card = write_card(story(summary=summary, verdict=[], evaluation=None))
    assert front(card)["model-index"] == []
    assert "The test split has no labels." in card


@pytest.mark.parametrize(
    ("task", "shape", "tag"),
    [
        ("classification", (3, 8, 8), "image-classification"),
        ("multilabel", (5,), "tabular-classification"),
        ("regression", (5,), "tabular-regression"),
        ("regression", (1, 8, 8), None),
        ("classification", (5, 6), None),
    ],
)
def test_the_tag_of_tasks_and_inputs(make_student, task, shape, tag):
    about = make_student({"type": "mlp"}, task=task, shape=shape).about
    assert pipeline_tag(about) == tag


def test_weak_spots_of_the_other_tasks():
    marks = torch.tensor([[1, 0], [1, 1], [0, 1], [-1, -1]])
    logits = torch.tensor([[[2.0, -1], [1, -1], [-3, -2], [9, 9]]])
    tested, weak = weak_spots(outputs(marks, logits, "multilabel"), ["up", "down"])
    assert "3 samples" in tested
    assert weak == "Fewest right decisions on test: `down` 33.3 %, `up` 100.0 %."
    values = torch.tensor([1.0, 2.0, 3.0, float("nan")])
    said = torch.tensor([[[1.5], [2.0], [2.0], [7.0]]])
    _, weak = weak_spots(outputs(values, said, "regression"), ["price"])
    assert "`price`" in weak
    assert "the worst by 1;" in weak
    assert "mean error is -0.1667" in weak
    (unknown,) = weak_spots(outputs(torch.full((11,), -1), predicted([0] * 11)), ["a", "b", "c"])
    assert "no labels" in unknown


def test_a_student_of_texts_says_how_its_ids_are_made(story, make_student):
    hashed = HashedTokens("hashed", size=60, length=9, ngrams=2, lower=True)
    about = make_student(
        {"type": "bag", "width": 0.25}, shape=(64,), preprocessing=Preprocessing(tokens=hashed)
    ).about
    card = write_card(story(about=about))
    assert front(card)["pipeline_tag"] == "text-classification"
    assert 'session.run(None, {"tokens": samples})' in card
    assert (
        "Inputs are int64 [N, 9]: token ids. words are the longest runs of the text in lower case"
        in card
    )
    assert "runs of 2 to 2 words that end with it" in card
    assert "0..255" not in card
