import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from raykd.ensemble import calibration_half
from raykd.errors import InputError
from raykd.evaluate import (
    Evaluation,
    SplitOutputs,
    best_teacher,
    check_requirements,
    choose_examples,
    classification_metrics,
    summarise,
)

NUMBERS = {"accuracy", "precision_macro", "recall_macro", "f1_macro", "nll", "ece", "brier"}
CALIBRATED = {"nll_calibrated", "ece_calibrated", "temperature"}
SPREAD = {"mean", "std", "n", "values"}
MODEL = {
    "validation",
    "test",
    "test_last",
    "parameters",
    "flops",
    "bytes",
    "latency_ms",
    "overhead_ms",
}


def summary_of(evaluation, costs, **kwargs):
    about = {
        "task": "classification",
        "status": "complete",
        "labels_used": {"student": 200},
        "test_scored_times": 1,
        "timing": {"total_s": 3.0},
        "targets": {"mode": "stored", "hit_rate": float("nan")},
    }
    return summarise(evaluation, costs, **{**about, **kwargs})


@pytest.fixture
def summary(make_evaluation, costs):
    return summary_of(make_evaluation(), costs)


def test_schema_key_by_key(summary):
    assert list(summary) == [
        "schema",
        "status",
        "task",
        "student",
        "controls",
        "ensemble",
        "teachers",
        "fidelity",
        "gains",
        "kept",
        "compare",
        "labels_used",
        "test_scored_times",
        "timing",
        "targets",
        "cost",
    ]
    assert (summary["schema"], summary["status"]) == (1, "complete")
    for model in (summary["student"], *summary["controls"].values()):
        assert set(model) == MODEL
        for split in ("validation", "test", "test_last"):
            assert set(model[split]) == NUMBERS | (CALIBRATED if split == "test" else set())
            for number in model[split].values():
                assert set(number) == SPREAD
                assert number["n"] == len(number["values"]) == 5
    for model in (summary["ensemble"], *summary["teachers"].values()):
        assert set(model) == MODEL
        for split in ("validation", "test", "test_last"):
            assert set(model[split]) == NUMBERS
            assert all(type(number) is float for number in model[split].values())
    assert list(summary["controls"]) == ["labels", "best_teacher", "hard"]
    assert list(summary["teachers"]) == ["wide", "deep", "vit"]


def test_students_are_calibrated_on_half_of_validation(summary, make_evaluation):
    evaluation = make_evaluation()
    validation, test = evaluation.splits["validation"], evaluation.splits["test"]
    half = (calibration_half(validation.ids_N) & (validation.labels_N >= 0)).numpy()
    numbers = summary["student"]["test"]
    for replica, value in enumerate(numbers["temperature"]["values"]):
        log_probs = validation.students["student"][replica].double().numpy()[half]
        labels = validation.labels_N.numpy()[half]

        def nll(temperature, log_probs=log_probs, labels=labels):
            scaled = log_softmax(log_probs / temperature, axis=1)
            return -scaled[np.arange(len(labels)), labels].mean()

        best = minimize_scalar(nll, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9})
        assert value == pytest.approx(best.x, rel=1e-3)
        scaled = (test.students["student"][replica] / value).log_softmax(1)
        expected = classification_metrics(scaled, test.labels_N)
        for name in ("nll", "ece"):
            found = numbers[f"{name}_calibrated"]["values"][replica]
            assert found == pytest.approx(expected[name], rel=1e-6)


def test_fidelity_gains_and_cost(summary):
    fidelity = summary["fidelity"]
    assert set(fidelity) == {"agreement_ensemble", "kl_ensemble_nats", "agreement", "gap_recovered"}
    assert set(fidelity["agreement"]) == {"wide", "deep", "vit"}
    assert set(fidelity["gap_recovered"]) == {"ensemble", "best_teacher"}
    for number in (
        fidelity["agreement_ensemble"],
        fidelity["kl_ensemble_nats"],
        *fidelity["agreement"].values(),
        *fidelity["gap_recovered"].values(),
    ):
        assert set(number) == SPREAD
    for gain in summary["gains"].values():
        assert set(gain) == {"mean", "ci95", "ci95_bootstrap", "n", "values"}
        assert len(gain["ci95"]) == len(gain["ci95_bootstrap"]) == 2
    ratio = {"parameters": 15.0, "flops": 15.0, "bytes": 15.0, "latency": {"1": 12.0, "256": 12.0}}
    assert summary["cost"] == ratio
    assert summary["ensemble"]["parameters"] == 15000
    assert summary["ensemble"]["latency_ms"] == {"1": 6.0, "256": 120.0}
    assert summary["controls"]["hard"]["parameters"] == 1000
    assert summary["student"]["overhead_ms"] == pytest.approx(0.5 - 19 * 0.5 / 255)
    assert summary["ensemble"]["overhead_ms"] == pytest.approx(6 - 19 * 6 / 255)


def test_numbers_are_those_of_the_arrays(summary, make_evaluation):
    test = make_evaluation().splits["test"]
    expected = classification_metrics(test.students["student"][3], test.labels_N)
    found = {name: number["values"][3] for name, number in summary["student"]["test"].items()}
    assert {name: found[name] for name in expected} == expected
    gain = summary["gains"]["labels"]["values"][3]
    control = classification_metrics(test.students["labels"][3], test.labels_N)
    assert gain == pytest.approx(expected["accuracy"] - control["accuracy"])
    baseline, ensemble = control["accuracy"], summary["ensemble"]["test"]["accuracy"]
    assert summary["fidelity"]["gap_recovered"]["ensemble"]["values"][3] == pytest.approx(
        (expected["accuracy"] - baseline) / (ensemble - baseline)
    )


def test_it_is_strict_json(summary):
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["targets"]["hit_rate"] is None


def test_one_replica(make_evaluation, costs):
    summary = summary_of(make_evaluation(replicas=1), costs)
    accuracy = summary["student"]["test"]["accuracy"]
    assert (accuracy["n"], accuracy["std"], accuracy["values"]) == (1, None, [accuracy["mean"]])
    assert summary["gains"]["labels"]["ci95"] is None
    assert summary["gains"]["labels"]["ci95_bootstrap"] is None


def test_no_controls(make_evaluation, costs):
    summary = summary_of(make_evaluation(controls=()), costs)
    assert summary["controls"] == summary["gains"] == {}
    undefined = {"mean": None, "std": None, "n": 5, "values": [None] * 5}
    assert summary["fidelity"]["gap_recovered"] == {
        "ensemble": undefined,
        "best_teacher": undefined,
    }


def test_a_teacher_without_a_model_has_no_cost(make_evaluation, costs):
    del costs["vit"]
    summary = summary_of(make_evaluation(), costs)
    assert summary["teachers"]["vit"]["parameters"] is None
    assert summary["ensemble"]["latency_ms"] == {"1": None, "256": None}
    assert summary["ensemble"]["overhead_ms"] is None
    assert summary["cost"]["parameters"] is None


def test_splits_without_labels_have_no_numbers(make_evaluation, costs):
    evaluation = make_evaluation()
    for split in evaluation.splits.values():
        split.labels_N.fill_(-1)
    summary = summary_of(evaluation, costs)
    assert summary["student"]["test"] is None
    assert summary["gains"] == {}
    assert summary["fidelity"]["agreement_ensemble"]["mean"] is not None


def test_saved_and_loaded_are_equal(make_evaluation, tmp_path, costs):
    evaluation = make_evaluation()
    rows = choose_examples(evaluation.splits["test"], 5)
    images = torch.rand(len(rows), 1, 8, 8)
    evaluation = Evaluation(
        splits=evaluation.splits,
        classes=("<a>", "b/c", "d", "e"),
        examples_rows=rows,
        examples_inputs=images,
    )
    path = tmp_path / "run" / "evaluation.safetensors"
    evaluation.save(path)
    loaded = Evaluation.load(path)
    assert list(path.parent.iterdir()) == [path]
    assert loaded.classes == evaluation.classes
    assert list(loaded.splits["test"].teachers) == ["wide", "deep", "vit"]
    assert torch.equal(loaded.examples_inputs, images)
    assert summary_of(loaded, costs) == summary_of(evaluation, costs)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 10, None])
def test_a_damaged_file_is_named(tmp_path, content, make_evaluation):
    path = tmp_path / "evaluation.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"evaluation\.safetensors.*evaluate anew"):
        Evaluation.load(path)


def test_user_ids_are_kept_beside_the_answers(make_evaluation, tmp_path):
    """At 7d0af11 the file had hashes of them alone."""
    path = tmp_path / "evaluation.safetensors"
    splits = make_evaluation().splits
    count = len(splits["test"].ids_N)
    names = tuple(f"café/{row:04d}.png" for row in range(count))
    Evaluation(splits={**splits, "test": replace(splits["test"], user_ids=names)}).save(path)
    loaded = Evaluation.load(path).splits
    assert loaded["test"].user_ids == names
    assert loaded["validation"].user_ids == (), "as of a run of an earlier version"
    assert loaded["test"].only(torch.arange(count) % 2 == 1).user_ids == names[1::2]


def test_a_truncated_or_foreign_file_is_refused(tmp_path, make_evaluation):
    from safetensors.torch import save_file

    path = tmp_path / "evaluation.safetensors"
    make_evaluation().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="evaluate anew"):
        Evaluation.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="evaluate anew"):
        Evaluation.load(path)


def test_shapes_are_checked(make_evaluation):
    test = make_evaluation().splits["test"]
    with pytest.raises(ValueError, match="student: expected"):
        SplitOutputs(
            labels_N=test.labels_N,
            ids_N=test.ids_N,
            teachers={},
            ensemble=test.ensemble,
            students={"student": test.ensemble},
        )
    with pytest.raises(ValueError, match="positions in the test split"):
        Evaluation(
            splits={"test": test},
            examples_rows=torch.tensor([200]),
            examples_inputs=torch.zeros(1, 8, 8),
        )


def test_best_teacher_breaks_ties_by_nll_then_name():
    labels = torch.tensor([0, 1])
    sure = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    unsure = torch.tensor([[0.6, 0.4], [0.4, 0.6]]).log()

    def best(**teachers):
        return best_teacher(
            SplitOutputs(
                labels_N=labels, ids_N=labels, teachers=teachers, ensemble=sure, students={}
            )
        )

    assert best(a=unsure, b=sure) == "b"
    assert best(b=sure, a=sure) == "a"
    assert best(a=sure.flip(0), b=unsure) == "b"


def test_examples_are_samples_on_which_student_and_baseline_differ(make_evaluation):
    test = make_evaluation().splits["test"]
    rows = choose_examples(test, 4)
    student, baseline = (test.students[role][0].argmax(1) for role in ("student", "labels"))
    assert len(rows) == 4
    assert (student[rows] != baseline[rows]).all()
    assert len(choose_examples(test, 10_000)) == int((student != baseline).sum())


def test_requirements(summary):
    mean = summary["student"]["test"]["accuracy"]["mean"]
    low = summary["gains"]["labels"]["ci95"][0]
    texts = [
        "student.test.accuracy >= 0.5",
        "student.test.accuracy<0.5",
        "gains.labels.ci95.0 > 0",
        "targets.hit_rate >= 0",
        "controls.labels.test.nll <= 1e9",
    ]
    found = check_requirements(summary, texts)
    assert [one.text for one in found] == texts
    assert [one.holds for one in found] == [True, False, low > 0, False, True]
    assert [one.value for one in found][:4] == [mean, mean, low, None]


def test_wrong_requirements_are_all_named(summary):
    texts = ["student.test.acuracy >= 0.5", "student.test >= 1", "student", "cost.flops > much"]
    with pytest.raises(InputError) as caught:
        check_requirements(summary, texts)
    keys = [problem.key for problem in caught.value.problems]
    messages = [problem.message for problem in caught.value.problems]
    assert keys == [f"evaluate.require.{index}" for index in range(4)]
    assert "did you mean 'student.test.accuracy'" in messages[0]
    assert "it holds: accuracy" in messages[1]
    assert "cannot read" in messages[2]
    assert "not a number" in messages[3]


def test_a_missing_interval_meets_no_requirement(make_evaluation, costs):
    summary = summary_of(make_evaluation(replicas=1), costs)
    (found,) = check_requirements(summary, ["gains.labels.ci95.0 > -1"])
    assert (found.value, found.holds) == (None, False)
