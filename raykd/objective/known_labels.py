"""What is taught by labels: where one is known, and where two samples were blended into one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raykd.objective.rule import LearningRule
from raykd.objective.terms import Term
from raykd.types import UNLABELLED, Batch, is_labelled

_TINY = 1e-12


def blended(
    batch: Batch,
    pseudo_N: Tensor | None,
    taught: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """What is taught by labels [N, ...], and how much it counts [N]; of samples that are blended both by their shares.

    Args:
        batch: the batch.
        pseudo_N: the ensemble's answers as labels, for samples without one.
        taught: labels -> loss or distribution of each unit, and how much it counts, its class's factor included.
    """
    labels_N, mixed = batch.labels, batch.mixed
    partners_N = labels_N if mixed is None else mixed.partner_labels_B
    whole_N = torch.ones(len(labels_N), device=labels_N.device)
    share_N = whole_N if mixed is None else mixed.share_B
    blended_N = share_N < 1
    if pseudo_N is not None:
        unknown_N = ~is_labelled(labels_N) | (blended_N & ~is_labelled(partners_N))
        unknown_N = unknown_N.view(-1, *[1] * (labels_N.ndim - 1))
        labels_N = torch.where(unknown_N, pseudo_N, labels_N)
        partners_N = torch.where(unknown_N, pseudo_N, partners_N)
    own, valid_N = taught(labels_N)
    if mixed is not None:
        other, partner_valid_N = taught(partners_N)
        own_N, other_N = share_N * valid_N, (1 - share_N) * partner_valid_N
        known_N = is_labelled(labels_N) & (is_labelled(partners_N) | ~blended_N)
        valid_N = (own_N + other_N) * known_N
        column = (-1, *[1] * (own.ndim - 1))
        own = (own_N.view(column) * own + other_N.view(column) * other) / valid_N.clamp(
            min=_TINY
        ).view(column)
    valid_N = valid_N * batch.per_unit(batch.present_B)
    if batch.given_N is not None:
        valid_N = valid_N * batch.given_N
    if batch.weight_B is not None:
        valid_N = valid_N * batch.per_unit(batch.weight_B)
    return own, valid_N


def whole_labels(batch: Batch, rule: LearningRule) -> Tensor:
    """Classes, −1 where unlabelled or blended of several samples."""
    labels_N = rule.classes_of(batch.labels)
    if batch.mixed is None:
        return labels_N
    return torch.where(batch.mixed.share_B < 1, UNLABELLED, labels_N)


def known_units(batch: Batch) -> Tensor:
    """Units whose label takes the place of the ensemble's answer, bool [N]; of blended ones both are known."""
    known_N = is_labelled(batch.labels)
    if batch.mixed is None:
        return known_N
    whole_N = batch.mixed.share_B >= 1
    return known_N & (whole_N | is_labelled(batch.mixed.partner_labels_B))


def replaced(soft: Term, labels: Term, batch: Batch) -> Term:
    """The soft targets with the labels in their place where these are known: one mean over all units."""
    known_N = known_units(batch)
    return Term(
        torch.where(known_N, labels.loss_N, soft.loss_N),
        torch.where(known_N, labels.valid_N, soft.valid_N.to(labels.valid_N.dtype)),
        soft.weight,
    )
