"""From which teacher a student has what it learns of the ensemble: shares of the pull, and who decides.

Shapes: R replicas, T teachers, N samples (or decisions), C outputs. Probabilities are at temperature 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raykd.ensemble import mean_of_known, unknown
from raykd.evaluate.kept import Decisions
from raykd.types import UNLABELLED

Floats = NDArray[np.float64]
_NO_PULL = 1e-12
"""Squared length of a pull below which it has no direction."""


@dataclass(frozen=True, eq=False)
class Pull:
    """What draws a student to its ensemble on each sample, taken apart by teacher; the parts add up to the whole.

    Attributes:
        parts_TN: w_k ⟨q − p_k, q − p̄⟩ of each teacher; negative where it draws the other way.
        size_N: ‖q − p̄‖², their sum.
    """

    parts_TN: Floats
    size_N: Floats

    @property
    def without(self) -> int:
        """Samples on which nothing draws, so that there is nothing to take apart."""
        return int((self.size_N <= _NO_PULL).sum())

    def shares(self, keep_N: NDArray[np.bool_] | None = None) -> Floats:
        """Each teacher's share [T] of the pull on some samples: they sum to 1.

        The share of a sample, w_k ⟨q − p_k, q − p̄⟩ / ‖q − p̄‖², is weighed by ‖q − p̄‖²: otherwise the samples on
        which there is almost nothing to learn, and on which shares have no bounds, would decide. NaN where nothing
        draws.
        """
        keep_N = np.ones(len(self.size_N), bool) if keep_N is None else keep_N
        keep_N = keep_N & (self.size_N > _NO_PULL)
        total = float(self.size_N[keep_N].sum())
        shares: Floats = self.parts_TN[:, keep_N].sum(axis=1) / (total or np.nan)
        return shares


def pull(
    start_RNC: Tensor,
    teachers: Mapping[str, Tensor],
    weights_T: Floats,
    known_TC: Tensor | None = None,
) -> Pull:
    """The pull of an ensemble p̄ = Σ_k w_k p_k on a student that says q: q − p̄ = Σ_k w_k (q − p_k), exactly.

    It is the gradient, by the student's logits, of the cross-entropy with p̄ (and of half the squared distance, by
    its values).

    Args:
        start_RNC: q, what students say that have not learnt from the ensemble; means are over R.
        teachers: name -> p_k [N, C].
        weights_T: w_k, at least 0, in that order; normalised here.
        known_TC: the classes that each teacher knows. One that knows only S is held against q renormalised over S, as
            in training; None = all know all.
    """
    weights_T = weights_T / weights_T.sum()
    parts_TN = np.zeros((len(teachers), start_RNC.shape[1]))
    size_N = np.zeros(start_RNC.shape[1])
    for said_NC in start_RNC:
        start_NC, pulls = said_NC.double(), []
        for k, p_NC in enumerate(teachers.values()):
            q_NC = start_NC
            if known_TC is not None and not bool(known_TC[k].all()):
                q_NC = torch.where(known_TC[k], start_NC, 0.0)
                q_NC = q_NC / q_NC.sum(dim=1, keepdim=True).clamp(min=torch.finfo(q_NC.dtype).tiny)
            pulls.append(float(weights_T[k]) * (q_NC - p_NC.double()))
        whole_NC = torch.stack(pulls).sum(dim=0)
        parts_TN += np.stack([(one_NC * whole_NC).sum(dim=1).numpy() for one_NC in pulls])
        size_N += whole_NC.square().sum(dim=1).numpy()
    replicas = len(start_RNC)
    return Pull(parts_TN / replicas, size_N / replicas)


def pull_of(decisions: Decisions, weights_T: Floats) -> Pull:
    """The pull on students of labels alone; without these on one to which all alternatives are alike."""
    start_RNC = decisions.baseline_RNC
    if start_RNC is None:
        start_RNC = torch.zeros_like(decisions.ensemble_NC)[None].log_softmax(dim=-1)
    teachers = {name: log_probs.exp() for name, log_probs in decisions.teachers.items()}
    return pull(start_RNC.exp(), teachers, weights_T, _known(decisions))


def _known(decisions: Decisions) -> Tensor:
    return ~torch.stack([unknown(log_probs_NC) for log_probs_NC in decisions.teachers.values()])


@dataclass(frozen=True)
class Pivotal:
    """The decisions that one teacher turns: without it the ensemble, with its weights renormalised, says otherwise.

    Attributes:
        samples: how many.
        right: to the right answer, from a wrong one.
        wrong: to a wrong answer, from the right one.
        followed: on how many the student says what the ensemble says with the teacher, mean over replicas.
    """

    samples: int
    right: int
    wrong: int
    followed: float


def pivotal(decisions: Decisions, weights_T: Floats) -> dict[str, Pivotal | None]:
    """Teacher -> the decisions that it turns; None where nobody is left without it.

    Args:
        decisions: what everyone says.
        weights_T: each teacher's weight in the ensemble, at least 0.
    """
    log_probs_TNC = torch.stack([one_NC.double() for one_NC in decisions.teachers.values()])
    known_TC, labels_N = _known(decisions), decisions.labels_N
    students_RN = decisions.student_RNC.argmax(dim=-1)

    def says(weight_T: Floats) -> Tensor:
        weights_TN = torch.from_numpy(weight_T / weight_T.sum())[:, None].expand(
            log_probs_TNC.shape[:2]
        )
        return mean_of_known(log_probs_TNC, weights_TN, known_TC).argmax(dim=1)

    with_N = says(weights_T)
    found: dict[str, Pivotal | None] = {}
    for k, name in enumerate(decisions.teachers):
        others_T = np.where(np.arange(len(weights_T)) == k, 0.0, weights_T)
        if not others_T.sum() > 0:
            found[name] = None
            continue
        without_N = says(others_T)
        turned_N = with_N != without_N
        known_N = turned_N & (labels_N != UNLABELLED)
        found[name] = Pivotal(
            samples=int(turned_N.sum()),
            right=int((known_N & (with_N == labels_N)).sum()),
            wrong=int((known_N & (without_N == labels_N)).sum()),
            followed=float((students_RN == with_N)[:, turned_N].double().sum(dim=1).mean()),
        )
    return found
