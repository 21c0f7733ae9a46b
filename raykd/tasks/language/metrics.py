"""How well texts are predicted; answers are log-probabilities of every token, in nats.

Shapes: N units, V vocabulary, M chunks, D domains; labels are int64 [N, 4], see `raykd.data.chunks`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.data.chunking import MOST_DOMAINS
from raykd.data.chunks import BYTES, CHUNK, DOMAIN, TOKEN
from raykd.ensemble import mean_probabilities
from raykd.evaluate.closeness import SMALLEST_GAP, fidelity
from raykd.evaluate.likelihood import BITS_PER_BYTE, SUMS, likelihood_metrics, likelihood_sums
from raykd.evaluate.task import TaskMetrics, mean_by
from raykd.types import is_labelled


def _known(log_probs_NV: Tensor, labels_N4: Tensor) -> tuple[Tensor, Tensor]:
    known_N = is_labelled(labels_N4)
    return log_probs_NV[known_N], labels_N4[known_N]


def _sums(log_probs_NV: Tensor, labels_N4: Tensor) -> Tensor:
    log_probs, labels = _known(log_probs_NV, labels_N4)
    token_N = labels[:, TOKEN]
    return likelihood_sums(
        log_probs.gather(1, token_N[:, None])[:, 0],
        log_probs.argmax(dim=1) == token_N,
        labels[:, BYTES],
        labels[:, DOMAIN],
        domains=MOST_DOMAINS,
    )


def _total(sums: Tensor) -> dict[str, float]:
    sums_D4 = sums.view(MOST_DOMAINS, len(SUMS))
    there = (sums_D4[:, SUMS.index("bytes")] > 0).nonzero()[:, 0]
    last = int(there.max()) + 1 if len(there) else 1
    return likelihood_metrics(sums_D4[:last])


def language_metrics(log_probs_NV: Tensor, labels_N4: Tensor) -> dict[str, float]:
    """Every number of one model on one split, see `raykd.evaluate.likelihood`; also `nll`, in nats per token.

    Args:
        log_probs_NV: log-probabilities of every token.
        labels_N4: the units' labels.

    Raises:
        ValueError: shapes differ, or no unit has a byte.
    """
    if labels_N4.ndim != 2 or len(labels_N4) != len(log_probs_NV):
        raise ValueError(
            f"log-probabilities {list(log_probs_NV.shape)} need labels [N, 4], found {list(labels_N4.shape)}"
        )
    sums = _sums(log_probs_NV, labels_N4)
    nats, _, tokens, _ = sums.sum(0).tolist()
    return {**_total(sums), "nll": nats / tokens}


def _tally(logits_NV: Tensor, labels_N4: Tensor) -> Tensor:
    return _sums(F.log_softmax(logits_NV.double(), dim=1), labels_N4).flatten()


def chunk_scores(log_probs_NV: Tensor, labels_N4: Tensor) -> Tensor:
    """A number for each chunk, float64 [M], whose mean is the negated mean of the domains' bits per byte.

    A chunk's tokens are predicted from each other and are no independent samples; chunks are drawn as a whole.
    """
    log_probs, labels = _known(log_probs_NV, labels_N4)
    bits_N = log_probs.gather(1, labels[:, :1])[:, 0].double() / math.log(2.0)
    _, domain_N = labels[:, DOMAIN].unique(return_inverse=True)
    bytes_D = torch.zeros(int(domain_N.max()) + 1, dtype=torch.float64)
    bytes_D.index_add_(0, domain_N, labels[:, BYTES].double())
    counted = int((bytes_D > 0).sum())
    share_N = torch.where(bytes_D > 0, 1 / (counted * bytes_D.clamp(min=1)), 0.0)[domain_N]
    chunks, chunk_N = labels[:, CHUNK].unique(return_inverse=True)
    scores_M = torch.zeros(len(chunks), dtype=torch.float64)
    return scores_M.index_add_(0, chunk_N, bits_N * share_N) * len(chunks)


def _difference(one_NV: Tensor, other_NV: Tensor) -> Tensor:
    (one_sure, one_top), (other_sure, other_top) = one_NV.max(dim=1), other_NV.max(dim=1)
    return torch.where(one_top != other_top, one_sure + other_sure, -torch.inf)


METRICS = TaskMetrics(
    kind="logits",
    metric=BITS_PER_BYTE,
    ties="nll",
    lower_is_better=frozenset({BITS_PER_BYTE, "nll", "perplexity"}),
    answer=lambda logits_NV: F.log_softmax(logits_NV, dim=1),
    ensemble=mean_by(mean_probabilities),
    numbers=language_metrics,
    tally=_tally,
    tallied=MOST_DOMAINS * len(SUMS),
    total=lambda sums: {
        **_total(sums),
        "nll": float(sums.view(-1, len(SUMS))[:, 0].sum() / sums.view(-1, len(SUMS))[:, 2].sum()),
    },
    scores=chunk_scores,
    from_scores=None,
    comparable=lambda logits_NV: logits_NV.softmax(dim=1),
    fidelity=fidelity,
    difference=_difference,
    error=lambda numbers: numbers["nll"],
    smallest_gap=lambda _: SMALLEST_GAP,
    calibrate=None,
    right_or_wrong=False,
)
