"""Losses between features of one sample: hints, attention, selectivity, flow, information, tokens.

Shape suffixes: B batch, C channels of a map, H heads, L length, D features, P positions (H·W or L).
Features are maps [B, C, H, W], tokens [B, L, D] or vectors [B, D]. Where a loss says so, maps of
different size are pooled (adaptive average) to the smaller height and width, as the CRD benchmark's
code does. Width (C or D) is never adapted here: project the student first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import prepare, prepare_equal, product, unit

_VID_EPS = 1e-5  # floor of the variance in the VID authors' code
_MASKED_SCORE = -1e2  # attention scores up to here mark padding (TinyBERT's code)

Pair = tuple[Tensor, Tensor]


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNets hint: mean squared difference of projected student features and teacher features.

    loss_b = mean (r(F_s) − F_t)². Romero et al. 2015, Sec. 2.2 (up to their factor ½); the CRD
    benchmark trains the regressor r jointly with the student instead of in a first stage.

    Args:
        student: projected features, any shape [B, ...].
        teacher: the same shape; detached.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ.
    """
    student_B, teacher_B = prepare_equal(student, teacher)
    return (student_B - teacher_B).square().flatten(1).mean(1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer (AT): equal maps of where activations are large.

    loss_b = mean_p (A_s − A_t)², A = the vector over positions of mean_c F², divided by its length.
    Zagoruyko & Komodakis 2017, Sec. 3.1. The paper sums unsquared norms; we follow the CRD
    benchmark's code (mean of squares, weight 1000). Maps are pooled to the smaller size. A map that
    is zero everywhere stays zero and gets no gradient.

    Args:
        student: maps [B, C, H, W] or tokens [B, L, D]; the width is free.
        teacher: as the student; detached.

    Returns:
        loss_B in [0, 2/P].

    Raises:
        ValueError: not maps or tokens, or tokens of different length.
    """
    student_BCP, teacher_BCP = positioned(*pooled(*prepare(student, teacher)))
    student_BP = unit(student_BCP.square().mean(1), dim=1)
    teacher_BP = unit(teacher_BCP.square().mean(1), dim=1)
    return (student_BP - teacher_BP).square().mean(1)


def attention_matrix(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the attention matrices of transformers.

    loss_b = mean over heads, queries and keys of (A_s − A_t)². Jiao et al. 2020 (TinyBERT). The
    paper prefers scores before the softmax; probabilities work too. As in the authors' code, scores
    up to −100 (padding) count as 0. With different numbers of heads both are averaged over heads
    first.

    Args:
        student: [B, H, L, L], scores or probabilities.
        teacher: [B, H', L, L], the same kind; detached.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: not four-dimensional, or batch or lengths differ.
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f"attention must be [B, H, L, L], found {student.ndim} dimensions")
    student_BHLL, teacher_BHLL = (
        torch.where(scores > _MASKED_SCORE, scores, 0.0) for scores in prepare(student, teacher)
    )
    if student_BHLL.shape[1] != teacher_BHLL.shape[1]:
        return hint(student_BHLL.mean(1), teacher_BHLL.mean(1))
    return hint(student_BHLL, teacher_BHLL)


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Neuron selectivity transfer: squared MMD between the channel maps, with kernel ⟨a, b⟩².

    loss_b = mean k(t, t) + mean k(s, s) − 2 mean k(s, t) over pairs of channels, each channel's map
    divided by its length. Huang & Wang 2017, Sec. 4; as in the CRD benchmark's code with
    `full_loss`. Maps are pooled to the smaller size. Memory grows with B·C².

    Args:
        student: maps [B, C, H, W] or tokens [B, L, D]; the width is free.
        teacher: as the student; detached.

    Returns:
        loss_B in [0, 2], up to rounding.

    Raises:
        ValueError: not maps or tokens, or tokens of different length.
    """
    student_BCP, teacher_BCP = positioned(*pooled(*prepare(student, teacher)))
    student_BCP, teacher_BCP = unit(student_BCP, dim=2), unit(teacher_BCP, dim=2)

    def kernel_mean(left_BCP: Tensor, right_BCP: Tensor) -> Tensor:
        return product(left_BCP, right_BCP.transpose(1, 2)).square().mean((1, 2))

    own_B = kernel_mean(teacher_BCP, teacher_BCP) + kernel_mean(student_BCP, student_BCP)
    return own_B - 2 * kernel_mean(student_BCP, teacher_BCP)


def fsp(student: Pair, teacher: Pair) -> Tensor:
    """Flow of solution procedure: equal products between the features of two layers.

    loss_b = mean (G_s − G_t)², G = (1/P) Σ_p F1_p F2_pᵀ of the two layers of one network. Yim et
    al. 2017; mean of squares as in the CRD benchmark's code. Within a network the larger map is
    pooled to the smaller; student and teacher must have the same channel counts.

    Args:
        student: two features, each [B, C, H, W] or [B, L, D].
        teacher: two features of the same widths; detached.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: the widths of student and teacher differ, or lengths within a network.
    """
    first, second = prepare(student[0], teacher[0]), prepare(student[1], teacher[1])
    return hint(_flow(first[0], second[0]), _flow(first[1], second[1]))


def vid(
    student: Tensor,
    teacher: Tensor,
    *,
    raw_variance: Tensor | None = None,
    log_variance: Tensor | None = None,
) -> Tensor:
    """Variational information distillation: Gaussian log likelihood with learned channel variance.

    loss_b = mean ½ [(μ(F_s) − F_t)²/σ_c² + log σ_c²], in nats up to a constant. Ahn et al. 2019,
    Sec. 2. The authors' code uses σ² = softplus(raw) + 1e-5, starting at σ² = 5; `log_variance` is
    the alternative σ² = exp. The loss can be negative and is lowest, at student = teacher, where σ²
    is smallest. The variances are parameters of the caller and receive a gradient.

    Args:
        student: projected mean μ(F_s): [B, C, H, W], [B, L, D] or [B, D].
        teacher: the same shape; detached.
        raw_variance: [C] or [D], before softplus; give this or `log_variance`.
        log_variance: [C] or [D].

    Returns:
        loss_B in (−∞, ∞) nats.

    Raises:
        ValueError: shapes differ; not exactly one variance, or of another width.
    """
    if (raw_variance is None) == (log_variance is None):
        raise ValueError("vid needs exactly one of raw_variance and log_variance")
    student_BDP, teacher_BDP = (channels_first(x) for x in prepare_equal(student, teacher))
    if log_variance is None:
        assert raw_variance is not None, "one of the two was given"
        log_D = (F.softplus(raw_variance) + _VID_EPS).log()
    else:
        log_D = log_variance
    log_D1 = _per_channel(log_D, student_BDP)
    squared_BDP = (student_BDP - teacher_BDP).square()
    return 0.5 * (squared_BDP * (-log_D1).exp() + log_D1).mean((1, 2))


def cosine(
    student: Tensor,
    teacher: Tensor,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    flatten: bool = False,
) -> Tensor:
    """One minus cosine similarity, of each token or position, averaged over them.

    loss_b = mean_p (1 − cos(s_p, t_p)). Used by Ranzinger et al. 2024 (AM-RADIO) and Sariyildiz et
    al. 2024 (UNIC) per token; Theia's code takes one cosine of the flattened map (`flatten`). A
    zero vector has cosine 0 and gets no gradient.

    Args:
        student: [B, D], [B, L, D] or [B, C, H, W].
        teacher: the same shape; detached.
        mean: per-channel mean of the teacher, subtracted from it.
        std: per-channel deviation of the teacher, above 0; it is divided by it.
        flatten: one cosine over the whole feature of a sample.

    Returns:
        loss_B in [0, 2].

    Raises:
        ValueError: shapes differ, or the width of mean or std.
    """
    student_BDP, teacher_BDP = _standardised_pair(student, teacher, mean, std)
    if flatten:
        student_BDP, teacher_BDP = (x.reshape(len(x), -1, 1) for x in (student_BDP, teacher_BDP))
    similarity_BP = (unit(student_BDP, dim=1) * unit(teacher_BDP, dim=1)).sum(1)
    return (1 - similarity_BP).mean(1)


def smooth_l1(
    student: Tensor,
    teacher: Tensor,
    *,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    beta: float = 1.0,
) -> Tensor:
    """Smooth L1 distance to the (standardised) teacher features.

    loss_b = mean h(s − t), h(a) = a²/(2β) for |a| < β, else |a| − β/2. Sariyildiz et al. 2024
    (UNIC) with β = 1 on per-channel standardised teachers.

    Args:
        student: [B, D], [B, L, D] or [B, C, H, W].
        teacher: the same shape; detached.
        mean: per-channel mean of the teacher, subtracted from it.
        std: per-channel deviation of the teacher, above 0; it is divided by it.
        beta: β > 0.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ, or the width of mean or std; β not above 0.
    """
    if beta <= 0:
        raise ValueError(f"beta must be above 0, found {beta}")
    student_BDP, teacher_BDP = _standardised_pair(student, teacher, mean, std)
    return F.smooth_l1_loss(student_BDP, teacher_BDP, reduction="none", beta=beta).mean((1, 2))


def cosine_smooth_l1(
    student: Tensor, teacher: Tensor, *, share: float = 0.5, beta: float = 1.0
) -> Tensor:
    """A cosine and a smooth L1 distance of each token or position, added with shares.

    loss_b = a·`cosine` + (1 − a)·`smooth_l1`: the direction of a feature, and its length as well. Ranzinger et al. 2024
    (AM-RADIO) with a = 0.9, Sariyildiz et al. 2024 (UNIC) with a = 0.5. The teacher's feature is taken as it is: bring it to
    a scale that is fitted once (`target` of a term), not to one of the batch.

    Args:
        student: [B, D], [B, L, D] or [B, C, H, W].
        teacher: the same shape; detached.
        share: a, in [0, 1].
        beta: β > 0.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: shapes differ; a share outside [0, 1]; β not above 0.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be within [0, 1], found {share}")
    direction_B = cosine(student, teacher)
    return share * direction_B + (1 - share) * smooth_l1(student, teacher, beta=beta)


def channels_first(features: Tensor) -> Tensor:
    """Features as [B, D, P]; a vector has one position."""
    if features.ndim == 2:
        return features.unsqueeze(2)
    if features.ndim == 3:
        return features.transpose(1, 2)
    if features.ndim == 4:
        return features.flatten(2)
    raise ValueError(
        f"features must be [B, D], [B, L, D] or [B, C, H, W], found {tuple(features.shape)}"
    )


def positioned(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [B, C, P] with the same positions, of which there must be a dimension."""
    if student.ndim not in (3, 4) or student.ndim != teacher.ndim:
        raise ValueError(
            f"features must both be [B, C, H, W] or both [B, L, D], found {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}"
        )
    student_BCP, teacher_BCP = channels_first(student), channels_first(teacher)
    if (student_BCP.shape[0], student_BCP.shape[2]) != (teacher_BCP.shape[0], teacher_BCP.shape[2]):
        raise ValueError(
            f"batch and length must be equal, found {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    return student_BCP, teacher_BCP


def pooled(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Maps average-pooled to the smaller height and width of the two; others unchanged."""
    if left.ndim != 4 or right.ndim != 4 or left.shape[2:] == right.shape[2:]:
        return left, right
    height, width = (min(left.shape[i], right.shape[i]) for i in (2, 3))
    return (
        F.adaptive_avg_pool2d(left, (height, width)),
        F.adaptive_avg_pool2d(right, (height, width)),
    )


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """The FSP matrix of two layers, [B, C1, C2]."""
    first_BCP, second_BCP = positioned(*pooled(first, second))
    return product(first_BCP, second_BCP.transpose(1, 2)) / first_BCP.shape[2]


def _per_channel(values_D: Tensor, features_BDP: Tensor) -> Tensor:
    if values_D.shape != features_BDP.shape[1:2]:
        raise ValueError(
            f"per-channel values must be [{features_BDP.shape[1]}], found {tuple(values_D.shape)}"
        )
    return values_D.unsqueeze(1)


def _standardised_pair(
    student: Tensor, teacher: Tensor, mean: Tensor | None, std: Tensor | None
) -> tuple[Tensor, Tensor]:
    student_BDP, teacher_BDP = (channels_first(x) for x in prepare_equal(student, teacher))
    if mean is not None:
        teacher_BDP = teacher_BDP - _per_channel(mean.detach(), teacher_BDP)
    if std is not None:
        teacher_BDP = teacher_BDP / _per_channel(std.detach(), teacher_BDP)
    return student_BDP, teacher_BDP
