"""Losses that compare samples with each other, over those that count."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def masked_pairwise(
    loss: Callable[[Tensor, Tensor], Tensor],
    student_B: Tensor,
    teacher_B: Tensor,
    counted_B: Tensor | None,
) -> Tensor:
    """Loss of each row among the rows that count; 0 for the others, which no row is compared with.

    Args:
        loss: (student, teacher) -> loss_B, which may gather rows of other workers. It is called in any
            case, also with no rows: the other workers may wait for this one.
        student_B: rows of the student, [B, ...].
        teacher_B: rows of the teacher, [B, ...].
        counted_B: bool [B]; None = all count.

    Returns:
        loss_B.
    """
    if counted_B is None:
        return loss(student_B, teacher_B)
    among = loss(student_B[counted_B], teacher_B[counted_B])
    return among.new_zeros(len(student_B)).index_put((counted_B.nonzero()[:, 0],), among)
