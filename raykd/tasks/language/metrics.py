"""How well texts are predicted; answers are log-probabilities of every token, in nats, of which columns are kept.

Shapes: N units, V vocabulary, A columns, T teachers, M chunks, D domains; labels are int64 [N, 4], see `raykd.data.chunks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.config.roles import Expect
from raykd.data.chunking import MOST_DOMAINS
from raykd.data.chunks import BYTES, CHUNK, DOMAIN, TOKEN
from raykd.ensemble import mean_probabilities
from raykd.errors import TeacherError
from raykd.evaluate.closeness import SMALLEST_GAP
from raykd.evaluate.likelihood import BITS_PER_BYTE, SUMS, likelihood_metrics, likelihood_sums
from raykd.evaluate.task import Columns, TaskMetrics, mean_by
from raykd.types import is_labelled

LOG_P, TOP, TOP_LOG_P = range(3)
"""Columns of a token: log p of the token itself, the id of the likeliest one, log p of that."""
KL = 3
"""Columns of a student from here on: KL(ensemble ‖ student) in nats, then KL(teacher ‖ student) of each teacher."""
_DOUBLES = 1 << 22
"""Numbers of one model that are compared at a time."""


def columns_of(log_probs_NV: Tensor, labels_N4: Tensor) -> Tensor:
    """What is kept of a model's answers [N, 3]: `LOG_P`, `TOP` and `TOP_LOG_P`.

    Ids are exact in float32 up to 16.7 million tokens.
    """
    token_N, top_N = labels_N4[:, TOKEN].clamp(min=0), log_probs_NV.argmax(dim=1)
    own_N2 = log_probs_NV.gather(1, torch.stack([token_N, top_N], dim=1))
    return torch.stack([own_N2[:, 0], top_N.to(log_probs_NV.dtype), own_N2[:, 1]], dim=1)


def divergences(student_NV: Tensor, ensemble_NV: Tensor, teachers: Sequence[Tensor]) -> Tensor:
    """KL(p ‖ student) of each token in nats [N, 1 + T], p the ensemble and each teacher; all are log-probabilities."""
    rows = max(1, _DOUBLES // student_NV.shape[1])
    parts = []
    for start in range(0, len(student_NV), rows):
        part = slice(start, start + rows)
        log_q = student_NV[part].double()
        kl = [_kl(one[part].double(), log_q) for one in (ensemble_NV, *teachers)]
        parts.append(torch.stack(kl, dim=1).to(student_NV.dtype))
    return torch.cat(parts) if parts else student_NV.new_zeros(0, 1 + len(teachers))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """A token of probability 0 in p adds nothing."""
    return torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(dim=1)


def _together(several: Sequence[Tensor]) -> Tensor:
    """Columns of the teachers' mean: p of the token is that of its teachers; the likeliest token does not follow."""
    log_p_N = torch.stack([one[:, LOG_P] for one in several]).logsumexp(0) - math.log(len(several))
    unknown_N = torch.full_like(log_p_N, math.nan)
    return torch.stack([log_p_N, unknown_N, unknown_N], dim=1)


def fidelity(
    student_NA: Tensor, ensemble_NA: Tensor, teachers: Mapping[str, Tensor]
) -> dict[str, Any]:
    """As `raykd.evaluate.closeness.fidelity`, of columns; also `kl_nats`, of each teacher.

    What needs divergences is left out where the student's columns have none.
    """
    top_N = student_NA[:, TOP]
    found: dict[str, Any] = {
        "agreement_ensemble": float((top_N == ensemble_NA[:, TOP]).double().mean()),
        "agreement": {
            name: float((top_N == one[:, TOP]).double().mean()) for name, one in teachers.items()
        },
    }
    if student_NA.shape[1] > KL:
        whole, *each = student_NA[:, KL:].double().mean(dim=0).tolist()
        found |= {"kl_ensemble_nats": whole, "kl_nats": dict(zip(teachers, each, strict=True))}
    return found


def _sums(columns_NA: Tensor, labels_N4: Tensor) -> Tensor:
    known_N = is_labelled(labels_N4)
    columns, labels = columns_NA[known_N], labels_N4[known_N]
    return likelihood_sums(
        columns[:, LOG_P],
        columns[:, TOP] == labels[:, TOKEN],
        labels[:, BYTES],
        labels[:, DOMAIN],
        domains=MOST_DOMAINS,
    )


def _total(sums: Tensor) -> dict[str, float]:
    sums_D4 = sums.view(MOST_DOMAINS, len(SUMS))
    there = (sums_D4[:, SUMS.index("bytes")] > 0).nonzero()[:, 0]
    last = int(there.max()) + 1 if len(there) else 1
    return likelihood_metrics(sums_D4[:last])


def language_metrics(columns_NA: Tensor, labels_N4: Tensor) -> dict[str, float]:
    """Every number of one model on one split, see `raykd.evaluate.likelihood`; also `nll`, in nats per token.

    Args:
        columns_NA: see `columns_of`.
        labels_N4: the units' labels.

    Raises:
        ValueError: shapes differ, or no unit has a byte.
    """
    if labels_N4.ndim != 2 or len(labels_N4) != len(columns_NA):
        raise ValueError(
            f"columns {list(columns_NA.shape)} need labels [N, 4], found {list(labels_N4.shape)}"
        )
    sums = _sums(columns_NA, labels_N4)
    nats, _, tokens, _ = sums.sum(0).tolist()
    return {**_total(sums), "nll": nats / tokens}


def _tally(logits_NV: Tensor, labels_N4: Tensor) -> Tensor:
    rows = max(1, _DOUBLES // logits_NV.shape[1])
    parts = zip(logits_NV.split(rows), labels_N4.split(rows), strict=True)
    columns = [columns_of(F.log_softmax(one.double(), dim=1), labels) for one, labels in parts]
    return _sums(torch.cat(columns), labels_N4).flatten()


def chunk_scores(columns_NA: Tensor, labels_N4: Tensor) -> Tensor:
    """A number for each chunk, float64 [M], whose mean is the negated mean of the domains' bits per byte.

    A chunk's tokens are predicted from each other and are no independent samples; chunks are drawn as a whole.
    """
    known_N = is_labelled(labels_N4)
    labels = labels_N4[known_N]
    bits_N = columns_NA[known_N, LOG_P].double() / math.log(2.0)
    _, domain_N = labels[:, DOMAIN].unique(return_inverse=True)
    bytes_D = torch.zeros(int(domain_N.max()) + 1, dtype=torch.float64)
    bytes_D.index_add_(0, domain_N, labels[:, BYTES].double())
    counted = int((bytes_D > 0).sum())
    share_N = torch.where(bytes_D > 0, 1 / (counted * bytes_D.clamp(min=1)), 0.0)[domain_N]
    chunks, chunk_N = labels[:, CHUNK].unique(return_inverse=True)
    scores_M = torch.zeros(len(chunks), dtype=torch.float64)
    return scores_M.index_add_(0, chunk_N, bits_N * share_N) * len(chunks)


def _difference(one_NA: Tensor, other_NA: Tensor) -> Tensor:
    sure_N = one_NA[:, TOP_LOG_P] + other_NA[:, TOP_LOG_P]
    return torch.where(one_NA[:, TOP] != other_NA[:, TOP], sure_N, -torch.inf)


def check_columns(
    name: str, columns_NA: Tensor, labels_N4: Tensor, expect: Expect, vocabulary: int
) -> float:
    """The bits per byte on validation, mean over the domains, held against `expect` and against equal probabilities.

    Args:
        name: the teacher's name.
        columns_NA: see `columns_of`.
        labels_N4: the units' labels.
        expect: what it has to reach.
        vocabulary: V.

    Raises:
        TeacherError: worse than expected, or no better than equal probabilities.
    """
    numbers = language_metrics(columns_NA, labels_N4)
    bits, tokens = numbers["bits_per_byte"], len(labels_N4)
    found = f"teacher {name!r} needs {bits:.3f} bits per byte of {tokens:,} validation tokens"
    if expect.bits_per_byte is not None:
        if bits > expect.bits_per_byte:
            raise TeacherError(
                f"{found}, more than teachers.{name}.expect.bits_per_byte={expect.bits_per_byte:g}; check its text "
                "and weights, or raise the expectation"
            )
        return bits
    size = float(labels_N4[:, BYTES].sum()) / tokens
    chance = math.log2(vocabulary) / size
    if numbers["nll"] >= math.log(vocabulary):
        raise TeacherError(
            f"{found}, no better than equal probabilities ({chance:.3f}); check its weights and that its tokens are "
            f"those of the data, or set teachers.{name}.expect.bits_per_byte={math.ceil(bits)} to use it all the same"
        )
    return bits


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
    columns=Columns(
        count=KL, alone=columns_of, beside=divergences, together=_together, check=check_columns
    ),
)
