"""Numbers of regression and multilabel against scikit-learn; gains point the right way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from raykd.evaluate import Evaluation, SplitOutputs, paired_gain, summarise
from raykd.evaluate.metrics import classification_metrics
from raykd.evaluate.outputs import best_teacher, choose_examples
from raykd.tasks import BUILT_IN, find_task
from raykd.tasks.multilabel.metrics import multilabel_fidelity, multilabel_metrics, right_shares
from raykd.tasks.regression.metrics import squared_errors, value_fidelity, value_metrics

COST = {"parameters": 1, "flops": 1, "bytes": 4, "latency_ms": {"1": 1.0, "256": 1.0}}


def values(seed: int = 0, count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(count, generator=generator) * 40 + 150
    noise = torch.randn(count, generator=generator) * 20
    return (truth + noise)[:, None], truth


def marks(seed: int = 0, count: int = 60, labels: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = (torch.rand(count, labels, generator=generator) < 0.4).long()
    logits = 3 * torch.randn(count, labels, generator=generator) + 2 * (2 * truth - 1)
    return logits, truth


def test_value_metrics_are_scikit_learns():
    said, truth = (numbers.double() for numbers in values())
    found = value_metrics(said, truth)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, said), rel=1e-9)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, said), rel=1e-9)
    assert found["r2"] == pytest.approx(sk.r2_score(truth, said), rel=1e-9)


def test_unlabelled_values_are_left_out():
    said, truth = values()
    hidden = truth.clone()
    hidden[::3] = torch.nan
    known = ~hidden.isnan()
    assert value_metrics(said, hidden) == value_metrics(said[known], truth[known])
    assert len(squared_errors(said, hidden)) == int(known.sum())
    with pytest.raises(ValueError, match="none of the samples has a label"):
        value_metrics(said, torch.full_like(truth, torch.nan))
    with pytest.raises(ValueError, match="are needed"):
        value_metrics(said[:, 0], truth)


def test_mark_metrics_are_scikit_learns():
    logits, truth = marks()
    said, odds = (logits > 0).long(), logits.sigmoid()
    found = multilabel_metrics(logits, truth)
    macro = {"average": "macro", "zero_division": 0}
    assert found["accuracy"] == pytest.approx(1 - sk.hamming_loss(truth, said))
    assert found["accuracy_subset"] == pytest.approx(sk.accuracy_score(truth, said))
    assert found["precision_macro"] == pytest.approx(sk.precision_score(truth, said, **macro))
    assert found["recall_macro"] == pytest.approx(sk.recall_score(truth, said, **macro))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(truth, said, **macro))
    nll = np.mean([sk.log_loss(t, p) for t, p in zip(truth.T, odds.T, strict=True)])
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    brier = np.mean([sk.brier_score_loss(t, p) for t, p in zip(truth.T, odds.T, strict=True)])
    assert found["brier"] == pytest.approx(brier, rel=1e-5)
    assert 0 <= found["ece"] <= 1


def test_unlabelled_marks_are_left_out():
    logits, truth = marks()
    hidden = truth.clone()
    hidden[::3] = -1
    known = hidden[:, 0] >= 0
    assert multilabel_metrics(logits, hidden) == multilabel_metrics(logits[known], truth[known])
    assert right_shares(logits, hidden).shape == (int(known.sum()),)


SUMMED = [name for name in BUILT_IN if find_task(name).metrics.tally is not None]


@pytest.mark.parametrize("name", SUMMED)
def test_sums_over_batches_give_the_validation_metrics(name):
    task = find_task(name).metrics
    if name == "regression":
        outputs, labels = values()
    elif name == "multilabel":
        outputs, labels = marks()
    else:
        outputs, labels = torch.randn(60, 3), torch.randint(0, 3, (60,))
    if name == "control_continuous":
        outputs, labels = torch.randn(60, 4), torch.randn(60, 2)
    if name == "language":  # token, bytes, domain, chunk
        labels = torch.stack([labels, 1 + labels, labels % 2, torch.arange(60) // 7], dim=1)
    whole = task.numbers(task.kept(task.answer(outputs), labels), labels)
    parts = [task.tally(outputs[part], labels[part]) for part in (slice(0, 17), slice(17, None))]
    assert parts[0].shape == (task.tallied,)
    found = task.total(parts[0] + parts[1])
    assert {task.metric, task.ties} <= set(found)
    for key, value in found.items():
        assert value == pytest.approx(whole[key], rel=1e-5), key


def test_classification_is_what_it_was():
    task = find_task("classification").metrics
    log_probs = torch.randn(40, 3).log_softmax(dim=1)
    labels = torch.randint(0, 3, (40,))
    assert task.numbers(log_probs, labels) == classification_metrics(log_probs, labels)
    worse, better = {"accuracy": 0.8, "nll": 0.1}, {"accuracy": 0.9, "nll": 0.9}
    assert task.rank(better) > task.rank(worse)
    assert task.rank(worse, "nll") > task.rank(better, "nll")
    assert find_task("regression").metrics.rank({"rmse": 1.0, "mae": 2.0}) > find_task(
        "regression"
    ).metrics.rank({"rmse": 2.0, "mae": 1.0})


@pytest.mark.parametrize("name", sorted({*BUILT_IN} - {"detection"}))  # its answers are no vectors
def test_one_teacher_is_the_ensemble(name):
    outputs = torch.randn(1, 20, 1 if name == "regression" else 3)
    task = find_task(name).metrics
    found, own = task.ensemble(outputs), task.answer(outputs[0])
    if name == "embedding":  # of which only directions count
        own = torch.nn.functional.normalize(own, dim=1)
    torch.testing.assert_close(found, own)


def test_ensembles_mix_probabilities_and_values():
    outputs = torch.randn(3, 20, 4)
    found = find_task("multilabel").metrics.ensemble(outputs).sigmoid()
    torch.testing.assert_close(found, outputs.sigmoid().mean(dim=0))
    torch.testing.assert_close(
        find_task("regression").metrics.ensemble(outputs[..., :1]), outputs[..., :1].mean(0)
    )
    assert find_task("multilabel").metrics.ensemble(torch.full((2, 3, 1), 200.0)).isfinite().all()


def test_value_fidelity():
    one, other = values(0)[0], values(1)[0]
    found = value_fidelity(one, other, {"wide": one})
    assert found["rmse"]["wide"] == 0
    assert found["rmse_ensemble"] == pytest.approx(sk.root_mean_squared_error(one, other), rel=1e-6)
    expected = np.corrcoef(one[:, 0], other[:, 0])[0, 1]
    assert found["correlation_ensemble"] == pytest.approx(expected, rel=1e-5)


def test_mark_fidelity_is_a_mean_over_labels():
    one, other = marks(0)[0], marks(1)[0]
    found = multilabel_fidelity(one, other, {"wide": one})
    assert found["agreement"]["wide"] == 1
    same = ((one > 0) == (other > 0)).double().mean()
    assert found["agreement_ensemble"] == pytest.approx(float(same))
    p, q = other.double().sigmoid(), one.double().sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert found["kl_ensemble_nats"] == pytest.approx(float(kl.mean()), rel=1e-6)


def test_a_bootstrap_of_roots_covers_the_difference_of_rmse():
    generator = np.random.default_rng(0)
    better, worse = (generator.normal(0, size, (5, 400)) ** 2 for size in (1.0, 1.2))
    metrics = [-np.sqrt(scores.mean(axis=1)) for scores in (better, worse)]
    found = paired_gain(*metrics, better, worse, seed=0, from_scores=lambda mean: -np.sqrt(mean))
    assert found["mean"] == pytest.approx(0.2, abs=0.05)
    low, high = found["ci95_bootstrap"]
    assert low < found["mean"] < high
    assert low > 0.05
    assert high < 0.35


def regression_run(good: float, bad: float) -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(80, generator=generator) * 10 + 100

    def noisy(size: float, *shape: int) -> torch.Tensor:
        return truth[:, None] + size * torch.randn(*shape, 80, 1, generator=generator)

    def split() -> SplitOutputs:
        return SplitOutputs(
            labels_N=truth,
            ids_N=torch.arange(80),
            teachers={"wide": noisy(2.0), "deep": noisy(1.0)},
            ensemble=noisy(0.5),
            students={"student": noisy(good, 3), "labels": noisy(bad, 3)},
        )

    return Evaluation(
        splits={"validation": split(), "test": split()}, task="regression", classes=("cm",)
    )


def summary_of(evaluation: Evaluation) -> dict:
    return summarise(
        evaluation,
        {"student": COST, "wide": COST, "deep": COST},
        task=evaluation.task,
        status="complete",
        labels_used={},
        test_scored_times=1,
        timing={},
        targets={},
    )


def test_a_lower_rmse_is_a_positive_gain():
    summary = summary_of(regression_run(good=1.0, bad=4.0))
    assert set(summary["student"]["test"]) == {"mae", "rmse", "r2"}
    rmse = [summary[key]["test"]["rmse"]["mean"] for key in ("student",)]
    base = summary["controls"]["labels"]["test"]["rmse"]["mean"]
    gain = summary["gains"]["labels"]
    assert gain["mean"] == pytest.approx(base - rmse[0])
    assert gain["ci95"][0] > 0
    assert gain["ci95_bootstrap"][0] > 0
    recovered = summary["fidelity"]["gap_recovered"]["ensemble"]["mean"]
    assert 0.5 < recovered < 1
    assert set(summary["fidelity"]) == {
        "rmse_ensemble", "correlation_ensemble", "rmse", "gap_recovered",
    }  # fmt: skip
    assert summary_of(regression_run(4.0, 1.0))["gains"]["labels"]["mean"] < 0


def test_the_best_teacher_has_the_lowest_rmse():
    evaluation = regression_run(1.0, 4.0)
    assert best_teacher(evaluation.splits["validation"], "regression") == "deep"
    shown = choose_examples(evaluation.splits["test"], 5, "regression")
    test = evaluation.splits["test"]
    apart = (test.students["student"][0] - test.students["labels"][0]).abs()[:, 0]
    assert shown.tolist() == apart.argsort(descending=True)[:5].tolist()


def test_an_evaluation_keeps_its_task(tmp_path):
    evaluation = regression_run(1.0, 4.0)
    evaluation.save(tmp_path / "evaluation.safetensors")
    again = Evaluation.load(tmp_path / "evaluation.safetensors")
    assert again.task == "regression"
    assert summary_of(again) == summary_of(evaluation)
    with pytest.raises(ValueError, match="outputs are of regression"):
        summarise(
            again, {"student": COST}, task="classification", status="complete", labels_used={},
            test_scored_times=1, timing={}, targets={},
        )  # fmt: skip
