"""Independent yes-or-no labels, each seen as a classification of two classes.

Shape suffixes: N units, K labels. Everything that holds for class logits then holds for label logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raykd.losses.common import prepare_equal
from raykd.losses.logits import kl


def two_class(logits: Tensor) -> Tensor:
    """Logits [..., K] of yes against no as logits of the classes (yes, no), [..., K, 2].

    softmax((z, 0)) = (σ(z), 1 − σ(z)), so temperatures, mixtures and divergences carry over.
    """
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def bernoulli_kl(student: Tensor, teacher: Tensor, *, temperature: float | Tensor = 4.0) -> Tensor:
    """Forward KL of tempered label probabilities, mean over the labels.

    loss_n = T² mean_k KL(σ(t_k/T) ‖ σ(s_k/T)), KL of Bernoulli distributions. Hinton et al. 2015,
    Sec. 2, for each label by itself. A mean, as of the cross-entropy with the labels, so that the
    number of labels does not change the strength.

    Args:
        student: label logits [N, K].
        teacher: the same shape; detached.
        temperature: T > 0.

    Returns:
        loss_N in [0, ∞), nats.

    Raises:
        ValueError: shapes differ.
    """
    student_NK, teacher_NK = prepare_equal(student, teacher)
    pairs = two_class(student_NK).flatten(0, 1), two_class(teacher_NK).flatten(0, 1)
    return kl(*pairs, temperature=temperature).reshape(student_NK.shape).mean(1)
