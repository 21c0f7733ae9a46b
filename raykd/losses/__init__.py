"""Losses between a student and one teacher (or one combined target): pure functions of tensors.

Every loss is `(student, teacher, *, knobs) -> loss_N`, unreduced; the mean of loss_N equals the
published definition, with KL summed over classes and multiplied by T², and the feature losses as in
the code of the CRD benchmark. The teacher is always detached. Half precision is raised to float32.

`LOSSES` are those that a recipe names by `type`. `queue_kl`, `unic` and `crd` need more than a student's and a
teacher's feature (a queue, all teachers' losses, banks of vectors) and are functions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from torch import Tensor

from raykd.losses.common import standardised
from raykd.losses.contrast import crd
from raykd.losses.dense import token_similarity
from raykd.losses.foundation import queue_kl, unic
from raykd.losses.logits import kl, kl_from_log_probs, reverse_kl
from raykd.methods import LOSS_ROWS

LOSSES: dict[str, Callable[..., Tensor]] = {
    name: resolve_name(row.path) for name, row in LOSS_ROWS.items()
}

__all__ = [
    "LOSSES",
    "crd",
    "kl",
    "kl_from_log_probs",
    "queue_kl",
    "reverse_kl",
    "standardised",
    "token_similarity",
    "unic",
]
