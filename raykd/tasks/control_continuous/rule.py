"""labels·(squared error of means) + soft_targets·KL of Gaussians to one teacher of each state.

Shapes: N units, T teachers, A numbers of an action; outputs are [N, 2A].
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.objective import Labels, SoftTargets
from raykd.losses import LOSSES
from raykd.objective.rule import LearningRule
from raykd.objective.teacher_batch import TeacherBatch
from raykd.seeding import derive
from raykd.types import is_labelled

_MIX = np.uint64(0x9E3779B97F4A7C15)


def _label_loss(settings: Labels, outputs_NC: Tensor, labels_NA: Tensor) -> tuple[Tensor, Tensor]:
    """Loss [N] between the means and the actions that were taken."""
    known_N = is_labelled(labels_NA)
    means_NA = outputs_NC[:, : labels_NA.shape[1]]
    safe_NA = torch.where(known_N[:, None], labels_NA, 0.0)
    if settings.loss is not None and settings.loss.type == "huber":
        return LOSSES["huber"](means_NA, safe_NA, **settings.loss.arguments), known_N.to(means_NA.dtype)  # fmt: skip
    return (means_NA - safe_NA).square().mean(1), known_N.to(means_NA.dtype)


def _soft_loss(
    settings: SoftTargets,
    teacher_batch: TeacherBatch,
    weights_TN: Tensor,
    _own_TN: Tensor | None,
    _projectors: nn.ModuleList,
) -> tuple[Tensor, Tensor]:
    """The student against the one teacher that speaks of each state."""
    answered_N = weights_TN.sum(dim=0) > 0
    choose = _routed if settings.mixing == "routed" else _sampled
    stacked_TNC = teacher_batch.stacked
    said_N = choose(stacked_TNC, weights_TN, teacher_batch.ids_N)
    target_NC = stacked_TNC[said_N, torch.arange(len(said_N), device=said_N.device)]
    target_NC = torch.where(answered_N[:, None], target_NC, 0.0)
    loss = partial(LOSSES[settings.loss.type], **settings.loss.arguments)
    return loss(teacher_batch.student_NC, target_NC), answered_N


def _sampled(_stacked_TNC: Tensor, weights_TN: Tensor, ids_N: Tensor) -> Tensor:
    """A teacher for each state [N], drawn by the weights; always the same one for the same state."""
    hashed = (ids_N.cpu().numpy().astype(np.uint64) + np.uint64(derive(0, "sampled"))) * _MIX
    hashed ^= hashed >> np.uint64(29)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    uniform_N = torch.from_numpy((hashed >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    cumulated_TN = weights_TN.double().cumsum(dim=0)
    points_N = uniform_N.to(weights_TN.device) * cumulated_TN[-1]
    return (cumulated_TN <= points_N).sum(dim=0).clamp(max=len(weights_TN) - 1)


def _routed(stacked_TNC: Tensor, weights_TN: Tensor, _ids_N: Tensor) -> Tensor:
    """The teacher for each state [N] from which the others, by their weights, differ least: one of them, never a mean."""
    means_TNA = stacked_TNC.chunk(2, dim=2)[0]
    apart_TTN = (means_TNA[:, None] - means_TNA[None]).square().sum(dim=3)
    cost_TN = (apart_TTN * weights_TN[None]).sum(dim=1)
    return torch.where(weights_TN > 0, cost_TN, torch.inf).argmin(dim=0)


def _no_labels(teacher_batch: TeacherBatch, _weights_TN: Tensor) -> Tensor:
    return teacher_batch.batch.labels


RULE = LearningRule(label_loss=_label_loss, soft_loss=_soft_loss, pseudo_labels=_no_labels)
