"""From several teachers' answers over a few classes, and their weights, to one distribution.

Shape suffixes: N units, T teachers, V classes, K classes kept, U of their union.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raykd.top_k import even_share
from raykd.types import Sparse, host_sees


def mixture(values: Sequence[Sparse], weights_TN: Tensor) -> Sparse:
    """The weighted mean of the teachers' probabilities, over the union of the classes that they kept.

    For a class that a teacher left out, its rest spread evenly counts: what is mixed is exactly what
    `raykd.top_k.dense` makes of each, so that at K = V it is the mean of the probabilities, and for one teacher its
    own distribution. What the teachers leave to classes that none of them kept is the tail of the mixture.

    Args:
        values: of each teacher, at one temperature (or each at its own), of the same V.
        weights_TN: float [T, N], summing to 1 over teachers; answers of a teacher with weight 0 are ignored,
            whatever they hold.

    Returns:
        The distribution, the likeliest class first; K is the sum of the teachers' K, and on a processor only as
        many as the unit with most classes has. A unit without any weight gets a uniform one.

    Raises:
        ValueError: no teacher, or shapes that do not match.
    """
    shapes = {(len(one.ids_NK), one.classes) for one in values}
    if len(shapes) != 1 or tuple(weights_TN.shape) != (len(values), len(values[0].ids_NK)):
        raise ValueError(
            f"found teachers of (units, classes) {sorted(shapes)} and weights {tuple(weights_TN.shape)}; all need the "
            "same, and weights [T, N]"
        )
    classes = values[0].classes
    nobody_N1 = (weights_TN.sum(0) == 0)[:, None]
    wide = [_weighted(one, weights_N) for one, weights_N in zip(values, weights_TN, strict=True)]
    ids_NU = torch.cat([one.ids_NK for one in values], dim=1)
    ids_NU, order_NU = ids_NU.sort(dim=1)
    first_NU = torch.ones_like(ids_NU, dtype=torch.bool)
    first_NU[:, 1:] = ids_NU[:, 1:] != ids_NU[:, :-1]
    group_NU = first_NU.cumsum(1) - 1

    def per_class(parts: Sequence[Tensor]) -> Tensor:
        sorted_NU = torch.cat(list(parts), dim=1).gather(1, order_NU)
        return torch.zeros_like(sorted_NU).scatter_add_(1, group_NU, sorted_NU)

    kept_NU = per_class([kept for kept, _, _ in wide])
    spoken_NU = per_class([share for _, share, _ in wide])
    shares_N1 = torch.stack([even for _, _, even in wide]).sum(0)[:, None]
    union_NU = torch.zeros_like(ids_NU).scatter_(1, group_NU, ids_NU)
    count_N1 = first_NU.sum(1, keepdim=True)
    real_NU = torch.arange(ids_NU.shape[1], device=ids_NU.device) < count_N1
    mixed_NU = (kept_NU + (shares_N1 - spoken_NU).clamp(min=0)).masked_fill(~real_NU, 0.0)
    mixed_NU = torch.where(nobody_N1, real_NU.to(mixed_NU) / classes, mixed_NU)
    shares_N1 = shares_N1.masked_fill(nobody_N1, 1 / classes)
    mixed_NU, by_size = mixed_NU.sort(dim=1, descending=True, stable=True)
    by_size = torch.where(mixed_NU > 0, by_size, by_size[:, :1])  # padding repeats the first class
    union_NU = union_NU.gather(1, by_size)
    rest_N = (shares_N1 * (classes - count_N1)).squeeze(1)
    width = min(ids_NU.shape[1], classes)
    if host_sees(count_N1) and len(count_N1):
        width = int(count_N1.max())
    dtype = values[0].log_probs_NK.dtype
    no_tail = all(one.log_tail_N is None for one in values)
    return Sparse(
        classes=classes,
        ids_NK=union_NU[:, :width],
        log_probs_NK=mixed_NU[:, :width].log().to(dtype),
        log_tail_N=None if no_tail else rest_N.log().to(dtype),
    )


def _weighted(one: Sparse, weights_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one teacher, times its weight: the kept probabilities [N, K], the even share at their places, and it [N]."""
    weights_N1 = weights_N.double()[:, None]
    silent_N1 = weights_N1 == 0
    real_NK = (one.log_probs_NK > -torch.inf) & ~silent_N1
    share_N1 = (even_share(one).double().exp()[:, None] * weights_N1).masked_fill(silent_N1, 0.0)
    kept_NK = one.log_probs_NK.double().exp().mul(weights_N1).masked_fill(~real_NK, 0.0)
    return kept_NK, share_N1 * real_NK, share_N1.squeeze(1)
