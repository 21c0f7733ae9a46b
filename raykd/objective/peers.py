"""Peers that learn from each other: what each of them is taught by a batch, as pure functions of all peers' logits.

Shape suffixes: K peers, N units, C classes, M units of a validation set. p_k is the softmax of peer k's logits. Whatever
teaches is detached: each peer's gradient comes from its own logits alone. What a peer says changes with every step,
so that none of it is ever stored as a target.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.ensemble import jensen_shannon
from raykd.losses import kl, kl_from_log_probs
from raykd.types import UNLABELLED

Over = Literal["mean", "sum"]
KdclTarget = Literal["naive", "minlogit", "linear", "general"]
_STEPS = 200  # at most, of the search for the best mixture


def dml(logits_KNC: Tensor, labels_N: Tensor, *, over: Over = "mean") -> Tensor:
    """Deep mutual learning: the label, and every other peer at temperature 1.

    loss_in = CE(z_in, y_n) + 1/(K−1) Σ_{j≠i} KL(sg p_jn ‖ p_in). Zhang et al. 2018 (DML). The authors'
    code sums over the peers instead (`over="sum"`), so that its pull grows with K, and adds 1e-8 inside the logarithm.
    One peer by itself learns its labels. An unlabelled unit (−1) is learnt from the peers alone.

    Args:
        logits_KNC: of all peers.
        labels_N: int64.
        over: whether the other peers' divergences are averaged or added.

    Returns:
        loss_KN in nats; a peer's loss has no gradient for the others.

    Raises:
        ValueError: shapes that do not match.
    """
    _check(logits_KNC, labels_N)
    peers = len(logits_KNC)
    share = 1.0 if over == "sum" else 1.0 / max(peers - 1, 1)
    losses = []
    for index, own_NC in enumerate(logits_KNC):
        loss_N = _labels(own_NC, labels_N)
        for other in range(peers):
            if other != index:
                loss_N = loss_N + share * kl(own_NC, logits_KNC[other])
        losses.append(loss_N)
    return torch.stack(losses)


def codistillation(
    student_NC: Tensor,
    stale_KNC: Tensor,
    labels_N: Tensor,
    *,
    weight: float = 1.0,
    entropy: bool = False,
) -> Tensor:
    """Codistillation: the label, and the mean of what the other peers' last known weights say.

    loss_n = CE(z_n, y_n) + λ KL(p̄_n ‖ p_n), p̄ the mean of the others' probabilities. Anil et al. 2018, Sec. 2; theirs is
    the cross-entropy with p̄ (`entropy=True`), which has the same gradient. λ is 0 until the rate has settled, and
    the copies are as old as the last exchange.

    Args:
        student_NC: logits of one peer.
        stale_KNC: logits of copies of the others; detached. None of them, [0, N, C], leaves the label.
        labels_N: int64, −1 where unlabelled.
        weight: λ ≥ 0.
        entropy: add the entropy of p̄, as in the paper.

    Returns:
        loss_N in nats.

    Raises:
        ValueError: shapes that do not match; a weight below 0.
    """
    _check(student_NC[None], labels_N)
    if weight < 0:
        raise ValueError(f"weight must be at least 0, found {weight}")
    label_loss_N = _labels(student_NC, labels_N)
    if len(stale_KNC) == 0 or weight == 0:
        return label_loss_N
    _check(stale_KNC, labels_N)
    others_KNC = stale_KNC.detach().log_softmax(-1)
    log_mean_NC = torch.logsumexp(others_KNC, dim=0) - math.log(len(stale_KNC))
    pull_N = kl_from_log_probs(student_NC, log_mean_NC)
    if entropy:
        pull_N = pull_N - (log_mean_NC.exp() * log_mean_NC).sum(-1)
    return label_loss_N + weight * pull_N


def kdcl(
    logits_KNC: Tensor,
    labels_N: Tensor,
    *,
    how: KdclTarget = "minlogit",
    temperature: float = 2.0,
    weight: float = 1.0,
    shares_K: Tensor | None = None,
) -> Tensor:
    """Collaborative learning: the label, and one target that is made of all peers with the label's help.

    loss_in = CE(z_in, y_n) + λ T² KL(softmax(z_n / T) ‖ softmax(z_in / T)), z of `kdcl_target`. Guo et al. 2020 (KDCL),
    Sec. 3. An unlabelled unit (−1), of which nobody knows who is right, costs nothing.

    Args:
        logits_KNC: of all peers.
        labels_N: int64.
        how: how the target is made.
        temperature: T > 0; theirs on CIFAR is 2.
        weight: λ ≥ 0.
        shares_K: of `kdcl_shares`, for `general`.

    Returns:
        loss_KN in nats; a peer's loss has no gradient for the others.

    Raises:
        ValueError: as `kdcl_target`; a temperature not above 0.
    """
    target_NC = kdcl_target(logits_KNC, labels_N, how=how, shares_K=shares_K)
    known_N = labels_N != UNLABELLED
    losses = [
        _labels(own_NC, labels_N)
        + weight * torch.where(known_N, kl(own_NC, target_NC, temperature=temperature), 0.0)
        for own_NC in logits_KNC
    ]
    return torch.stack(losses)


@torch.no_grad()
def kdcl_target(
    logits_KNC: Tensor,
    labels_N: Tensor,
    *,
    how: KdclTarget = "minlogit",
    shares_K: Tensor | None = None,
) -> Tensor:
    """The logits that all peers learn from.

    naive: those of the peer of least cross-entropy, for each unit (the first of equal ones). minlogit: min_k
    (z_k − z_k[y]), which is 0 at the label and as small as any peer has it elsewhere. linear: Σ_k w_k z_k with the
    simplex weights of least cross-entropy, for each unit. general: the same with one set of weights for all units, from
    the peers' errors on validation (`kdcl_shares`).

    Args:
        logits_KNC: of all peers.
        labels_N: int64; an unlabelled unit gets the mean of the logits, or with `general` its mixture.
        how: see above.
        shares_K: for `general`, summing to 1.

    Returns:
        logits_NC, without gradient.

    Raises:
        ValueError: shapes that do not match; another `how`; `general` without shares.
    """
    _check(logits_KNC, labels_N)
    if how == "general":
        if shares_K is None or shares_K.shape != logits_KNC.shape[:1]:
            raise ValueError("general needs shares_K, one for each peer")
        return torch.einsum("knc,k->nc", logits_KNC, shares_K.to(logits_KNC.dtype))
    label_KN1 = labels_N.clamp(min=0).expand(len(logits_KNC), -1)[..., None]
    if how == "naive":
        best_N = kdcl_best(logits_KNC, labels_N)
        found_NC = logits_KNC[best_N, torch.arange(len(labels_N), device=labels_N.device)]
    elif how == "minlogit":
        found_NC = (logits_KNC - logits_KNC.gather(2, label_KN1)).amin(0)
    elif how == "linear":
        shares_KN = _least_cross_entropy(logits_KNC, labels_N.clamp(min=0))
        found_NC = torch.einsum("knc,kn->nc", logits_KNC, shares_KN)
    else:
        raise ValueError(f"how must be naive, minlogit, linear or general, found {how!r}")
    return torch.where((labels_N != UNLABELLED)[:, None], found_NC, logits_KNC.mean(0))


def kdcl_best(logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """The peer of least cross-entropy with each label, int64 [N]; the first of equal ones, 0 where unlabelled."""
    return torch.stack([_labels(own_NC, labels_N) for own_NC in logits_KNC]).detach().argmin(0)


def kdcl_shares(probs_KMC: Tensor, labels_M: Tensor) -> Tensor:
    """The weights of `general`: the mixture of least squared error on validation, were the errors of mean 0.

    w = C⁻¹1 / 1ᵀC⁻¹1 with C_ij = mean ⟨p_i − y, p_j − y⟩, the peers' errors against one-hot labels. Guo et al. 2020
    (KDCL), Sec. 3. A weight can be below 0. Peers that err alike make C singular: the smallest such weights are
    taken, which are equal for equal peers.

    Args:
        probs_KMC: the peers' probabilities on validation.
        labels_M: int64, all known.

    Returns:
        shares_K, summing to 1.

    Raises:
        ValueError: shapes that do not match.
    """
    _check(probs_KMC, labels_M)
    one_hot_MC = F.one_hot(labels_M, probs_KMC.shape[2])
    errors_KE = (probs_KMC.double() - one_hot_MC).flatten(1)
    covariance_KK = errors_KE @ errors_KE.T / len(labels_M)
    ones_K = torch.ones(len(probs_KMC), dtype=torch.float64, device=probs_KMC.device)
    raw_K = torch.linalg.pinv(covariance_KK, hermitian=True) @ ones_K
    return torch.where(raw_K.sum() > 0, raw_K / raw_K.sum(), ones_K / len(ones_K))


def one(
    logits_KNC: Tensor,
    gate_NK: Tensor,
    labels_N: Tensor,
    *,
    temperature: float = 3.0,
    ramp: float = 1.0,
) -> Tensor:
    """On-the-fly native ensemble: branches learn from their gated mean, which learns from the label.

    loss_n = Σ_k CE(z_kn, y_n) + CE(z̄_n, y_n) + r T² Σ_k KL(sg softmax(z̄_n/T) ‖ softmax(z_kn/T)), z̄ = Σ_k g_k z_k and
    g = softmax(ReLU(gate)). Lan et al. 2018 (ONE). r rises as exp(−5 (1 − e/80)²), a schedule of the
    caller. An unlabelled unit (−1) is learnt from the mean alone.

    Args:
        logits_KNC: of all branches.
        gate_NK: what the gate puts out.
        labels_N: int64.
        temperature: T > 0.
        ramp: r ≥ 0.

    Returns:
        loss_N in nats, with gradients for branches and gate.

    Raises:
        ValueError: shapes that do not match; a temperature not above 0.
    """
    _check(logits_KNC, labels_N)
    if gate_NK.shape != (logits_KNC.shape[1], logits_KNC.shape[0]):
        raise ValueError(
            f"the gate must be [N, K] of logits {tuple(logits_KNC.shape)}, found {tuple(gate_NK.shape)}"
        )
    mean_NC = torch.einsum("knc,nk->nc", logits_KNC, gate_NK.relu().softmax(-1))
    loss_N = _labels(mean_NC, labels_N)
    for own_NC in logits_KNC:
        pull_N = kl(own_NC, mean_NC, temperature=temperature)
        loss_N = loss_N + _labels(own_NC, labels_N) + ramp * pull_N
    return loss_N


@torch.no_grad()
def agreement_sums(logits_KNC: Tensor, counted_N: Tensor) -> Tensor:
    """How alike peers are, to be added over batches and workers: `agreement_values` has the means.

    Peers that come to say the same have nothing left to tell each other, and their ensemble is worth no more than one
    of them.

    Args:
        logits_KNC: of all peers.
        counted_N: bool; units that count.

    Returns:
        float64 [3], added over units: the share of pairs of peers with the same most probable class, the
        Jensen-Shannon divergence of all peers in nats, and 1.

    Raises:
        ValueError: fewer than two peers.
    """
    peers = len(logits_KNC)
    if peers < 2:
        raise ValueError(f"agreement is of at least two peers, found {peers}")
    class_KN = logits_KNC.argmax(-1)
    same_NK = (class_KN[:, None] == class_KN).double().sum(dim=1).T  # each peer's own vote included
    pairs_N = (same_NK.sum(1) - peers) / (peers * (peers - 1))
    equal_KN = logits_KNC.new_full(logits_KNC.shape[:2], 1 / peers)
    rows_N3 = torch.stack(
        [pairs_N, jensen_shannon(logits_KNC, equal_KN).double(), torch.ones_like(pairs_N)], dim=1
    )
    return rows_N3[counted_N].sum(dim=0)


def agreement_values(sums: Tensor) -> dict[str, float]:
    """The means that are logged of added `agreement_sums`: `agreement` and `jsd_nats`; none of no unit."""
    same, jsd, units = sums.tolist()
    return {"agreement": same / units, "jsd_nats": jsd / units} if units else {}


def _labels(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Cross-entropy [N] in nats; 0 where unlabelled."""
    return F.cross_entropy(logits_NC, labels_N, ignore_index=UNLABELLED, reduction="none")


def _check(logits_KNC: Tensor, labels_N: Tensor) -> None:
    if logits_KNC.ndim != 3 or labels_N.shape != logits_KNC.shape[1:2]:
        raise ValueError(
            f"logits must be [K, N, C] and labels [N], found {tuple(logits_KNC.shape)} and {tuple(labels_N.shape)}"
        )


def _least_cross_entropy(logits_KNC: Tensor, labels_N: Tensor) -> Tensor:
    """Simplex weights [K, N] of the mixture of logits with the least cross-entropy, which is convex in them.

    Of each unit again and again the two peers are taken of which one should most give weight to the other, and the
    best share of both is found by bisection, on the derivative along that line.
    """
    peers, units, classes = logits_KNC.shape
    shares_KN = logits_KNC.new_full((peers, units), 1 / peers)
    if peers == 1:
        return shares_KN
    own_NC = F.one_hot(labels_N, classes).to(logits_KNC.dtype)
    rows_N = torch.arange(units, device=labels_N.device)
    for _ in range(_STEPS):
        mixed_NC = torch.einsum("knc,kn->nc", logits_KNC, shares_KN)
        slope_KN = torch.einsum("knc,nc->kn", logits_KNC, mixed_NC.softmax(-1) - own_NC)
        taker_N = slope_KN.argmin(0)
        giver_N = torch.where(shares_KN > 0, slope_KN, -torch.inf).argmax(0)
        along_NC = logits_KNC[taker_N, rows_N] - logits_KNC[giver_N, rows_N]
        low_N, high_N = torch.zeros_like(shares_KN[0]), shares_KN[giver_N, rows_N]
        whole_N = high_N
        for _ in range(_halvings(logits_KNC.dtype)):
            middle_N = (low_N + high_N) / 2
            probs_NC = (mixed_NC + middle_N[:, None] * along_NC).softmax(-1)
            falls_N = ((probs_NC - own_NC) * along_NC).sum(-1) < 0
            low_N = torch.where(falls_N, middle_N, low_N)
            high_N = torch.where(falls_N, high_N, middle_N)
        end_NC = ((mixed_NC + whole_N[:, None] * along_NC).softmax(-1) - own_NC) * along_NC
        moved_N = torch.where(end_NC.sum(-1) <= 0, whole_N, (low_N + high_N) / 2)
        moved_N = torch.where(taker_N == giver_N, 0.0, moved_N)
        if not bool((moved_N > torch.finfo(moved_N.dtype).eps).any()):
            break
        shares_KN = shares_KN.index_put((taker_N, rows_N), moved_N, accumulate=True)
        shares_KN = shares_KN.index_put((giver_N, rows_N), -moved_N, accumulate=True).clamp(min=0)
    return shares_KN


def _halvings(dtype: torch.dtype) -> int:
    """After so many an interval of length 1 is as short as rounding."""
    return round(-math.log2(torch.finfo(dtype).eps))
