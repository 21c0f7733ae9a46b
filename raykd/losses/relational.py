"""Losses between the relations of samples within a batch.

Shape suffixes: B local batch, A batch of all workers (A = B without `gather`), D features. Each
function gives one value per local row whose mean over all rows of all workers is the published
scalar. With `gather`, rows are local and columns come from all workers; then the value does not
depend on the number of workers. Features of any shape [B, ...] are flattened to [B, D]; widths of
student and teacher may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import Gather, gathered, prepare, product, unit

_PKT_EPS = 1e-7  # the constant of the PKT authors' code, part of its values


def similarity(student: Tensor, teacher: Tensor, *, gather: Gather | None = None) -> Tensor:
    """Similarity-preserving distillation (SP): equal row-normalised Gram matrices.

    loss_i = mean_j (G_ij(student) − G_ij(teacher))², G = rows of F Fᵀ divided by their length, so
    that the mean is ‖ΔG‖² / B². Tung & Mori 2019, Sec. 3; as in the CRD benchmark's code.

    Args:
        student: features [B, ...].
        teacher: features [B, ...]; detached.
        gather: rows of all workers.

    Returns:
        loss_B in [0, 4/A].

    Raises:
        ValueError: different batch sizes.
    """
    return _compared("similarity", student, teacher, gather)


def rkd_distance(student: Tensor, teacher: Tensor, *, gather: Gather | None = None) -> Tensor:
    """Relational distillation of distances (RKD-D).

    loss_i = mean_j h(d_ij/μ − d'_ij/μ'), with Euclidean distances d, μ the mean of those above 0
    in the whole batch, and h the Huber loss (δ = 1). Park et al. 2019, Sec. 3.2; as in the CRD
    benchmark's code, whose mean over B² includes the zero diagonal. Distances are computed from
    differences, so coincident samples have distance exactly 0: they get no gradient and do not
    count in μ (the code counts them as 1e-6).

    Args:
        student: features [B, ...].
        teacher: features [B, ...]; detached.
        gather: rows of all workers.

    Returns:
        loss_B in [0, ∞), without unit.

    Raises:
        ValueError: different batch sizes.
    """
    return _compared("rkd_distance", student, teacher, gather)


def rkd_angle(student: Tensor, teacher: Tensor, *, gather: Gather | None = None) -> Tensor:
    """Relational distillation of angles (RKD-A).

    loss_i = mean_jk h(cos ∠(j, i, k) − cos' ∠(j, i, k)): the angle at vertex i, h the Huber loss
    (δ = 1). Park et al. 2019, Sec. 3.2; as in the CRD benchmark's code. A direction between
    coincident samples is 0 and gets no gradient. Memory grows with B·A·D + B·A².

    Args:
        student: features [B, ...].
        teacher: features [B, ...]; detached.
        gather: rows of all workers.

    Returns:
        loss_B in [0, 1.5], without unit.

    Raises:
        ValueError: different batch sizes.
    """
    return _compared("rkd_angle", student, teacher, gather)


def pkt(student: Tensor, teacher: Tensor, *, gather: Gather | None = None) -> Tensor:
    """Probabilistic knowledge transfer: equal distributions over neighbours.

    loss_i = mean_j P_ij log((P_ij + ε)/(Q_ij + ε)), with P, Q = rows of (1 + cos)/2 divided by
    their sum (teacher, student) and ε = 1e-7. Passalis & Tefas 2018; the CRD benchmark's code,
    which takes the mean over B² where the paper sums, hence the weight of 30000.

    Args:
        student: features [B, ...].
        teacher: features [B, ...]; detached.
        gather: rows of all workers.

    Returns:
        loss_B ≥ 0 up to ε, in nats divided by A.

    Raises:
        ValueError: different batch sizes.
    """
    return _compared("pkt", student, teacher, gather)


def _compared(name: str, student: Tensor, teacher: Tensor, gather: Gather | None) -> Tensor:
    student_BD, teacher_BD = _rows(student, teacher)
    relation = RELATIONS[name]
    return relation.distance(relation.of(student_BD, gather), relation.of(teacher_BD, gather))


def _rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher):
        raise ValueError(f"student has {len(student)} rows and teacher {len(teacher)}")
    student_BD, teacher_BD = prepare(student, teacher)
    return student_BD.flatten(1), teacher_BD.flatten(1)


def _similarities(features_BD: Tensor, gather: Gather | None) -> Tensor:
    """Rows of the Gram matrix divided by their length."""
    return unit(product(features_BD, gathered(features_BD, gather).T), dim=1)


def _relative_distances(features_BD: Tensor, gather: Gather | None) -> Tensor:
    """Distances over the mean positive distance of the whole batch; 0 where all coincide."""
    features_AD = gathered(features_BD, gather)
    exact = "donot_use_mm_for_euclid_dist"  # from differences: float32 Gram matrices lose the zeros
    distance_BA = torch.cdist(features_BD, features_AD, compute_mode=exact)
    count_B = (distance_BA > 0).sum(1).to(distance_BA.dtype)
    total_2 = gathered(torch.stack((distance_BA.sum(1), count_B), 1), gather).sum(0)
    scale: Tensor = total_2[1] / torch.where(total_2[1] > 0, total_2[0], 1.0)
    return distance_BA * scale


def _angles(features_BD: Tensor, gather: Gather | None) -> Tensor:
    """Cosine at vertex i between the directions to j and to k, [B, A, A]."""
    offset_BAD = gathered(features_BD, gather).unsqueeze(0) - features_BD.unsqueeze(1)
    direction_BAD = unit(offset_BAD, dim=2)
    return product(direction_BAD, direction_BAD.transpose(1, 2))


def _neighbours(features_BD: Tensor, gather: Gather | None) -> Tensor:
    """Each row's distribution over the samples of the batch, (1 + cos)/2 normalised."""
    energy_B1 = features_BD.square().sum(1, keepdim=True)
    nonzero_B1 = energy_B1 > 0
    length_B1 = torch.where(nonzero_B1, energy_B1, 1.0).sqrt()
    shrunk_BD = features_BD / (length_B1 + _PKT_EPS)
    affinity_BA = (product(shrunk_BD, gathered(shrunk_BD, gather).T) + 1) / 2
    return affinity_BA / affinity_BA.sum(1, keepdim=True)


def _square(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().flatten(1).mean(1)


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(student, teacher, reduction="none").flatten(1).mean(1)


def _divergence(q_BA: Tensor, p_BA: Tensor) -> Tensor:
    return (p_BA * ((p_BA + _PKT_EPS).log() - (q_BA + _PKT_EPS).log())).mean(1)


@dataclass(frozen=True)
class Relation:
    """What a loss compares, and how.

    Attributes:
        of: features [B, D] and the gather -> how each row stands to the samples of the batch, [B, A] or [B, A, A].
        distance: of the student and of the teacher -> loss_B.
    """

    of: Callable[[Tensor, Gather | None], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]


RELATIONS = {
    "similarity": Relation(_similarities, _square),
    "rkd_distance": Relation(_relative_distances, _huber),
    "rkd_angle": Relation(_angles, _huber),
    "pkt": Relation(_neighbours, _divergence),
}


def mean_of_relations(
    name: str,
    student: Tensor,
    teachers: Sequence[Tensor],
    weights_TB: Tensor,
    *,
    gather: Gather | None = None,
) -> Tensor:
    """A relational loss whose target is Σ_k w_k of the teachers' relations; of one teacher its own loss.

    For `similarity` it has the gradient of the weighted sum of the teachers' losses, which is a square of the
    same matrices; for `pkt` too, up to ε.

    Args:
        name: `similarity`, `rkd_distance`, `rkd_angle` or `pkt`.
        student: features [B, ...].
        teachers: features [B, ...] of each, of any widths; detached.
        weights_TB: how much each teacher counts for each row, summing to 1 over teachers.
        gather: rows of all workers.

    Returns:
        loss_B, in the range of that loss.

    Raises:
        ValueError: different batch sizes, or no teacher.
    """
    if not teachers or any(len(teacher) != len(student) for teacher in teachers):
        sizes = [len(teacher) for teacher in teachers]
        raise ValueError(f"student has {len(student)} rows and the teachers {sizes}")
    relation = RELATIONS[name]
    pairs = [prepare(student, teacher) for teacher in teachers]
    found = [relation.of(teacher.flatten(1), gather) for _, teacher in pairs]
    target = sum(
        (one * weight_B.to(one.dtype).view(-1, *[1] * (one.ndim - 1)))
        for one, weight_B in zip(found, weights_TB, strict=True)
    )
    assert isinstance(target, Tensor), "there is a teacher"
    return relation.distance(relation.of(pairs[0][0].flatten(1), gather), target)
