"""Every task passes the suite that a task of one's own is held to; one of these is defined in one file."""

from __future__ import annotations

import csv
import math

import pytest
import torch

from raykd.config import load_config
from raykd.errors import InputError
from raykd.pipeline import load_student
from raykd.pipeline.explaining import explain
from raykd.tasks import BUILT_IN, CustomTask, registry
from raykd.testing.task_suite import FacetSuite, TaskSuite, done

FIT = {"epochs": 15, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.01}}
BASE = {
    "data": {"splits": {"validation": 60, "test": 80}, "labels": 120},
    "teachers": [
        {"name": "wide", "model": {"type": "mlp", "width": 1.0, "depth": 1}, "fit": FIT},
        {"name": "deep", "model": {"type": "mlp", "width": 0.5, "depth": 2}, "fit": FIT},
    ],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {"epochs": 4, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.02}},
    "cluster": {"teachers": {"cpus": 0.5}},
}


def recipe(task: str, source: dict, **more) -> dict:
    return {**BASE, "task": task, "data": {**BASE["data"], "source": source}, **more}


def made(function: str, **kwargs) -> dict:
    return {"type": "factory", "path": function, "kwargs": kwargs}


def with_vectors() -> dict:
    wide, deep = BASE["teachers"]
    teachers = [{**wide, "embedding": "blocks.0"}, {**deep, "embedding": "blocks.1"}]
    student = {**BASE["student"], "dimension": 8}
    return recipe("embedding", {"type": "digits"}, teachers=teachers, student=student)


def of_texts() -> dict:
    """An n-gram and a recurrent model into a small recurrent one."""
    gru = {"name": "gru", "model": {"type": "gru_lm", "width": 0.125}, "fit": {**FIT, "epochs": 4}}
    return {
        "task": "language",
        "data": {
            "source": made("tests_tasks_data:text_data", count=120),
            "splits": {"validation": 16, "test": 24},
            "tokens": {"length": 32},
        },
        "teachers": [{"name": "ngram", "model": {"type": "ngram", "order": 4}}, gru],
        "student": {"model": {"type": "gru_lm", "width": 0.125}},
        "objective": {"weighting": {"type": "bayesian"}},
        "train": BASE["train"],
        "cluster": BASE["cluster"],
    }


def of_boxes() -> dict:
    """Squares and frames on noise; one of the detectors knows squares alone."""
    fit = {"epochs": 12, "batch_size": 16}
    detector = {"type": "detector", "depth": 2}
    return {
        "task": "detection",
        "data": {
            "source": made("raykd_test_boxes:box_data"),
            "splits": {"validation": 40, "test": 60},
            "labels": 40,
        },
        "teachers": [
            {"name": "squares", "model": {**detector, "knows": [0]}, "fit": fit, "labels": "all"},
            {"name": "both", "model": detector, "fit": fit, "labels": "all"},
        ],
        "student": {"model": {**detector, "width": 0.5}},
        "train": {"epochs": 8, "batch_size": 16},
        "cluster": BASE["cluster"],
    }


def of_states(task):
    """Recorded transitions of a walk, and a rule that acts as they do."""
    rule = "home" if task == "control" else "home_continuous"
    return {
        **BASE,
        "task": task,
        "data": {"source": made("raykd_test_environments:recorded", task=task)},
        "teachers": [
            {"name": "rule", "model": {"type": "rule", "path": f"raykd_test_environments:{rule}"}}
        ],
        "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    }


RECIPES = {
    "classification": recipe("classification", {"type": "digits"}),
    "regression": recipe("regression", made("tests_tasks_data:values_data", count=400)),
    "multilabel": recipe("multilabel", made("tests_tasks_data:marks_data", count=400)),
    "embedding": with_vectors(),
    "language": of_texts(),
    "detection": of_boxes(),
    "control": of_states("control"),
    "control_continuous": of_states("control_continuous"),
}
OWN = "tests_tasks_counts:COUNTS"


@pytest.fixture(scope="class", params=list(BUILT_IN))
def built_in(request):
    request.cls.recipe = RECIPES[request.param]


@pytest.mark.usefixtures("built_in")
class TestBuiltIn(FacetSuite):
    """The facets of the built-in tasks."""


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestClassificationRun(TaskSuite):
    recipe = RECIPES["classification"]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestRegressionRun(TaskSuite):
    recipe = RECIPES["regression"]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestMultilabelRun(TaskSuite):
    recipe = RECIPES["multilabel"]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestEmbeddingRun(TaskSuite):
    recipe = RECIPES["embedding"]


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestLanguageRun(TaskSuite):
    recipe = RECIPES["language"]

    def test_predict(self, run, config, samples, tmp_path):
        """Texts are gone on with and scored, as evaluation scores them where they are one chunk."""
        del config
        rows = samples.splits["test"]
        rows = rows[[name.endswith(":0") for name in samples.named(rows)]][:5]
        tokens = samples.inputs["chunks"][rows]
        texts = [bytes(one[0][one[0] > 0].tolist()).decode() for one in tokens]
        file, out = tmp_path / "new.txt", tmp_path / "said.csv"
        file.write_text("\n".join(texts) + "\n")
        done(["predict", str(run), str(file), "--output", str(out)])
        with out.open(newline="") as said:
            found = list(csv.DictReader(said))
        assert len(found) == len(texts)
        assert all(one["prediction"] for one in found)
        student = load_student(run)
        with torch.inference_mode():
            logs = student({"chunks": torch.from_numpy(tokens[:1].astype("int64"))})
        token = torch.from_numpy(samples.unit_labels(rows[:1])[:, 0])
        nats = -logs.double().log_softmax(1).gather(1, token[:, None]).mean()
        assert float(found[0]["bits_per_byte"]) == pytest.approx(
            float(nats) / math.log(2), rel=1e-4
        )

    def test_explaining_is_refused_with_the_reason(self, run):
        with pytest.raises(InputError, match="nothing can be hidden from them"):
            explain(run)


@pytest.mark.soak
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestDetectionRun(TaskSuite):
    recipe = RECIPES["detection"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestCounts(TaskSuite):
    """A task that is defined in one file outside raykd, from data to report on Ray's workers."""

    recipe = recipe(OWN, made("tests_tasks_counts:count_data"))

    def test_an_artefact_does_not_import_it(self, run, monkeypatch):
        monkeypatch.delitem(registry._FOUND, OWN)
        with pytest.raises(InputError, match=f"--task {OWN}"):
            load_student(run)
        assert load_student(run, task=OWN) is not None


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("clasification", "did you mean 'classification'"),
        ("os:getcwd", "is refused: name a task of your own module"),
        ("tests_tasks_counts:nothing", "has no task 'nothing'"),
        ("tests_tasks_counts:count_data", "is no task: it has no settings"),
        ("no_such_module:task", "cannot import 'no_such_module'"),
    ],
)
def test_what_is_no_task_is_refused_at_once(task, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config({**RECIPES["classification"], "task": task})
    assert [problem.key for problem in caught.value.problems] == ["task"]


def test_a_task_has_all_facets():
    with pytest.raises(TypeError, match="missing"):
        CustomTask()
