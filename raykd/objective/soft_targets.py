"""The soft-target term: the student against the ensemble, or against each teacher by itself.

Shape suffixes: N units, T teachers, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raykd.config.methods import Disagreement, DisagreementFilter, SoftLoss
from raykd.config.objective import SoftTargets
from raykd.ensemble import (
    WEIGHTINGS,
    jensen_shannon,
    mean_logits,
    mean_of_known,
    mean_probabilities,
    sample_weights,
    sharpened,
)
from raykd.losses import LOSSES, kl_from_log_probs, standardised
from raykd.objective.fused import kl_to_mean
from raykd.objective.masked_pairwise import masked_pairwise
from raykd.objective.teacher_batch import TeacherBatch

_NO_KNOBS = frozenset({"type", "standardise", "scope"})


def compared(loss: Any, teacher_batch: TeacherBatch) -> TeacherBatch:
    """The batch with the logits that a loss compares: z-scores where asked for.

    Each teacher is standardised before the teachers are mixed, which is what its own loss would do.
    """
    if not getattr(loss, "standardise", False):
        return teacher_batch
    return replace(
        teacher_batch,
        student_NC=standardised(teacher_batch.student_NC),
        answers=tuple(standardised(answer_NC) for answer_NC in teacher_batch.answers),
    )


def own_losses(loss: SoftLoss, teacher_batch: TeacherBatch) -> Tensor:
    """The student's loss against each teacher [T, N]; 0 where a teacher gave no answer."""
    teacher_batch = compared(loss, teacher_batch)
    info, function = loss.row, _compare(loss, teacher_batch)
    everywhere = info.scope and getattr(loss, "scope", None) == "global"
    losses = []
    everyone = not info.per_sample and bool(teacher_batch.available_TN.all())
    for index, available_N in enumerate(teacher_batch.available_TN):
        student_NC, teacher_NC = teacher_batch.compared_with(index)
        if info.per_sample:
            safe_NC = torch.where(available_N[:, None], teacher_NC, 0.0)
            losses.append(torch.where(available_N, function(student_NC, safe_NC), 0.0))
            continue
        gather = teacher_batch.context.gather_counted(available_N) if everywhere else None
        among = partial(function, gather=gather)
        counted_N = None if everyone else available_N
        losses.append(masked_pairwise(among, student_NC, teacher_NC, counted_N))
    return torch.stack(losses)


def _compare(loss: SoftLoss, teacher_batch: TeacherBatch) -> Callable[..., Tensor]:
    """The loss with its knobs, of logits that are standardised already: (student, teacher) -> loss_N."""
    knobs = {name: value for name, value in loss if name not in _NO_KNOBS}
    if "labels" in loss.row.needs:
        knobs["labels"] = teacher_batch.labels_N
    return partial(LOSSES[loss.type], temperature=teacher_batch.temperature, **knobs)


def ensemble_loss(
    settings: SoftTargets, teacher_batch: TeacherBatch, weights_TN: Tensor, own_TN: Tensor | None
) -> Tensor:
    """The student's loss against the ensemble [N].

    Args:
        settings: which loss, and how the teachers are combined.
        teacher_batch: the batch.
        weights_TN: how much each teacher counts.
        own_TN: `own_losses`, where these are combined.
    """
    if settings.mixing == "losses":
        assert own_TN is not None, "the losses to be added are computed before the weights"
        return (weights_TN * own_TN).sum(dim=0)
    if settings.remakes_target:
        return _to_target(settings, teacher_batch, weights_TN)
    teacher_batch = compared(settings.loss, teacher_batch)
    student_NC, temperature = teacher_batch.student_NC, teacher_batch.temperature
    if settings.mixing == "probabilities" and teacher_batch.known is not None:
        return _over_known(teacher_batch, weights_TN)
    if settings.mixing == "probabilities":
        return kl_to_mean(student_NC, teacher_batch.answers, weights_TN, temperature=temperature)
    if settings.mixing == "logits":
        mixed_NC = mean_logits(teacher_batch.stacked, weights_TN)
        return _compare(settings.loss, teacher_batch)(student_NC, mixed_NC)
    if settings.loss.type != "kl":  # which tempers the mixture by itself
        mixed_NC = mean_probabilities(teacher_batch.stacked, weights_TN)
        return _compare(settings.loss, teacher_batch)(student_NC, mixed_NC)
    mixed_NC = mean_probabilities(
        teacher_batch.stacked, weights_TN, temperatures_T=temperature, order="mix_then_temper"
    )
    return kl_from_log_probs(student_NC, mixed_NC, temperature=temperature)


def pooled(settings: SoftTargets, teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """Log of the mixture of the teachers at temperature 1 [N, C]; of a class those that know it."""
    if settings.mixing == "logits":
        return mean_logits(teacher_batch.stacked, weights_TN).log_softmax(dim=-1)
    if teacher_batch.known is None:
        return mean_probabilities(teacher_batch.stacked, weights_TN)
    return mean_of_known(teacher_batch.stacked, weights_TN, teacher_batch.knowing)


def remade(settings: SoftTargets, teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """The mixture of the teachers as `sharpened` makes it [N, C]."""
    assert settings.sharpen != "fit", "facts say which"
    return sharpened(
        pooled(settings, teacher_batch, weights_TN),
        temperature=settings.sharpen or 1.0,
        hard_share=settings.hard_share,
    )


def _to_target(settings: SoftTargets, teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """KL(t ‖ q) [N] nats with t of `remade`; it has the gradient of the cross-entropy with t."""
    target_NC = remade(settings, teacher_batch, weights_TN)
    student_NC = teacher_batch.student_NC
    dtype = torch.promote_types(student_NC.dtype, target_NC.dtype)
    log_q_NC = student_NC.to(dtype).log_softmax(dim=-1)
    return (torch.xlogy(target_NC, target_NC) - target_NC * log_q_NC).sum(dim=-1)


def _over_known(teacher_batch: TeacherBatch, weights_TN: Tensor) -> Tensor:
    """T² Σ_S W_S KL(p_S ‖ q^S) [N]: teachers that know the same classes S are mixed, with their share W_S.

    It has the gradient of T² Σ_k w_k KL(p_k ‖ q^{S_k}), see `raykd.ensemble.combine`.
    """
    assert teacher_batch.known is not None, "only where a teacher knows some classes alone"
    groups: dict[tuple[int, ...] | None, list[int]] = {}
    for index, some in enumerate(teacher_batch.known):
        groups.setdefault(None if some is None else tuple(some.tolist()), []).append(index)
    total_N = torch.zeros_like(weights_TN[0])
    for members in groups.values():
        pairs = [teacher_batch.compared_with(index) for index in members]
        share_N = weights_TN[members].sum(dim=0)
        own_TN = weights_TN[members] / torch.where(share_N > 0, share_N, 1.0)
        answers = [teacher_NC for _, teacher_NC in pairs]
        loss_N = kl_to_mean(pairs[0][0], answers, own_TN, temperature=teacher_batch.temperature)
        total_N = total_N + share_N * loss_N
    return total_N


def agreement_weights(disagreement: Disagreement, teacher_batch: TeacherBatch) -> Tensor:
    """How much each unit counts by how far the teachers agree on it, [N]."""
    logits_TNC, available_TN = teacher_batch.stacked, teacher_batch.available_TN
    if isinstance(disagreement, DisagreementFilter):
        return sample_weights(
            logits_TNC,
            mode="filter",
            minimum_votes=disagreement.minimum_votes,
            available_TN=available_TN,
        )
    # Not `sample_weights`, which divides by the mean of this worker's units: the reduction divides by
    # that of all workers.
    uniform_TN = WEIGHTINGS["uniform"](logits_TNC, None, available_TN=available_TN)
    return (-jensen_shannon(logits_TNC, uniform_TN) / disagreement.tau).exp()
