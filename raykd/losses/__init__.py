"""Losses between a student and one teacher (or one combined target): pure functions of tensors.

Every loss is `(student, teacher, *, knobs) -> loss_N`, unreduced; the mean of loss_N equals the
published definition, with KL summed over classes and multiplied by T², and the feature losses as in
the code of the CRD benchmark. The teacher is always detached. Half precision is raised to float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name

from torch import Tensor

from raykd.losses.common import standardised
from raykd.losses.logits import kl, kl_from_log_probs, reverse_kl
from raykd.methods import LOSS_ROWS

LOSSES: dict[str, Callable[..., Tensor]] = {
    name: resolve_name(row.path) for name, row in LOSS_ROWS.items()
}

__all__ = ["LOSSES", "kl", "kl_from_log_probs", "reverse_kl", "standardised"]
