"""What a language model must show: that it predicts validation text better than one that has never seen a text."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from raykd.config.roles import Expect
from raykd.data.chunks import BYTES
from raykd.errors import TeacherError
from raykd.tasks.language.metrics import language_metrics


def check_bits(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """The bits per byte on validation, mean over the domains, held against `expect` and against equal probabilities.

    Args:
        name: the teacher's name.
        outputs_NC: its logits of every token.
        labels_N: of the units, int64 [N, 4].
        expect: what it has to reach.
        own_map: label maps are for classes.

    Raises:
        TeacherError: worse than expected, or no better than equal probabilities.
    """
    numbers = language_metrics(F.log_softmax(outputs_NC, dim=1), labels_N)
    bits, tokens = numbers["bits_per_byte"], len(labels_N)
    found = f"teacher {name!r} needs {bits:.3f} bits per byte of {tokens:,} validation tokens"
    if expect.bits_per_byte is not None:
        if bits > expect.bits_per_byte:
            raise TeacherError(
                f"{found}, more than teachers.{name}.expect.bits_per_byte={expect.bits_per_byte:g}; check its text "
                "and weights, or raise the expectation"
            )
        return bits
    size = float(labels_N[:, BYTES].sum()) / tokens
    chance = math.log2(outputs_NC.shape[1]) / size
    if numbers["nll"] >= math.log(outputs_NC.shape[1]):
        raise TeacherError(
            f"{found}, no better than equal probabilities ({chance:.3f}); check its weights and that its tokens are "
            f"those of the data, or set teachers.{name}.expect.bits_per_byte={math.ceil(bits)} to use it all the same"
        )
    return bits
