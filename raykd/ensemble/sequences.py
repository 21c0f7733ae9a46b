"""Weightings of units that stand in sequences: by how well each teacher predicted what came before, or by a route.

Shape suffixes: T teachers, N units, B sequences, L their greatest length. The units of a sequence are neighbours;
`offsets` int64 [B + 1] tells where each begins. Results are detached weights [T, N] that sum to 1 over the teachers
that answered (all 0 where nobody did).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raykd.types import host_sees

_LEAST_LOG = math.log(1e-300)


def bayesian_mixture(
    log_probabilities_TN: Tensor,
    offsets: Tensor,
    *,
    forgetting: float = 1.0,
    prior: Tensor | None = None,
    available_TN: Tensor | None = None,
) -> Tensor:
    """How probable each teacher is given the tokens before the unit: w_kt ∝ π_k Π_{s<t} p_k(y_s)^(γ^(t−1−s)).

    At γ = 1 this is Bayes' rule for "one of these teachers wrote the sequence": the mixture's own code length is then
    at most log(1/π_k) above that of any teacher k (Cesa-Bianchi & Lugosi 2006, Prop. 3.1 for the log loss). With γ < 1
    older tokens count less (exponential forgetting), for texts that change their domain. p_k(y_t) itself is not used:
    it would give the label away. Each sequence begins anew with the prior.

    A probability of 0 counts as 1e-300, so that a teacher that was wrong once can come back where older tokens are
    forgotten. Where a teacher gave no answer it is taken to have predicted as well as the others did on average (the mean of their
    log-probabilities), so that it neither gains nor loses.

    Args:
        log_probabilities_TN: what each teacher gave the unit's own token, natural logarithms.
        offsets: int64 [B + 1], from 0 to N.
        forgetting: γ in [0, 1].
        prior: [T], π, above 0; None = equal.
        available_TN: bool, False where a teacher gave no answer; None = all answered.

    Raises:
        ValueError: shapes that do not belong together, a prior that is not above 0, or γ outside [0, 1].
    """
    logs_TN = log_probabilities_TN.detach().double()
    teachers, units = logs_TN.shape
    if not 0.0 <= forgetting <= 1.0:
        raise ValueError(f"forgetting must be from 0 to 1, found {forgetting}")
    available_TN = _available(available_TN, logs_TN)
    prior_T = _prior(prior, logs_TN)
    logs_TN = torch.where(available_TN, logs_TN.clamp_min(_LEAST_LOG), 0.0)
    answered_N = available_TN.sum(0)
    mean_N = logs_TN.sum(0) / answered_N.clamp_min(1)
    logs_TN = torch.where(available_TN, logs_TN, mean_N)
    sequence_N, place_N, size, length = _places(offsets, units)
    padded_TBL = logs_TN.new_zeros(teachers, size, length)
    padded_TBL[:, sequence_N, place_N] = logs_TN
    age_LL = torch.arange(length, device=logs_TN.device)
    age_LL = (
        age_LL[None, :] - 1 - age_LL[:, None]
    )  # of the evidence at row s when it counts for column t
    decay_LL = torch.where(age_LL >= 0, forgetting ** age_LL.clamp_min(0).double(), 0.0)
    evidence_TN = (padded_TBL @ decay_LL)[:, sequence_N, place_N] + prior_T.log()[:, None]
    evidence_TN = evidence_TN.masked_fill(~available_TN, -torch.inf)
    weights_TN = torch.where(answered_N > 0, evidence_TN, 0.0).softmax(0)
    weights_TN = torch.where(available_TN, weights_TN, 0.0)
    kept: torch.dtype = log_probabilities_TN.dtype
    return weights_TN.to(kept if kept.itemsize >= torch.float32.itemsize else torch.float32)


def routed(route_N: Tensor, teachers: int, *, available_TN: Tensor | None = None) -> Tensor:
    """One teacher for each unit.

    Units without a route, and those whose teacher gave no answer, are shared equally by the teachers that answered.

    Args:
        route_N: int64 [N], index of the unit's teacher; −1 = none.
        teachers: T.
        available_TN: bool, False where a teacher gave no answer; None = all answered.

    Returns:
        float32 weights [T, N].

    Raises:
        ValueError: a route to a teacher that there is not, or shapes that do not belong together.
    """
    if host_sees(route_N) and bool(((route_N < -1) | (route_N >= teachers)).any()):
        raise ValueError(f"a route is −1 to {teachers - 1}, found {route_N.tolist()}")
    chosen_TN = torch.arange(teachers, device=route_N.device)[:, None] == route_N
    available_TN = _available(available_TN, chosen_TN)
    chosen_TN = chosen_TN & available_TN
    share_TN = torch.where(chosen_TN.any(0), chosen_TN, available_TN).float()
    return share_TN / share_TN.sum(0).clamp_min(1)


def _available(given_TN: Tensor | None, like_TN: Tensor) -> Tensor:
    if given_TN is None:
        return torch.ones_like(like_TN, dtype=torch.bool)
    if given_TN.shape != like_TN.shape:
        raise ValueError(
            f"available_TN must be {list(like_TN.shape)}, found {list(given_TN.shape)}"
        )
    return given_TN.bool()


def _prior(given_T: Tensor | None, like_TN: Tensor) -> Tensor:
    if given_T is None:
        return like_TN.new_ones(len(like_TN))
    if given_T.shape != (len(like_TN),):
        raise ValueError(f"prior must be [{len(like_TN)}], found {list(given_T.shape)}")
    if host_sees(given_T) and not bool(((given_T > 0) & given_T.isfinite()).all()):
        raise ValueError(f"prior must be finite and above 0, found {given_T.tolist()}")
    return given_T.detach().to(like_TN)


def _places(offsets: Tensor, units: int) -> tuple[Tensor, Tensor, int, int]:
    """Sequence of each unit and place in it, number of sequences and the greatest length."""
    if host_sees(offsets) and (
        offsets.ndim != 1
        or not len(offsets)
        or int(offsets[0]) != 0
        or int(offsets[-1]) != units
        or bool((offsets.diff() < 0).any())
    ):
        raise ValueError(f"offsets must rise from 0 to {units}, found {offsets.tolist()}")
    size_B = offsets.diff()
    sequence_N = torch.repeat_interleave(size_B, output_size=units)
    place_N = torch.arange(units, device=offsets.device) - offsets[sequence_N]
    length = int(size_B.max()) if len(size_B) else 0
    return sequence_N, place_N, len(size_B), length
