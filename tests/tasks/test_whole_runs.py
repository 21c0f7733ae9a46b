"""A regression and a multilabel task from recipe to report, on Ray."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from raykd.config import load_config
from raykd.evaluate import Evaluation
from raykd.pipeline import Options, run
from raykd.pipeline.prediction import ask_student as predict
from raykd.pipeline.prediction import write_csv
from raykd.pipeline.preparation import prepare
from raykd.pipeline.student import load_student
from raykd.report import result_cells
from raykd.report.verdicts import verdict

pytestmark = [pytest.mark.ray, pytest.mark.figures, pytest.mark.e2e, pytest.mark.slow]
FIT = {"epochs": 15, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.01}}
BASE = {
    "seeds": 2,
    "data": {
        "splits": {"validation": 30, "test": 40},
        "labels": 60,
    },
    "teachers": [
        {"name": "wide", "model": {"type": "mlp", "width": 1.0, "depth": 1}, "fit": FIT},
        {"name": "deep", "model": {"type": "mlp", "width": 0.5, "depth": 2}, "fit": FIT},
    ],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}},
    "train": {"epochs": 4, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.02}},
    "cluster": {"teachers": {"cpus": 0.5}},
    "tracking": {"wandb": {"mode": "disabled"}},
}


def recipe(task: str, factory: str, *overrides: str):
    source = {"type": "factory", "path": f"tests_tasks_data:{factory}"}
    tree = {**BASE, "task": task, "data": {**BASE["data"], "source": source}}
    return load_config(tree, overrides)


def files_of(run_folder) -> set[str]:
    return {path.name for path in (run_folder / "report" / "figures").iterdir()}


@pytest.mark.soak
def test_a_regression_from_recipe_to_report(ray_cluster, tmp_path):
    config = recipe(
        "regression",
        "values_data",
        "objective.soft_targets.loss={type: imitation}",
        "objective.weighting={type: inverse_error}",
        "evaluate.require=['student.test.r2 >= 0.2', 'student.test.rmse < 1']",
    )
    result = run(config, Options(output=tmp_path / "run"))
    summary = result.summary
    assert [requirement.holds for requirement in result.requirements] == [True, False]
    assert summary["task"] == "regression"
    assert set(summary["controls"]) == {"labels", "best_teacher", "hard"}
    for model in (summary["student"], *summary["controls"].values()):
        assert set(model["test"]) == {"mae", "rmse", "r2"}
        assert model["test"]["rmse"]["n"] == 2
    assert summary["ensemble"]["test"]["r2"] > 0.3
    assert summary["student"]["test"]["rmse"]["mean"] < 60  # in grams, where the deviation is 55
    values = summary["gains"]["labels"]["values"]
    own, base = (
        model["test"]["rmse"]["values"]
        for model in (summary["student"], summary["controls"]["labels"])
    )
    assert values == pytest.approx([b - o for o, b in zip(own, base, strict=True)])

    said = verdict(summary)
    assert "a test RMSE of" in said[0]
    assert "accuracy" not in " ".join(said)
    assert list(result_cells(summary)[0]) == ["model", "RMSE", "R²", "parameters", "ms per sample"]
    found = files_of(result.path)
    assert {"predictions.png", "residuals.png", "distances.png", "learning.png"} <= found
    assert not {"calibration.png", "confusions.png", "classes.png"} & found
    page = (result.path / "report" / "index.html").read_text()
    assert "accuracy" not in page.split("<details>")[0]
    card = json.loads((result.path / "teachers" / "wide.json").read_text())
    assert set(card["validation"]) == {"mae", "rmse", "r2"}

    samples = prepare(config).samples
    rows = samples.splits["test"]
    evaluation = Evaluation.load(result.path / "evaluation.safetensors")
    with torch.inference_mode():
        answers = load_student(result.path)(
            {"inputs": torch.from_numpy(samples.inputs["inputs"][rows])}
        )
    torch.testing.assert_close(answers, evaluation.splits["test"].students["student"][0])
    assert 900 < float(answers.mean()) < 1100  # original units
    ids, predicted = predict(result.path, (samples.ids[rows], samples.inputs["inputs"][rows]), None)
    text = io.StringIO()
    write_csv(text, ids, predicted)
    header, first = text.getvalue().splitlines()[:2]
    assert header == "id,prediction"
    assert float(first.split(",")[1]) == pytest.approx(float(answers[0]), rel=1e-4)


@pytest.mark.soak
def test_labels_from_recipe_to_report_with_live_teachers(ray_cluster, tmp_path):
    config = recipe(
        "multilabel",
        "marks_data",
        "targets.mode=live",
        "teachers.wide.temperature=fit",
        "objective.soft_targets.temperature=2",
        "evaluate.controls=[hard]",
        "seeds=1",
    )
    result = run(config, Options(output=tmp_path / "run"))
    summary = result.summary
    assert summary["targets"]["mode"] == "live"
    numbers = summary["student"]["test"]
    assert set(numbers) >= {"accuracy", "accuracy_subset", "f1_macro", "nll", "ece", "brier"}
    assert summary["ensemble"]["test"]["accuracy"] > 0.75
    assert set(summary["fidelity"]) >= {"agreement_ensemble", "kl_ensemble_nats", "agreement"}
    assert "right label decisions on test" in verdict(summary)[0]
    assert {"labels.png", "gains.png", "size.png"} <= files_of(result.path)
    assert "rare" in (result.path / "report" / "report.md").read_text()

    samples = prepare(config).samples
    rows = samples.splits["test"][:5]
    _, predicted = predict(result.path, (samples.ids[rows], samples.inputs["inputs"][rows]), None)
    assert predicted.label_N.shape == (5, 3)
    assert np.array_equal(predicted.probability_NC > 0.5, predicted.label_N == 1)


EMBEDDING = {
    **BASE,
    "task": "embedding",
    "seeds": 1,
    "data": {
        "source": {"type": "digits"},
        "splits": {"validation": 100, "test": 100},
        "labels": 100,
    },
    "teachers": [
        {"name": "deep", "model": {"type": "cnn", "width": 0.25}, "fit": FIT, "embedding": "pool"},
        {"name": "flat", "model": "mlp", "fit": FIT, "embedding": "blocks.1"},
    ],
    "student": {"model": {"type": "mlp", "width": 0.25, "depth": 1}, "dimension": 8},
}


@pytest.mark.soak
def test_embeddings_from_recipe_to_report(ray_cluster, tmp_path):
    config = load_config(EMBEDDING, ["evaluate.require=['student.test.recall_1 >= 0.5']"])
    result = run(config, Options(output=tmp_path / "run"))
    summary = result.summary
    assert [requirement.holds for requirement in result.requirements] == [True]
    assert set(summary["controls"]) == {"best_teacher", "untrained"}
    for model in (summary["student"], *summary["controls"].values()):
        assert set(model["test"]) == {"map_10", "recall_1", "recall_10", "knn", "probe"}
    student, untrained = (
        model["test"]["map_10"]["mean"]
        for model in (summary["student"], summary["controls"]["untrained"])
    )
    assert student > untrained + 0.05
    assert summary["fidelity"]["spearman_ensemble"]["mean"] > 0.3
    assert set(summary["fidelity"]["spearman"]) == {"deep", "flat"}
    assert summary["labels_used"]["teachers"] == {"deep": 100, "flat": 100}
    assert "a test mAP@10 of" in verdict(summary)[0]
    assert {"gains.png", "size.png", "learning.png"} <= files_of(result.path)

    samples = prepare(config).samples
    rows = samples.splits["test"]
    evaluation = Evaluation.load(result.path / "evaluation.safetensors")
    widths = {name: one.shape[1] for name, one in evaluation.splits["test"].teachers.items()}
    assert widths == {"deep": 32, "flat": 64}
    ids, predicted = predict(result.path, (samples.ids[rows], samples.inputs["inputs"][rows]), None)
    stored = evaluation.splits["test"].students["student"][0]
    np.testing.assert_allclose(predicted.vector_ND, stored, atol=1e-5)
    text = io.StringIO()
    write_csv(text, ids, predicted)
    assert text.getvalue().splitlines()[0] == "id," + ",".join(f"e_{i}" for i in range(8))


@pytest.mark.soak
def test_embeddings_without_any_label(ray_cluster, tmp_path):
    teachers = [
        {"name": name, "model": {"type": "factory", "path": "tests_tasks_data:encoder",
                                 "kwargs": {"length": length}}}
        for name, length in (("one", 7), ("other", 4))
    ]  # fmt: skip
    source = {"type": "factory", "path": "tests_tasks_data:bare_data"}
    data = {"source": source, "splits": {"validation": 50, "test": 50}}
    for number, loss in enumerate(("similarity", "mse")):
        soft = {"soft_targets": {"loss": {"type": loss}}}
        tree = {**EMBEDDING, "data": data, "teachers": teachers, "objective": soft}
        result = run(load_config(tree), Options(output=tmp_path / f"run{number}"))
        summary = result.summary
        assert summary["student"]["test"] is None
        assert summary["gains"] == {}
        assert summary["fidelity"]["spearman_ensemble"]["mean"] > 0.5
        assert "no labels" in verdict(summary)[0]
        assert "rank correlation" in verdict(summary)[1]
