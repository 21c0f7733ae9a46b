"""How well texts are predicted: bits per byte, token accuracy, perplexity.

Everything is found from four sums for each domain, which batches and workers add up in any order.

Shapes: N units (predicted tokens), D domains. Log-probabilities are natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SUMS = ("nats", "bytes", "tokens", "hits")
"""Columns of the sums: −Σ log p(y) and Σ bytes(y) over the units, their number, how often the likeliest token was y."""
BITS_PER_BYTE = "bits_per_byte"


def likelihood_sums(
    log_probability_N: Tensor,
    hit_N: Tensor,
    bytes_N: Tensor,
    domain_N: Tensor | None = None,
    *,
    domains: int = 1,
) -> Tensor:
    """The sums of some units.

    Args:
        log_probability_N: of each unit's own token.
        hit_N: bool, whether the likeliest token was it.
        bytes_N: int, bytes that the token stands for; 0 for one that stands for none.
        domain_N: int64 in [0, D); None = all of one domain.
        domains: D.

    Returns:
        float64 [D, 4], see `SUMS`.

    Raises:
        ValueError: shapes differ.
    """
    given = {"hits": hit_N, "bytes": bytes_N, "domains": domain_N}
    for name, values in given.items():
        if values is not None and values.shape != log_probability_N.shape:
            raise ValueError(
                f"{name} have shape {list(values.shape)}, units {list(log_probability_N.shape)}"
            )
    logs_N = log_probability_N.double()
    columns_N4 = torch.stack(
        [-logs_N, bytes_N.double(), torch.ones_like(logs_N), hit_N.double()], 1
    )
    if domain_N is None:
        domain_N = torch.zeros(len(logs_N), dtype=torch.int64, device=logs_N.device)
    return columns_N4.new_zeros(domains, len(SUMS)).index_add_(0, domain_N, columns_N4)


def likelihood_metrics(sums_D4: Tensor, domains: Sequence[str] = ()) -> dict[str, float]:
    """Every number of one model on one split.

    Args:
        sums_D4: see `likelihood_sums`.
        domains: their names; of one that has no byte there is no number.

    Returns:
        `bits_per_byte`: −Σ log2 p(y) / Σ bytes(y), the plain mean over the domains, so that a small one counts as much
        as a large one, and `bits_per_byte.<domain>` of each where there are several. It can be compared between
        tokenizers, as long as they leave out the same bytes. `token_accuracy` in [0, 1] and `perplexity`,
        exp(−Σ log p(y) / N), over all units; these two only within one tokenizer.

    Raises:
        ValueError: there is no unit with a byte, or another number of names than of domains.
    """
    sums = sums_D4.double().cpu()
    names = list(domains) or [str(index) for index in range(len(sums))]
    if len(names) != len(sums):
        raise ValueError(f"found {len(names)} names of {len(sums)} domains")
    bits = {
        name: float(nats / (count * math.log(2.0)))
        for name, (nats, count, _, _) in zip(names, sums.tolist(), strict=True)
        if count > 0
    }
    if not bits:
        raise ValueError("no unit with a byte: there is nothing to measure")
    nats, _, tokens, hits = sums.sum(0).tolist()
    several = {f"{BITS_PER_BYTE}.{name}": value for name, value in bits.items()}
    return {
        BITS_PER_BYTE: sum(bits.values()) / len(bits),
        **(several if len(sums) > 1 else {}),
        "token_accuracy": hits / tokens,
        "perplexity": math.exp(min(nats / tokens, math.log(torch.finfo(torch.float64).max))),
    }
