"""What a language model must show: that it predicts validation text better than one that has never seen a text."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from raykd.config.roles import Expect
from raykd.tasks.language.metrics import check_columns, columns_of


def check_bits(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """As `raykd.tasks.language.metrics.check_columns`, of a teacher's outputs.

    Args:
        name: the teacher's name.
        outputs_NC: its logits of every token.
        labels_N: of the units, int64 [N, 4].
        expect: what it has to reach.
        own_map: label maps are for classes.

    Raises:
        TeacherError: worse than expected, or no better than equal probabilities.
    """
    columns = columns_of(F.log_softmax(outputs_NC, dim=1), labels_N)
    return check_columns(name, columns, labels_N, expect, outputs_NC.shape[1])
