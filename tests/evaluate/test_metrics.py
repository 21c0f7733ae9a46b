import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
)

from raykd.evaluate import classification_metrics, confusion, reliability


def some(samples=300, classes=5, seed=0, strength=1.5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    logits = torch.randn(samples, classes, generator=generator)
    logits += strength * torch.nn.functional.one_hot(labels, classes)
    return logits.log_softmax(dim=1), labels


def ece_reference(probs, labels, bins=15):
    """The definition, sample by sample."""
    total = 0.0
    for k in range(bins):
        inside = [
            (p.max(), p.argmax() == label)
            for p, label in zip(probs, labels, strict=True)
            if k / bins < p.max() <= (k + 1) / bins
        ]
        if inside:
            confidence, right = np.mean([c for c, _ in inside]), np.mean([r for _, r in inside])
            total += len(inside) / len(labels) * abs(right - confidence)
    return total


def test_numbers_equal_scikit_learn():
    log_probs, labels = some()
    found = classification_metrics(log_probs, labels)
    truth, predicted = labels.numpy(), log_probs.argmax(1).numpy()
    probs = log_probs.double().exp().numpy()
    expected = {
        "accuracy": accuracy_score(truth, predicted),
        "precision_macro": precision_score(truth, predicted, average="macro"),
        "recall_macro": recall_score(truth, predicted, average="macro"),
        "f1_macro": f1_score(truth, predicted, average="macro"),
        "nll": log_loss(truth, probs / probs.sum(1, keepdims=True)),
        "ece": ece_reference(probs, truth),
        "brier": np.mean(((probs - np.eye(5)[truth]) ** 2).sum(1)),
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert list(found) == list(expected)
    assert all(type(value) is float for value in found.values())


def test_a_class_without_samples_counts_as_in_scikit_learn():
    log_probs, labels = some(classes=6)
    labels = torch.where(labels == 5, 0, labels)  # class 5 is predicted, but never true
    found = classification_metrics(log_probs, labels)
    truth, predicted = labels.numpy(), log_probs.argmax(1).numpy()
    expected = recall_score(truth, predicted, average="macro", zero_division=0)
    assert found["recall_macro"] == pytest.approx(expected)


def test_unlabelled_rows_change_nothing():
    log_probs, labels = some()
    more = torch.cat([log_probs, some(seed=9)[0]])
    padded = torch.cat([labels, torch.full((300,), -1)])
    assert classification_metrics(more, padded) == classification_metrics(log_probs, labels)


def test_full_confidence_stays_in_the_last_bin():
    # Rounding may put a probability just above 1; some libraries then take all rows for logits.
    log_probs = torch.tensor([[1e-7, -40.0], [-0.01, -4.6], [1e-7, -40.0]])
    confidence, accuracy, count = reliability(log_probs, torch.tensor([0, 0, 1]))
    assert count.tolist() == [0] * 14 + [3]
    assert accuracy[-1] == pytest.approx(2 / 3)
    assert np.isnan(confidence[:14]).all()
    assert classification_metrics(log_probs, torch.tensor([0, 0, 1]))["ece"] == pytest.approx(
        0.99667 - 2 / 3, abs=1e-4
    )


def test_confusion_has_truth_in_rows():
    log_probs, labels = some()
    expected = confusion_matrix(labels, log_probs.argmax(1))
    assert (confusion(log_probs, labels) == expected).all()


def test_impossible_true_class_gives_infinite_nll():
    log_probs = torch.tensor([[0.0, -torch.inf]])
    assert classification_metrics(log_probs, torch.tensor([1]))["nll"] == float("inf")


@pytest.mark.parametrize(
    ("labels", "message"),
    [([-1, -1], "none of the samples"), ([0, 7], "must lie in"), ([0], "are needed")],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(torch.zeros(2, 3).log_softmax(1), torch.tensor(labels))
