"""Losses between a student and a teacher of whom a few classes are known, and what all others amount to.

The classes that the teacher kept are buckets of their own, and all others together are one more, of both sides:
every divergence is the one of `raykd.losses.logits`, over these K + 1 buckets. It is never negative, 0 where both
sides agree on the buckets, at most the divergence over all classes (data processing), and equal to it at K = V.
Without a tail, classes that are not kept have probability 0 in the teacher, and that of the student is still its
own over all classes.

Shape suffixes: N units, V classes, K classes kept, S buckets: K, and one more for the others where there is one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses import buckets
from raykd.losses.common import at_least_float32, scaled
from raykd.top_k import tempered
from raykd.types import Sampled, Sparse, TopK

Few = TopK | Sparse
"""An answer, which is tempered here; or a distribution that is at the given temperature already, as a mixture is."""


def kl(student: Tensor, teacher: Few, *, temperature: float = 1.0) -> Tensor:
    """Forward KL over the classes that the teacher kept and a bucket of the others.

    loss_n = T² [Σ_{v∈K} p_v log(p_v/q_v) + p_rest log(p_rest/q_rest)], p and q at temperature T over all classes.
    The gradient on the logits is T (q_v − p_v) on the classes kept and T q_v (1 − p_rest/q_rest) on the others.

    Args:
        student: logits [N, V].
        teacher: what is known of the teacher.
        temperature: T > 0, at which the teacher's tail must be known.

    Returns:
        loss_N in [0, ∞) nats, at least float32.

    Raises:
        ValueError: shapes that do not match.
        TargetError: the teacher's tail is not known at this temperature.
    """
    return _between(buckets.kl, student, teacher, temperature)


def reverse_kl(student: Tensor, teacher: Few, *, temperature: float = 1.0) -> Tensor:
    """Reverse KL over the same buckets: loss_n = T² Σ_b q_b log(q_b/p_b); see `kl`.

    Raises:
        ValueError: as `kl`; or the teacher has no tail: it is infinite wherever the student gives anything to the
            other classes, and a sum over the classes kept alone is least where the student leaves all of them.
        TargetError: as `kl`.
    """
    return _between(buckets.reverse_kl, student, teacher, temperature, needs_tail=True)


def js(student: Tensor, teacher: Few, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Generalised Jensen-Shannon divergence over the same buckets, see `raykd.losses.logits.js`.

    Args:
        student: logits [N, V].
        teacher: what is known of the teacher.
        beta: weight of the teacher in the mixture, 0 < β < 1.
        temperature: T > 0, see `kl`.

    Raises:
        ValueError: β outside (0, 1); otherwise as `kl`.
        TargetError: as `kl`.
    """
    return _between(buckets.js(beta), student, teacher, temperature)


def skew_kl(
    student: Tensor, teacher: Few, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """Skewed forward KL over the same buckets, see `raykd.losses.logits.skew_kl`.

    Args:
        student: logits [N, V].
        teacher: what is known of the teacher.
        alpha: share of the teacher, 0 ≤ α < 1; 0 is `kl`.
        temperature: T > 0, see `kl`.

    Raises:
        ValueError: α outside [0, 1); otherwise as `kl`.
        TargetError: as `kl`.
    """
    return _between(buckets.skew_kl(alpha), student, teacher, temperature)


def cross_entropy(student: Tensor, teacher: Sampled) -> Tensor:
    """Cross entropy with drawn classes: forward KL up to the teacher's entropy, its gradient without bias.

    loss_n = −T² Σ_v t_v log q_v with the estimates t of `Sampled`, at the temperature that was drawn at.
    Anshumann et al. 2025 (Sparse Logit Sampling).

    Args:
        student: logits [N, V].
        teacher: the draws.

    Returns:
        loss_N in [0, ∞) nats, at least float32.

    Raises:
        ValueError: shapes that do not match.
    """
    logits_NV = at_least_float32(student)
    require_classes(logits_NV.shape, teacher)
    log_q_NV = F.log_softmax(logits_NV / teacher.temperature, dim=-1)
    weights_NK = teacher.weights_NK.to(log_q_NV)
    return scaled(-(weights_NK * log_q_NV.gather(1, teacher.ids_NK)).sum(1), teacher.temperature)


SPARSE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "skew_kl": skew_kl,
}
"""The losses of `raykd.losses.LOSSES` that work from a few classes, by the same names and with the same knobs."""


def require_classes(shape: torch.Size, teacher: Few | Sampled) -> None:
    """A student [N, V] that fits the teacher.

    Raises:
        ValueError: units or classes differ.
    """
    expected = (len(teacher.ids_NK), teacher.classes)
    if tuple(shape) != expected:
        raise ValueError(
            f"the student has logits {tuple(shape)} and the teacher speaks of {expected}; both need the same units "
            "and the same vocabulary"
        )


def require_tail(teacher: Few) -> None:
    """Something to compare the student's other classes with.

    Raises:
        ValueError: classes are left out, and the teacher says nothing of them.
    """
    tail = teacher.tail if isinstance(teacher, TopK) else teacher.log_tail_N
    if tail is None and teacher.ids_NK.shape[1] < teacher.classes:
        raise ValueError(
            f"reverse_kl needs the tail of the {teacher.classes - teacher.ids_NK.shape[1]} classes that the teacher left "
            "out: without it the loss is infinite wherever the student gives them anything, and its sum over the "
            "classes kept is least where the student leaves all of these; keep the tail, or use kl, js or skew_kl"
        )


def at_temperature(teacher: Few, temperature: float) -> Sparse:
    """The teacher's distribution: an answer tempered, a distribution as it is.

    Raises:
        ValueError: temperature not above 0.
        TargetError: the tail is not known at this temperature.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    return tempered(teacher, temperature) if isinstance(teacher, TopK) else teacher


def _between(
    divergence: buckets.Divergence,
    student: Tensor,
    teacher: Few,
    temperature: float,
    *,
    needs_tail: bool = False,
) -> Tensor:
    logits_NV = at_least_float32(student)
    require_classes(logits_NV.shape, teacher)
    if needs_tail:
        require_tail(teacher)
    target = at_temperature(teacher, temperature)
    log_p_NS = buckets.of_teacher(target, logits_NV.dtype)
    log_q_NS = buckets.of_student(logits_NV / temperature, target)
    return scaled(divergence.value(log_p_NS, log_q_NS), temperature)
