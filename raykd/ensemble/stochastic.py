"""Weightings that listen to a random part of the teachers: sampling and dropping.

Shape suffixes: N units, T teachers, C classes. Keywords and result as in `given`. Randomness comes
from `generator`, or, with `seed` and `units_N`, from a hash of the seed and the unit's id, so that
a unit gets the same draw in any batch and on any worker. Without both it is torch's default
generator.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor

from raykd.ensemble.common import Common, Evidence, gather_evidence, per_teacher

_GOLDEN = -7046029254386353131  # the constants of SplitMix64 (Steele, Lea & Flood 2014), as int64
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def sample(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    per: Literal["sample", "batch"] = "sample",
    probabilities: Tensor | None = None,
    seed: int | None = None,
    units_N: Tensor | None = None,
    **more: Unpack[Common],
) -> Tensor:
    """One teacher at a time: weight 1 for a teacher drawn with probability π_k, 0 for the others.

    In expectation the weights are π, so the gradient is that of `fixed` with weights π, at 1/K of
    the teachers' work and a higher variance. Among the teachers that answered, π is renormalised.

    Args:
        logits_TNC: teachers' logits (only their shape counts).
        labels_N: not used.
        per: a draw for each unit, or one for the batch (a unit whose teacher did not answer is
            taught by another).
        probabilities: π [T], at least 0; None means equal.
        seed: makes draws a function of seed and unit id; with per="batch" of the seed alone, which
            must then change from step to step.
        units_N: int64 [N], the units' ids; needed with `seed` and per="sample".
        **more: see `common.Common`.

    Returns:
        weights_TN, 0 or 1.

    Raises:
        ValueError: negative probabilities, a seed without ids, or shapes that do not match.
    """
    evidence = gather_evidence("sample", logits_TNC, labels_N, more)
    if per not in ("sample", "batch"):
        raise ValueError(f"per must be sample or batch, found {per!r}")
    share_TN = evidence.uniform()
    if probabilities is not None:
        share_TN = evidence.normalised(per_teacher("probabilities", probabilities, evidence))
    units = share_TN.shape[1]
    if per == "batch":
        shared = None if seed is None else torch.zeros(1, dtype=torch.int64)
        draw_N = _draws(1, 1, seed, shared, evidence)[0].expand(units)
    else:
        draw_N = _draws(1, units, seed, units_N, evidence)[0]
    cumulative_TN = share_TN.double().cumsum(0)
    passed_TN = cumulative_TN <= draw_N * cumulative_TN[-1]
    chosen_N = passed_TN.sum(0).clamp_max(len(share_TN) - 1)
    return evidence.normalised(_one_hot(chosen_N, len(share_TN)))


def drop(
    logits_TNC: Tensor,
    labels_N: Tensor | None = None,
    *,
    probability: float = 0.5,
    seed: int | None = None,
    units_N: Tensor | None = None,
    **more: Unpack[Common],
) -> Tensor:
    """Teacher dropping by loss: the teacher the student is worst at stays, others may be dropped.

    For each unit the teacher of highest loss is kept and every other is dropped with the given
    probability; those kept count equally. Sariyildiz et al. 2024 (UNIC). Their code normalises
    over the whole batch, so that images with more teachers count more; here the weights of every
    unit sum to 1. Do not use it in evaluation.

    Args:
        logits_TNC: teachers' logits (only their shape counts).
        labels_N: not used.
        probability: of dropping a teacher, within [0, 1].
        seed: makes draws a function of seed, unit id and teacher.
        units_N: int64 [N], the units' ids; needed with `seed`.
        **more: see `common.Common`; `losses_TN` is needed.

    Returns:
        weights_TN.

    Raises:
        ValueError: no `losses_TN`, a probability out of range, a seed without ids, or shapes that
            do not match.
    """
    evidence = gather_evidence("drop", logits_TNC, labels_N, more)
    if evidence.losses_TN is None:
        raise ValueError("the weighting drop needs losses_TN")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be within [0, 1], found {probability}")
    teachers, units = evidence.losses_TN.shape
    losses_TN = torch.where(evidence.available_TN, evidence.losses_TN, -torch.inf)
    hardest_TN = _one_hot(losses_TN.argmax(0), teachers)
    kept_TN = _draws(teachers, units, seed, units_N, evidence) >= probability
    return evidence.normalised(hardest_TN | kept_TN)


def _one_hot(chosen_N: Tensor, teachers: int) -> Tensor:
    """Bool [T, N]; `F.one_hot` would look at the numbers."""
    return chosen_N == torch.arange(teachers, device=chosen_N.device).unsqueeze(1)


def _draws(
    rows: int, columns: int, seed: int | None, units_N: Tensor | None, evidence: Evidence
) -> Tensor:
    """Uniform numbers in [0, 1), float64 [rows, columns]; column n depends on unit n alone if seeded."""
    device = evidence.logits_TNC.device
    if seed is None:
        generator = evidence.generator
        source = device if generator is None else generator.device
        draws = torch.rand(rows, columns, generator=generator, device=source, dtype=torch.float64)
        return draws.to(device)
    if units_N is None or units_N.shape != (columns,):
        found = None if units_N is None else tuple(units_N.shape)
        raise ValueError(f"with a seed, units_N must be [{columns}], found {found}")
    row_R1 = torch.arange(rows, device=device).unsqueeze(1)
    start = _mixed(torch.tensor([seed], dtype=torch.int64, device=device) + _GOLDEN)
    state = _mixed(start + units_N.to(device, torch.int64) * _GOLDEN)
    bits = _mixed(state.unsqueeze(0) + (row_R1 + 1) * _GOLDEN)
    return _shifted(bits, 11).double() / 2**53


def _mixed(state: Tensor) -> Tensor:
    """The finaliser of SplitMix64; int64 arithmetic wraps around."""
    state = (state ^ _shifted(state, 30)) * _MIX_1
    state = (state ^ _shifted(state, 27)) * _MIX_2
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
