"""What a student keeps of its ensemble and loses, part by part; how unsure it is, and how sure of what.

Shapes: R replicas, N decisions, C alternatives, G groups of decisions (classes, labels). A decision is between
alternatives: of a sample between the classes, or of one of its labels between yes and no.

Counts over replicas are means: a sample counts once, however many students answered it, so that an interval says
how much other test samples would change a share, and is not narrower for there being more replicas of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.evaluate.statistics import fisher, holm, ranks, spread, wilson
from raykd.types import UNLABELLED

if TYPE_CHECKING:
    from raykd.evaluate.outputs import SplitOutputs

Floats = NDArray[np.float64]
LEAST = 20
"""Decisions below which a group is neither listed nor tested."""
MEASURES = ("retention", "negative_flips", "positive_flips")


@dataclass(frozen=True, kw_only=True, eq=False)
class Decisions:
    """What the models of a run say of each decision on one split, as log-probabilities in nats at temperature 1.

    Attributes:
        labels_N: int64 [N], the right alternative, −1 where unknown.
        groups_N: int64 [N], the group that a decision counts for; −1 where it is of none.
        student_RNC: of the student's replicas.
        baseline_RNC: of the control that learns from labels alone; None without it.
        ensemble_NC: of the teachers' plain mean.
        teachers: name -> [N, C].
    """

    labels_N: Tensor
    groups_N: Tensor
    student_RNC: Tensor
    baseline_RNC: Tensor | None
    ensemble_NC: Tensor
    teachers: Mapping[str, Tensor]


def decisions_of(
    split: SplitOutputs,
    *,
    labels_N: Tensor,
    groups_N: Tensor,
    log_probs: Callable[[Tensor], Tensor] = lambda answers: answers,
    baseline: str = "labels",
) -> Decisions:
    """The decisions of a split.

    Args:
        split: answers of all models.
        labels_N: as of `Decisions`.
        groups_N: as of `Decisions`.
        log_probs: answers [..., samples, outputs] -> log-probabilities [..., N, C].
        baseline: the role that learns from labels alone.
    """
    other = split.students.get(baseline)
    return Decisions(
        labels_N=labels_N,
        groups_N=groups_N,
        student_RNC=log_probs(split.students["student"]),
        baseline_RNC=None if other is None else log_probs(other),
        ensemble_NC=log_probs(split.ensemble),
        teachers={name: log_probs(answers) for name, answers in split.teachers.items()},
    )


@dataclass(frozen=True, eq=False)
class Shares:
    """In each group, how many of some decisions something holds of; means over replicas.

    Attributes:
        hits_G: of how many.
        of_G: how many there are.
    """

    hits_G: Floats
    of_G: Floats

    @property
    def share(self) -> Floats:
        """[G], NaN where there are none."""
        found: Floats = self.hits_G / np.where(self.of_G > 0, self.of_G, np.nan)
        return found

    @property
    def interval(self) -> Floats:
        """95 % Wilson intervals [G, 2]."""
        return wilson(self.hits_G, self.of_G)

    @property
    def whole(self) -> Shares:
        """All groups as one."""
        return Shares(self.hits_G.sum(keepdims=True), self.of_G.sum(keepdims=True))

    @property
    def others(self) -> Shares:
        """Of how many it does not hold."""
        return Shares(self.of_G - self.hits_G, self.of_G)


def kept_shares(decisions: Decisions, groups: int) -> dict[str, Shares]:
    """How often the student is right or wrong where another was, over the labelled decisions of each group.

    Returns:
        `retention`: P(student right | ensemble right); `negative_flips`: P(student wrong | labels alone right), and
        `positive_flips`: P(student right | labels alone wrong), replica by replica (Yan et al. 2021, "Positive-
        Congruent Training", Eq. 1, there of all samples); without that control these two are not there.
    """
    known_N = (decisions.labels_N != UNLABELLED) & (decisions.groups_N >= 0)
    labels_M, groups_M = decisions.labels_N[known_N], decisions.groups_N[known_N].numpy()

    def right(log_probs: Tensor) -> NDArray[np.bool_]:
        return (log_probs[..., known_N, :].argmax(dim=-1) == labels_M).numpy()

    def where(hit_RM: NDArray[np.bool_], given_RM: NDArray[np.bool_]) -> Shares:
        given_RM = np.broadcast_to(given_RM, hit_RM.shape)
        return Shares(*(_counts(m, groups_M, groups) for m in (hit_RM & given_RM, given_RM)))

    own_RM = right(decisions.student_RNC)
    found = {"retention": where(own_RM, right(decisions.ensemble_NC)[None])}
    if decisions.baseline_RNC is not None:
        base_RM = right(decisions.baseline_RNC)
        found["negative_flips"] = where(~own_RM, base_RM)
        found["positive_flips"] = where(own_RM, ~base_RM)
    return found


def _counts(mask_RM: NDArray[np.bool_], groups_M: NDArray[np.int64], groups: int) -> Floats:
    """How many of each group, mean over replicas."""
    counted = [np.bincount(groups_M[mask_M], minlength=groups) for mask_M in mask_RM]
    mean: Floats = np.mean(counted, axis=0, dtype=np.float64)
    return mean


def more_than_elsewhere(parts: Shares, whole: Shares) -> Floats:
    """p-values [G] that something holds more often in a part than in all else: Fisher's exact test, Holm-corrected.

    Only parts of at least 20 are tested, and corrected for; NaN for the others, and for a part that is all there is.
    Means of counts are rounded so that the test is not too bold: hits of the part down, hits elsewhere up.
    """
    hits_G, of_G = np.floor(parts.hits_G), np.round(parts.of_G)
    elsewhere_G = np.round(whole.of_G[0] - parts.of_G)
    rest_G = np.minimum(np.ceil(whole.hits_G[0] - parts.hits_G - 1e-9), elsewhere_G)
    tested = np.flatnonzero((parts.of_G >= LEAST) & (elsewhere_G > 0))
    found: Floats = np.full(len(of_G), np.nan)
    raw = [
        fisher(hits_G[g], of_G[g], hits_G[g] + rest_G[g], of_G[g] + elsewhere_G[g]) for g in tested
    ]
    found[tested] = holm(raw)
    return found


def kept_numbers(decisions: Decisions) -> dict[str, Any]:
    """The same over all labelled decisions, as numbers of a summary.

    Returns:
        `retention`, `negative_flips`, `positive_flips`, each with its `share`, `low95`, `high95`, and `n`, how many
        decisions it is a share of; only n where that is 0, as without the control or without labels.
    """
    as_one = replace(decisions, groups_N=torch.zeros_like(decisions.groups_N))
    shares, none = kept_shares(as_one, 1), Shares(np.zeros(1), np.zeros(1))
    return {measure: _numbers(shares.get(measure, none)) for measure in MEASURES}


def _numbers(shares: Shares) -> dict[str, float | None]:
    if not shares.of_G[0] > 0:
        return {"share": None, "low95": None, "high95": None, "n": 0.0}
    low, high = shares.interval[0].tolist()
    return {
        "share": float(shares.share[0]),
        "low95": low,
        "high95": high,
        "n": float(shares.of_G[0]),
    }


def entropy_kept(decisions: Decisions) -> dict[str, Any]:
    """How unsure the student is where its ensemble is.

    Returns:
        Mean entropies in nats of the `student` (over replicas) and of the `ensemble`; `correlation` of the two over
        decisions (Pearson) and `rank_correlation` (Spearman), over replicas.
    """
    whole_N = _entropy(decisions.ensemble_NC)
    own = [_entropy(one_NC) for one_NC in decisions.student_RNC]
    ranks_N = ranks(whole_N)
    return {
        "student": spread([float(one_N.mean()) for one_N in own]),
        "ensemble": float(whole_N.mean()),
        "correlation": spread([correlation(one_N, whole_N) for one_N in own]),
        "rank_correlation": spread([correlation(ranks(one_N), ranks_N) for one_N in own]),
    }


def _entropy(log_probs_NC: Tensor) -> Floats:
    probs_NC = log_probs_NC.double().exp()
    entropy_N: Floats = -torch.xlogy(probs_NC, probs_NC).sum(dim=1).numpy()
    return entropy_N


def correlation(one_N: Floats, other_N: Floats) -> float | None:
    """Pearson's; None where one of them is constant."""
    one, other = one_N - one_N.mean(), other_N - other_N.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    constant = np.ptp(one_N) == 0 or np.ptp(other_N) == 0
    return None if constant or size == 0 else float(one @ other) / size


def overconfidence(log_probs_RNC: Tensor, decisions: Decisions, groups: int) -> Floats:
    """Mean confidence minus accuracy of each group [G], mean over replicas; NaN where nothing of it is labelled.

    Signed, and not an ECE: binned errors of some ten samples are far from 0 for a calibrated model, too.
    """
    known_N = (decisions.labels_N != UNLABELLED) & (decisions.groups_N >= 0)
    labels_M, groups_M = decisions.labels_N[known_N], decisions.groups_N[known_N].numpy()
    sure_RM, top_RM = log_probs_RNC[:, known_N].double().max(dim=-1)
    gap_M = (sure_RM.exp() - (top_RM == labels_M).double()).mean(dim=0).numpy()
    count_G = np.bincount(groups_M, minlength=groups)
    found: Floats = np.bincount(groups_M, weights=gap_M, minlength=groups) / np.where(
        count_G > 0, count_G, np.nan
    )
    return found
