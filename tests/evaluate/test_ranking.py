"""Which teachers to keep: against plain NumPy, for every task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raykd.ensemble import TEMPERATURE_BOUNDS, calibration_half, fit_temperature
from raykd.ensemble.stacking import stacked_weights
from raykd.evaluate import SplitOutputs
from raykd.evaluate.ranking import rank_teachers
from raykd.tasks import find_task

CLASSES, SAMPLES = 4, 60


def said(teachers, labels):
    some = next(iter(teachers.values()))
    return SplitOutputs(
        labels_N=labels,
        ids_N=torch.arange(len(labels)),
        teachers=teachers,
        ensemble=some,
        students={},
    )


@pytest.fixture
def classifiers():
    """Five teachers of which d is the worst, with some samples unlabelled."""
    source = torch.Generator().manual_seed(1)
    labels = torch.arange(SAMPLES) % CLASSES
    logits = {name: torch.randn(SAMPLES, CLASSES, generator=source) for name in "abcde"}
    for name in "abce":
        logits[name] += F.one_hot(labels, CLASSES)
    labels[:7] = -1
    return said({name: one.log_softmax(1) for name, one in logits.items()}, labels)


def test_greedy_selection_adds_what_helps_most(classifiers):
    found = rank_teachers(find_task("classification").metrics, classifiers)
    labels = classifiers.labels_N[7:].numpy()
    probs = {name: one[7:].double().exp().numpy() for name, one in classifiers.teachers.items()}
    chosen = []
    for step in found["greedy"]:
        scores = {}
        for name in sorted(set(probs) - set(chosen)):
            mean = np.mean([probs[one] for one in [*chosen, name]], axis=0)
            likelihood = np.log(mean[np.arange(len(labels)), labels]).mean()
            scores[name] = ((mean.argmax(1) == labels).mean(), likelihood)
        best = max(scores, key=scores.get)
        accuracy, likelihood = scores[best]
        assert step == {"teacher": best, "accuracy": pytest.approx(accuracy),
                        "nll": pytest.approx(-likelihood, rel=1e-5)}  # fmt: skip
        chosen.append(best)
    assert sorted(chosen) == list("abcde")
    accuracies = [step["accuracy"] for step in found["greedy"]]
    assert found["keep"] == chosen[: 1 + int(np.argmax(accuracies))]
    assert found["ensemble"]["accuracy"] == pytest.approx(accuracies[-1])


def test_pairs_and_the_oracle(classifiers):
    found = rank_teachers(find_task("classification").metrics, classifiers)
    labels = classifiers.labels_N[7:].numpy()
    votes = {name: one[7:].argmax(1).numpy() for name, one in classifiers.teachers.items()}
    right = {name: vote == labels for name, vote in votes.items()}
    expected = np.corrcoef([right[name].astype(float) for name in "abcde"])
    for i, first in enumerate("abcde"):
        assert found["teachers"][first]["accuracy"] == pytest.approx(right[first].mean())
        for j, second in enumerate("abcde"):
            assert found["error_correlation"][first][second] == pytest.approx(expected[i, j])
            assert found["alike"][first][second] == pytest.approx(
                (votes[first] == votes[second]).mean()
            )
    assert found["oracle"] == pytest.approx(np.any(list(right.values()), axis=0).mean())
    assert found["samples"] == SAMPLES - 7


def test_regressors_are_ranked_by_their_error():
    source = torch.Generator().manual_seed(2)
    labels = torch.randn(SAMPLES, generator=source) * 10
    noise = {name: torch.randn(SAMPLES, 1, generator=source) for name in "xyz"}
    teachers = {"x": labels[:, None] + noise["x"], "y": labels[:, None] - noise["x"],
                "z": labels[:, None] + 5 * noise["z"]}  # fmt: skip
    found = rank_teachers(find_task("regression").metrics, said(teachers, labels))
    assert {step["teacher"] for step in found["greedy"][:2]} == {"x", "y"}
    assert set(found["keep"]) == {"x", "y"}, "opposite errors cancel, the noisy one only harms"
    assert found["greedy"][1]["rmse"] == pytest.approx(0, abs=1e-5)
    errors = np.stack([(one[:, 0] - labels).square().numpy() for one in teachers.values()])
    assert found["oracle"] == pytest.approx(np.sqrt(errors.min(axis=0).mean()), rel=1e-5)
    assert found["error_correlation"]["x"]["y"] == pytest.approx(1.0, abs=1e-4)
    assert found["alike"]["x"]["x"] == 0


def test_labels_decide_of_multilabel_teachers():
    labels = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]])
    good = torch.where(labels == 1, 3.0, -3.0)
    found = rank_teachers(
        find_task("multilabel").metrics, said({"bad": -good, "good": good}, labels)
    )
    assert found["greedy"][0]["teacher"] == "good"
    assert found["greedy"][0]["accuracy"] == 1.0
    assert found["keep"] == ["good"]
    assert found["error_correlation"]["bad"]["good"] is None


def test_without_labels_there_is_no_ranking(classifiers):
    blind = said(classifiers.teachers, torch.full((SAMPLES,), -1))
    with pytest.raises(ValueError, match="no sample has a label"):
        rank_teachers(find_task("classification").metrics, blind)


def test_learnt_weights_beside_equal_ones(classifiers):
    task = find_task("classification").metrics
    found = rank_teachers(task, classifiers)["weights"]
    half = calibration_half(classifiers.ids_N)
    labelled = classifiers.labels_N >= 0
    assert (found["fitted_on"], found["judged_on"]) == (int((half & labelled).sum()), int((~half & labelled).sum()))  # fmt: skip
    assert found["uniform"]["weights"] == pytest.approx(dict.fromkeys("abcde", 0.2))
    rows, labels = half & labelled, classifiers.labels_N[half & labelled]
    temperatures = {n: fit_temperature(one[rows], labels) for n, one in classifiers.teachers.items()}  # fmt: skip
    assert temperatures["d"] == TEMPERATURE_BOUNDS[1], "it is no better than chance"
    temperatures["d"] = 1.0
    assert found["temperatures"] == pytest.approx(temperatures)
    own = [(classifiers.teachers[n][rows] / t).log_softmax(1).gather(1, labels[:, None])[:, 0] for n, t in temperatures.items()]  # fmt: skip
    expected = stacked_weights(torch.stack(own), found["prior"]).tolist()
    assert list(found["stacking"]["weights"].values()) == pytest.approx(expected, abs=1e-6)
    rest = ~half & labelled
    mixed = sum(
        w * (classifiers.teachers[n][rest] / temperatures[n]).softmax(1)
        for n, w in found["stacking"]["weights"].items()
    )
    nll = F.nll_loss(mixed.log(), classifiers.labels_N[rest]).item()
    assert found["stacking"]["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["stacking"]["nll"] != found["uniform"]["nll"]


def test_no_weights_without_labels_to_judge_by(classifiers):
    task = find_task("classification").metrics
    few = said(classifiers.teachers, classifiers.labels_N.clone())
    few.labels_N[calibration_half(few.ids_N)] = -1
    assert "weights" not in rank_teachers(task, few)
