"""How good predictions are: accuracy, macro scores, likelihood, calibration.

Shapes: N samples, C classes, K bins. Rows without a label (−1) are left out of every number.
Inputs are log-probabilities (natural logarithm), never logits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.types import UNLABELLED

BINS = 15


def classification_metrics(log_probs_NC: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Every number of one model on one split.

    Args:
        log_probs_NC: [N, C] log-probabilities.
        labels_N: integer [N] in [−1, C), −1 where unlabelled.

    Returns:
        `accuracy`, `precision_macro`, `recall_macro`, `f1_macro` in [0, 1], macro meaning the plain
        mean over classes that occur among labels or predictions; `nll` in nats; `ece`, the expected
        calibration error over 15 equal-width bins (Guo et al. 2017, Eq. 3) in [0, 1]; `brier`, the
        squared error summed over classes (Brier 1950) in [0, 2].

    Raises:
        ValueError: shapes differ, a label is no class, or no row is labelled.
    """
    log_probs, labels = labelled(log_probs_NC, labels_N)
    classes = log_probs.shape[1]
    predicted = log_probs.argmax(dim=1)
    truth = torch.nn.functional.one_hot(labels, classes)
    right_N = predicted == labels
    hits_C, predicted_C, true_C = (
        torch.bincount(of_N, minlength=classes) for of_N in (labels[right_N], predicted, labels)
    )
    occurs_C = predicted_C + true_C > 0
    numbers: dict[str, Tensor | float] = {
        "accuracy": right_N.double().mean(),
        **macro_scores(hits_C[occurs_C], predicted_C[occurs_C], true_C[occurs_C]),
        "nll": -log_probs.gather(1, labels[:, None]).mean(),
        "ece": calibration_error(log_probs, labels),
        "brier": (log_probs.exp() - truth).square().sum(dim=1).mean(),
    }
    return {name: float(value) for name, value in numbers.items()}


def macro_scores(hits_K: Tensor, predicted_K: Tensor, true_K: Tensor) -> dict[str, Tensor]:
    """`precision_macro`, `recall_macro` and `f1_macro`: plain means over classes or labels, 0 where one is 0 / 0.

    Args:
        hits_K: how often each was predicted, and so it was.
        predicted_K: how often it was predicted.
        true_K: how often it was so.
    """

    def mean_share(parts_K: Tensor, of_K: Tensor) -> Tensor:
        return torch.where(of_K > 0, parts_K.double() / of_K.clamp(min=1), 0.0).mean()

    return {
        "precision_macro": mean_share(hits_K, predicted_K),
        "recall_macro": mean_share(hits_K, true_K),
        "f1_macro": mean_share(2 * hits_K, predicted_K + true_K),
    }


def labelled(log_probs_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that have a label: float64 log-probabilities [M, C] and int64 labels [M], on the CPU.

    Raises:
        ValueError: shapes differ, a label is no class, or no row is labelled.
    """
    if log_probs_NC.ndim != 2 or labels_N.shape != log_probs_NC.shape[:1]:
        raise ValueError(
            f"log-probabilities [N, C] and labels [N] are needed, "
            f"found {tuple(log_probs_NC.shape)} and {tuple(labels_N.shape)}"
        )
    keep_N = labels_N != UNLABELLED
    labels = labels_N[keep_N].long().cpu()
    if not len(labels):
        raise ValueError("none of the samples has a label, so there is nothing to measure against")
    classes = log_probs_NC.shape[1]
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise ValueError(
            f"labels must lie in [-1, {classes}), found {int(labels.min())} to {int(labels.max())}"
        )
    return log_probs_NC[keep_N].double().cpu(), labels


def confusion(log_probs_NC: Tensor, labels_N: Tensor) -> NDArray[np.int64]:
    """How often each class was taken for each: int64 [C, C], rows true, columns predicted.

    Raises:
        ValueError: shapes differ, a label is no class, or no row is labelled.
    """
    log_probs, labels = labelled(log_probs_NC, labels_N)
    classes = log_probs.shape[1]
    cell = (labels * classes + log_probs.argmax(dim=1)).numpy()
    counts = np.bincount(cell, minlength=classes * classes).astype(np.int64)
    return counts.reshape(classes, classes)


def reliability(
    log_probs_NC: Tensor, labels_N: Tensor, bins: int = BINS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, accuracy and count of equal-width bins of confidence ((k−1)/K, k/K].

    A confidence of exactly 1, which saturated networks have, belongs to the last bin.

    Args:
        log_probs_NC: [N, C] log-probabilities.
        labels_N: integer [N], −1 where unlabelled.
        bins: K.

    Returns:
        confidence [K], accuracy [K] (NaN where a bin is empty), count [K].

    Raises:
        ValueError: shapes differ, a label is no class, or no row is labelled.
    """
    log_probs, labels = labelled(log_probs_NC, labels_N)
    log_confidence, predicted = log_probs.max(dim=1)
    confidence_N = log_confidence.exp().clamp(max=1.0).numpy()
    correct_N = (predicted == labels).numpy()
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_N, minlength=bins).astype(np.int64)
    share = np.where(count, count, np.nan)
    confidence = np.bincount(bin_N, weights=confidence_N, minlength=bins) / share
    accuracy = np.bincount(bin_N, weights=correct_N, minlength=bins) / share
    return confidence, accuracy, count


def calibration_error(log_probs: Tensor, labels: Tensor) -> float:
    """Expected calibration error over 15 equal-width bins (Guo et al. 2017, Eq. 3), in [0, 1]."""
    confidence, accuracy, count = reliability(log_probs, labels)
    gap = np.nan_to_num(np.abs(accuracy - confidence))
    return float((gap * count).sum() / count.sum())
