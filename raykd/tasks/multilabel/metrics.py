"""How good predictions of several yes-or-no labels are.

Shapes: N samples, K labels. Predictions are label logits (log-odds) [N, K], labels [N, K] of 0 and 1;
samples whose label is −1 are left out. A label is predicted where its probability is above ½.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble import fit_temperature
from raykd.ensemble.binary import mean_label_probabilities
from raykd.evaluate.closeness import fidelity
from raykd.evaluate.kept import Decisions, decisions_of
from raykd.evaluate.metrics import calibration_error, macro_scores
from raykd.evaluate.task import TaskMetrics, mean_by, nll_of, one_sample, unchanged
from raykd.losses.binary import two_class
from raykd.types import UNLABELLED, is_labelled

if TYPE_CHECKING:
    from raykd.evaluate.outputs import SplitOutputs


def multilabel_metrics(logits_NK: Tensor, labels_NK: Tensor) -> dict[str, float]:
    """Every number of one model on one split.

    Returns:
        `accuracy`, the share of label decisions that are right (1 − Hamming loss), and
        `accuracy_subset`, the share of samples with all labels right; `precision_macro`,
        `recall_macro`, `f1_macro`, plain means over the labels; `nll`, the mean binary cross-entropy of
        a decision in nats; `ece` over 15 equal-width bins of the confidence of all decisions; `brier`,
        the mean of (p − y)² in [0, 1].

    Raises:
        ValueError: shapes differ, or no sample is labelled.
    """
    logits, labels = _known(logits_NK, labels_NK)
    right = (logits > 0) == labels.bool()
    predicted, truth = logits > 0, labels.bool()
    counts = ((predicted & truth).sum(dim=0), predicted.sum(dim=0), truth.sum(dim=0))
    log_probs = F.log_softmax(two_class(logits).flatten(0, 1), dim=1)
    numbers: dict[str, Tensor | float] = {
        "accuracy": right.double().mean(),
        "accuracy_subset": right.all(dim=1).double().mean(),
        **macro_scores(*counts),
        "nll": F.binary_cross_entropy_with_logits(logits, labels.double()),
        "ece": calibration_error(log_probs, 1 - labels.flatten()),
        "brier": (logits.sigmoid() - labels).square().mean(),
    }
    return {name: float(value) for name, value in numbers.items()}


def right_shares(logits_NK: Tensor, labels_NK: Tensor) -> Tensor:
    """Share of right label decisions of each labelled sample, float64 [M]."""
    logits, labels = _known(logits_NK, labels_NK)
    return ((logits > 0) == labels.bool()).double().mean(dim=1)


def multilabel_tally(logits_NK: Tensor, labels_NK: Tensor) -> Tensor:
    """Sums [3] over the labelled samples, from which `multilabel_total` makes metrics; float64."""
    known_N = is_labelled(labels_NK)
    logits, labels = logits_NK[known_N].double(), labels_NK[known_N]
    right = ((logits > 0) == labels.bool()).double().sum()
    loss = F.binary_cross_entropy_with_logits(logits, labels.double(), reduction="sum")
    return torch.stack([right, loss, torch.tensor(float(labels.numel()), dtype=torch.float64)])


def multilabel_total(sums: Tensor) -> dict[str, float]:
    """`accuracy` and `nll` from the sums over all workers."""
    right, loss, count = sums.tolist()
    return {"accuracy": right / count, "nll": loss / count}


def multilabel_fidelity(
    student_NK: Tensor, ensemble_NK: Tensor, teachers: Mapping[str, Tensor]
) -> dict[str, Any]:
    """As `fidelity`, of label decisions: agreement and KL are means over samples and labels."""
    others = {name: _log_probs(logits_NK.double()) for name, logits_NK in teachers.items()}
    return fidelity(_log_probs(student_NK.double()), _log_probs(ensemble_NK.double()), others)


def label_decisions(split: SplitOutputs) -> Decisions:
    """Every label of every sample as a decision between yes and no, of the group of its label; [N·K, 2]."""
    labels_NK = split.labels_N
    column_NK = torch.arange(labels_NK.shape[1]).expand_as(labels_NK)
    return decisions_of(
        split,
        labels_N=torch.where(labels_NK != UNLABELLED, 1 - labels_NK, UNLABELLED).flatten(),
        groups_N=column_NK.flatten(),
        log_probs=_log_probs,
    )


def _log_probs(logits: Tensor) -> Tensor:
    """Label logits [..., N, K] as log-probabilities of yes and no, [..., N·K, 2]."""
    return F.log_softmax(two_class(logits), dim=-1).flatten(-3, -2)


def multilabel_temperature(logits_NK: Tensor, labels_NK: Tensor) -> float:
    """The temperature that calibrates all label decisions together; see `fit_temperature`."""
    logits, labels = _known(logits_NK, labels_NK)
    return fit_temperature(two_class(logits).flatten(0, 1), 1 - labels.flatten())


def _known(logits_NK: Tensor, labels_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Logits float64 and labels int64 [M, K] of the labelled samples, on the CPU."""
    if logits_NK.ndim != 2 or logits_NK.shape != labels_NK.shape:
        raise ValueError(
            f"logits [N, K] and labels [N, K] are needed, "
            f"found {tuple(logits_NK.shape)} and {tuple(labels_NK.shape)}"
        )
    known_N = is_labelled(labels_NK)
    if not bool(known_N.any()):
        raise ValueError("none of the samples has a label, so there is nothing to measure against")
    return logits_NK[known_N].double().cpu(), labels_NK[known_N].long().cpu()


def _difference(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    otherwise_N = ((one_NK > 0) != (other_NK > 0)).sum(dim=1).float()
    return torch.where(otherwise_N > 0, otherwise_N, -torch.inf)


METRICS = TaskMetrics(
    kind="label_logits",
    metric="accuracy",
    ties="nll",
    lower_is_better=frozenset({"nll", "ece", "brier"}),
    answer=unchanged,
    ensemble=mean_by(mean_label_probabilities),
    numbers=multilabel_metrics,
    tally=multilabel_tally,
    tallied=3,
    total=multilabel_total,
    scores=right_shares,
    from_scores=None,
    comparable=torch.sigmoid,
    fidelity=multilabel_fidelity,
    difference=_difference,
    error=nll_of,
    smallest_gap=one_sample,
    calibrate=multilabel_temperature,
    decisions=label_decisions,
)
