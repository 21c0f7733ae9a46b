"""Answers over a few of very many classes: how they are taken, tempered and spread again.

Shape suffixes: N units, V classes (a vocabulary), K classes kept. p is the teacher's distribution at temperature 1;
at T it is p^(1/T), normalised. Everything is done in log space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from raykd.errors import TargetError
from raykd.types import Dense, LearntOutputs, Output, Sparse, TopK, host_sees

_CACHED = 1 << 19
_DEVICE = 1 << 26


def label_of(temperature: float) -> str:
    """A temperature as it stands in names: nine digits, so that 0.1·3 is 0.3."""
    return f"{temperature:.9g}"


def chunks(values_NV: Tensor) -> Iterator[Tensor]:
    """A few rows at a time: on a processor so many as its cache holds, on a GPU some hundred megabytes."""
    elements = _CACHED if host_sees(values_NV) else _DEVICE
    yield from values_NV.split(max(1, elements // max(1, values_NV.shape[1])))


def others(values_NV: Tensor, ids_NK: Tensor, temperature: float) -> Tensor:
    """Log Σ exp(z/T) over the classes that are not in ids, float64 [N]; −∞ where there is none."""
    others_NV = values_NV.to(torch.float64, copy=True).scatter_(1, ids_NK, -torch.inf)
    return others_NV.div_(temperature).logsumexp(dim=1)


def within_mass(
    kept_NK: Tensor,
    ids_NK: Tensor,
    tails: Mapping[float, Tensor],
    mass: float,
    least: int = 1,
) -> tuple[Tensor, Tensor, dict[float, Tensor]]:
    """Only the smallest set of classes that has the mass; what it leaves joins the tails.

    Args:
        kept_NK: logits (up to a constant per row), falling.
        ids_NK: their classes.
        tails: temperature -> `others` of them; 1 must be among them.
        mass: 0 < mass < 1. Where K classes have less, all of them stay.
        least: so many stay in any case.

    Returns:
        Logits with −∞ as padding, ids with the row's first one there, and the new tails in float64.
    """
    wide_NK = kept_NK.double()
    total_N1 = torch.logaddexp(wide_NK.logsumexp(1), tails[1.0].double())[:, None]
    before_NK = (wide_NK - total_N1).exp().cumsum(1).roll(1, dims=1)
    before_NK[:, 0] = 0
    dropped_NK = before_NK >= mass
    dropped_NK[:, :least] = False
    lost_NK = wide_NK.masked_fill(~dropped_NK, -torch.inf)
    joined = {
        t: torch.logaddexp(tail_N.double(), (lost_NK / t).logsumexp(1))
        for t, tail_N in tails.items()
    }
    padded_NK = kept_NK.masked_fill(dropped_NK, -torch.inf)
    return padded_NK, torch.where(dropped_NK, ids_NK[:, :1], ids_NK), joined


def take(
    logits_NV: Tensor,
    size: int,
    *,
    mass: float | None = None,
    least: int = 1,
    temperatures: Sequence[float] = (),
) -> TopK:
    """The `size` likeliest classes of each unit, or of them the smallest set that has a mass.

    Args:
        logits_NV: float [N, V], known up to a constant per row (log-probabilities too); V may be any.
        size: K; at most V are taken.
        mass: None, or the probability that the classes must have together, 0 < mass < 1: then each unit
            keeps as few as have it, and K is the most that it can have.
        least: so many are kept whatever the mass.
        temperatures: at which the answer will be used, beside 1.

    Returns:
        The answer, every unit valid; in float64 if the logits are. Of K = V there is no tail, unless by mass.

    Raises:
        ValueError: a size, mass, least or temperature that is not allowed.
    """
    size = min(size, logits_NV.shape[1])
    if size < 1 or not 1 <= least <= size:
        raise ValueError(f"found size {size} and least {least}; 1 <= least <= size is allowed")
    if mass is not None and not 0 < mass < 1:
        raise ValueError(f"mass must be within (0, 1), found {mass}; take all classes for 1")
    if any(t <= 0 for t in temperatures):
        raise ValueError(f"temperatures must be above 0, found {tuple(temperatures)}")
    kept, ids, tails = [], [], []
    for part_NV in chunks(logits_NV):
        values_NV = part_NV.to(torch.promote_types(part_NV.dtype, torch.float32))
        kept_NK, ids_NK = values_NV.topk(size, dim=1)
        left = {t: others(values_NV, ids_NK, t) for t in (1.0, *temperatures)}
        if mass is not None:
            kept_NK, ids_NK, left = within_mass(kept_NK, ids_NK, left, mass, least)
        kept.append(kept_NK)
        ids.append(ids_NK)
        tails.append(left)
    whole = size == logits_NV.shape[1] and mass is None
    joined = {t: torch.cat([left[t] for left in tails]) for t in tails[0]}
    return from_logits(
        torch.cat(kept), torch.cat(ids), None if whole else joined, logits_NV.shape[1]
    )


def likeliest(answer: Output, size: int, temperatures: Sequence[float] = ()) -> TopK:
    """An answer cut to its `size` likeliest classes; what is left out joins the tail.

    Args:
        answer: over all classes, or over the few that were kept, of which there may be fewer already.
        size: K.
        temperatures: at which the cut answer will be used, beside 1; of few kept, those of their tail.
    """
    if isinstance(answer, Dense):
        cut = take(answer.values_NC, size, temperatures=temperatures)
        return replace(
            cut, valid_N=answer.valid_N, features=answer.features, offsets=answer.offsets
        )
    tail, lost_NK = answer.tail, answer.log_probs_NK[:, size:]
    if tail is not None:
        tail = {
            t: torch.logaddexp(tail_N, (lost_NK / t).logsumexp(1)) if lost_NK.shape[1] else tail_N
            for t, tail_N in tail.items()
        }
    return replace(
        answer,
        ids_NK=answer.ids_NK[:, :size],
        log_probs_NK=answer.log_probs_NK[:, :size],
        tail=tail,
    )


def from_logits(
    kept_NK: Tensor, ids_NK: Tensor, tails: Mapping[float, Tensor] | None, classes: int
) -> TopK:
    """An answer from logits that share one constant per row with their tails.

    Args:
        kept_NK: logits of the classes kept, falling; −∞ is padding.
        ids_NK: int64, these classes.
        tails: temperature -> log Σ exp(z/T) over the others [N]; 1 must be among them. None: there are none.
        classes: V.
    """
    total_N = kept_NK.double().logsumexp(1)
    normalised = None
    if tails is not None:
        total_N = torch.logaddexp(total_N, tails[1.0].double())
        normalised = {t: (tail_N - total_N / t).to(kept_NK) for t, tail_N in tails.items()}
    return TopK(
        classes=classes,
        ids_NK=ids_NK,
        log_probs_NK=(kept_NK - total_N[:, None]).to(kept_NK),
        tail=normalised,
        valid_N=torch.ones(len(ids_NK), dtype=torch.bool, device=ids_NK.device),
    )


def from_log_probs(log_probs_NK: Tensor, ids_NK: Tensor, classes: int) -> TopK:
    """An answer from log-probabilities alone, as engines give them: usable at temperature 1.

    What the others amount to is one minus the sum, so that it has no more digits than the log-probabilities
    have; a sum above 1, which rounding can make, counts as 1.

    Args:
        log_probs_NK: float [N, K], −∞ is padding.
        ids_NK: int64 [N, K].
        classes: V.
    """
    wide_NK = log_probs_NK.double()
    rest_N = (1 - wide_NK.exp().sum(1)).clamp(min=torch.finfo(torch.float32).tiny)
    tail = None if ids_NK.shape[1] == classes else {1.0: rest_N.log().to(log_probs_NK.dtype)}
    return TopK(
        classes=classes,
        ids_NK=ids_NK,
        log_probs_NK=log_probs_NK,
        tail=tail,
        valid_N=torch.ones(len(ids_NK), dtype=torch.bool, device=ids_NK.device),
    )


def renumbered(answer: TopK, place_E: Tensor, classes: int) -> TopK:
    """The same answer over fewer classes, which have other numbers; what it says of the others joins its rest.

    Of a unit none of whose classes is left, class 0 is kept with an even share of the rest, as all classes are read
    that are not among the few.

    Args:
        answer: over E classes.
        place_E: int64, the number of each of them among the new ones, −1 of one that is none of them.
        classes: V, how many new ones there are.

    Returns:
        An answer with a tail, the likeliest class first.
    """
    real_NK = answer.log_probs_NK > -torch.inf
    new_NK = place_E.to(answer.ids_NK.device)[answer.ids_NK]
    left_NK = real_NK & (new_NK >= 0)
    lost_NK = answer.log_probs_NK.double().masked_fill(~real_NK | left_NK, -torch.inf)
    tail = answer.tail or {1.0: torch.full_like(answer.log_probs_NK[:, 0], -torch.inf)}
    tails = {
        t: torch.logaddexp(tail_N.double(), (lost_NK / t).logsumexp(1))
        for t, tail_N in tail.items()
    }
    # In a stable order those that are left come first, the likeliest of them in front.
    order_NK = left_NK.int().argsort(dim=1, descending=True, stable=True)
    left_NK, new_NK = left_NK.gather(1, order_NK), new_NK.gather(1, order_NK)
    log_probs_NK = answer.log_probs_NK.gather(1, order_NK).masked_fill(~left_NK, -torch.inf)
    bare_N = ~left_NK[:, 0]
    log_probs_NK[:, 0] = torch.where(
        bare_N, (tails[1.0] - math.log(classes)).to(log_probs_NK), log_probs_NK[:, 0]
    )
    rest = math.log1p(-1 / classes) * bare_N
    first_N1 = torch.where(bare_N, 0, new_NK[:, 0])[:, None]
    return replace(
        answer,
        classes=classes,
        ids_NK=torch.where(left_NK, new_NK, first_N1),
        log_probs_NK=log_probs_NK,
        tail={t: (tail_N + rest).to(log_probs_NK.dtype) for t, tail_N in tails.items()},
    )


def log_tail(answer: TopK, temperature: float) -> Tensor | None:
    """Log Σ p^(1/T) over the classes that are not kept, [N]; None where they have no probability.

    Raises:
        TargetError: nothing is kept for this temperature.
    """
    if answer.tail is None:
        return None
    kept = {label_of(t): tail_N for t, tail_N in answer.tail.items()}
    if label_of(temperature) not in kept:
        raise unknown_temperature(kept, temperature)
    return kept[label_of(temperature)]


def unknown_temperature(
    kept: Sequence[str] | Mapping[str, object], temperature: float
) -> TargetError:
    """The error of an answer whose tail is not known at a temperature."""
    return TargetError(
        f"top-k targets can be read at temperature {', '.join(kept)}, not at {label_of(temperature)}; list it "
        "under targets.temperatures, or raise targets.full_up_to to keep all classes"
    )


def log_sum_exp(answer: TopK, temperature: float = 1.0) -> Tensor:
    """Log Σ p^(1/T) over all classes, [N]; 0 at temperature 1.

    Raises:
        TargetError: nothing is kept for this temperature.
    """
    kept_N = (answer.log_probs_NK / temperature).logsumexp(1)
    tail_N = log_tail(answer, temperature)
    return kept_N if tail_N is None else torch.logaddexp(kept_N, tail_N)


def tempered(answer: TopK, temperature: float = 1.0) -> Sparse:
    """The teacher's distribution at a temperature.

    Raises:
        TargetError: nothing is kept for this temperature.
    """
    total_N = log_sum_exp(answer, temperature)
    tail_N = log_tail(answer, temperature)
    return Sparse(
        classes=answer.classes,
        ids_NK=answer.ids_NK,
        log_probs_NK=answer.log_probs_NK / temperature - total_N[:, None],
        log_tail_N=None if tail_N is None else tail_N - total_N,
    )


def without_tail(answer: TopK) -> TopK:
    """The same answer with the classes kept renormalised and all others at 0: what is lost is not told.

    It is the biased target of most public code; kept to be compared with.
    """
    total_N1 = answer.log_probs_NK.logsumexp(1, keepdim=True)
    return replace(answer, log_probs_NK=answer.log_probs_NK - total_N1, tail=None)


def even_share(values: Sparse) -> Tensor:
    """Log of the probability of one class that is not among the few, [N]: the rest, spread evenly.

    No larger than that of the least likely class that is; −∞ where there is no rest.
    """
    if values.log_tail_N is None:
        return torch.full_like(values.log_probs_NK[:, 0], -torch.inf)
    real_NK = values.log_probs_NK > -torch.inf
    left_N = (values.classes - real_NK.sum(1)).to(values.log_tail_N)
    smallest_N = values.log_probs_NK.masked_fill(~real_NK, torch.inf).amin(1)
    return torch.minimum(values.log_tail_N - left_N.clamp(min=1).log(), smallest_N)


def dense(values: Sparse) -> Tensor:
    """Log-probabilities of all classes, [N, V]: the few as they are, the rest spread evenly over the others."""
    real_NK = values.log_probs_NK > -torch.inf
    filled_NK = torch.where(real_NK, values.log_probs_NK, values.log_probs_NK[:, :1])
    spread_NV = even_share(values)[:, None].expand(len(filled_NK), values.classes).clone()
    return spread_NV.scatter_(1, values.ids_NK, filled_NK)


def dense_answers(answers: LearntOutputs) -> dict[str, Dense]:
    """Teachers' answers over all classes; of those that kept few the rest is spread evenly."""
    return {
        name: answer
        if isinstance(answer, Dense)
        else Dense(
            kind="logits",
            values_NC=dense(tempered(answer)),
            valid_N=answer.valid_N,
            features=answer.features,
            offsets=answer.offsets,
        )
        for name, answer in answers.items()
    }


def log_prob_of(values: Sparse, classes_N: Tensor) -> Tensor:
    """Log of the probability of one class of each unit, [N]; of one that is not among the few the even share.

    Args:
        values: the distributions.
        classes_N: int64 [N], from 0 to V − 1.
    """
    found_NK = values.ids_NK == classes_N[:, None]
    found_N = values.log_probs_NK.masked_fill(~found_NK, -torch.inf).amax(1)
    return torch.where(found_NK.any(1), found_N, even_share(values))
