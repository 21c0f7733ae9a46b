"""Answers over a few of very many classes: how they are taken, tempered, drawn and spread again.

Shape suffixes: N units, V classes (a vocabulary), K classes kept. p is the teacher's distribution at temperature 1;
at T it is p^(1/T), normalised. Everything is done in log space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raykd.errors import TargetError
from raykd.types import Dense, LearntOutputs, Output, Sampled, Sparse, TopK, host_sees

_CACHED = 1 << 19
_DEVICE = 1 << 26
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_DOUBLE_BITS = 53


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


def draw(
    logits_NV: Tensor,
    draws: int,
    *,
    seed: int,
    units_N: np.ndarray | None = None,
    temperature: float = 1.0,
    flatness: float = 1.0,
) -> Sampled:
    """Classes drawn from the teacher's distribution, with the estimate of their probabilities.

    The draws of a unit depend on the seed and on its number alone, not on its neighbours.

    Args:
        logits_NV: float [N, V], known up to a constant per row.
        draws: n, how many of each unit, with replacement.
        seed: kept with the answer; another one gives other draws (another view, say).
        units_N: uint64 or int64 [N], a number of each unit, for instance of sample and position; None means 0, 1, ….
        temperature: T of the probabilities that are estimated.
        flatness: τ; drawn is from r ∝ p^τ. At 1 the weights of a unit sum to 1; below 1 rare classes are drawn more
            often, and the weights sum to 1 only in the mean.

    Raises:
        ValueError: numbers of draws, flatness or temperature that are not above 0.
    """
    if draws < 1 or temperature <= 0 or flatness <= 0:
        raise ValueError(
            f"draws, temperature and flatness must be above 0, found {draws}, {temperature} and {flatness}"
        )
    numbers_N = np.arange(len(logits_NV)) if units_N is None else units_N
    uniforms = torch.from_numpy(_uniforms(seed, numbers_N, draws)).to(logits_NV.device)
    ids, weights, start = [], [], 0
    for part_NV in chunks(logits_NV):
        log_p_NV = (part_NV.double() / temperature).log_softmax(1)
        r_NV = (log_p_NV * flatness).softmax(1)
        cumulated_NV = r_NV.cumsum(1)
        points_NK = uniforms[start : start + len(part_NV)] * cumulated_NV[:, -1:]
        drawn_NK = torch.searchsorted(cumulated_NV, points_NK, right=True)
        drawn_NK = drawn_NK.clamp_(max=part_NV.shape[1] - 1).sort(1).values
        each_NK = log_p_NV.gather(1, drawn_NK).exp() / (r_NV.gather(1, drawn_NK) * draws)
        weights.append(_gathered_on_first(each_NK, drawn_NK))
        ids.append(drawn_NK)
        start += len(part_NV)
    return Sampled(
        classes=logits_NV.shape[1],
        ids_NK=torch.cat(ids),
        weights_NK=torch.cat(weights).to(torch.promote_types(logits_NV.dtype, torch.float32)),
        temperature=temperature,
        seed=seed,
        valid_N=torch.ones(len(logits_NV), dtype=torch.bool, device=logits_NV.device),
    )


def counted(drawn_NK: Tensor, classes: int) -> TopK:
    """Draws at temperature 1 as an answer: each class has its share of the draws, all others nothing.

    Unlike those of the likeliest classes these probabilities are right in the mean (Anshumann et al. 2025), and so is all
    that is linear in them.

    Args:
        drawn_NK: int64 [N, n], rising; a class that was drawn again stands there again.
        classes: V.

    Returns:
        An answer without a tail, the class drawn most often first; K is the most classes that a unit has.
    """
    ones_NK = torch.ones(drawn_NK.shape, dtype=torch.float64, device=drawn_NK.device)
    counts_NK = _gathered_on_first(ones_NK, drawn_NK)
    counts_NK, order_NK = counts_NK.sort(dim=1, descending=True, stable=True)
    ids_NK = drawn_NK.gather(1, order_NK)
    ids_NK = torch.where(counts_NK > 0, ids_NK, ids_NK[:, :1])
    width = max(1, int((counts_NK > 0).sum(1).max())) if len(counts_NK) else 1
    return TopK(
        classes=classes,
        ids_NK=ids_NK[:, :width],
        log_probs_NK=(counts_NK[:, :width] / drawn_NK.shape[1]).log().float(),
        tail=None,
        valid_N=torch.ones(len(drawn_NK), dtype=torch.bool, device=drawn_NK.device),
    )


def _gathered_on_first(weights_NK: Tensor, ids_NK: Tensor) -> Tensor:
    """Weights of equal neighbours in a sorted row, added up on the first of them; 0 on the others."""
    again_NK = torch.zeros_like(ids_NK, dtype=torch.bool)
    again_NK[:, 1:] = ids_NK[:, 1:] == ids_NK[:, :-1]
    group_NK = (~again_NK).cumsum(1) - 1
    sums_NK = torch.zeros_like(weights_NK).scatter_add_(1, group_NK, weights_NK)
    return sums_NK.gather(1, group_NK).masked_fill(again_NK, 0.0)


def _uniforms(seed: int, numbers_N: np.ndarray, draws: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [N, draws], each a hash of seed, unit and draw (SplitMix64, Steele et al. 2014)."""
    step, first, second = (np.uint64(value) for value in _MIX)

    def mixed(state: np.ndarray) -> np.ndarray:
        state = (state ^ (state >> np.uint64(30))) * first
        state = (state ^ (state >> np.uint64(27))) * second
        last: np.ndarray = state ^ (state >> np.uint64(31))
        return last

    start = mixed(np.array([seed % 2**64], np.uint64) + step)
    unit_N1 = mixed(start + step * (numbers_N.astype(np.uint64)[:, None] + np.uint64(1)))
    drawn = mixed(unit_N1 + step * (np.arange(draws, dtype=np.uint64)[None] + np.uint64(1)))
    high = (drawn >> np.uint64(64 - _DOUBLE_BITS)).astype(np.float64)
    uniforms: np.ndarray = np.ldexp(high, -_DOUBLE_BITS)
    return uniforms
