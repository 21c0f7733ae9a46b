"""A student's relations between samples against the mean of several teachers'.

Shape suffixes: T teachers, B local batch, A batch of all workers, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from raykd.losses.common import Gather, prepare
from raykd.losses.relational import RELATIONS


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
