"""What replicas can show: spreads, paired gains with intervals, corrected p-values.

Shapes: R replicas, N samples, S resamples. Pairs share replica, views and test samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
LEVEL = 0.95
Redrawn = Callable[[NDArray[np.int64]], Floats]
"""How often each sample is drawn [S, N] -> the metric of each replica on each draw, more being better [S, R]."""
_MOST_REDRAWN = 200
_CHUNK = 1 << 22  # cells of a resampled [S, N] block held at once: 16 MB of int32, 32 MB of float64


def _special() -> Any:
    """scipy.special: processes that train need none of it, and scipy.stats would take half a second to import."""
    from scipy import special

    return special


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """A number over replicas: `{"mean", "std", "n", "values"}` in replica order.

    The standard deviation has n − 1 in its denominator and is None for a single replica. A value that
    is None, NaN or infinite is undefined: it stands as None, and so do mean and std.
    """
    numbers = [
        float(value) if value is not None and math.isfinite(value) else None for value in values
    ]
    known = [number for number in numbers if number is not None]
    complete = len(known) == len(numbers) > 0
    return {
        "mean": float(np.mean(known)) if complete else None,
        "std": float(np.std(known, ddof=1)) if complete and len(known) > 1 else None,
        "n": len(numbers),
        "values": numbers,
    }


def paired_gain(  # noqa: PLR0913 (each by its name)
    treatment_R: ArrayLike,
    control_R: ArrayLike,
    treatment_correct_RN: ArrayLike,
    control_correct_RN: ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
    from_scores: Callable[[Floats], Floats] | None = None,
    fixed_control: bool = False,
    redrawn: tuple[Redrawn, Redrawn] | None = None,
) -> dict[str, Any]:
    """How much better the treatment is than its control, replica by replica.

    Args:
        treatment_R: the metric of each replica [R], more being better.
        control_R: that of the control's replicas, in the same order [R].
        treatment_correct_RN: whether each test sample was right, or another score of it [R, N].
        control_correct_RN: the same for the control [R, N].
        seed: of the bootstrap.
        resamples: bootstrap resamples.
        from_scores: makes the metric of a mean score, element by element; None where the metric is the
            mean.
        fixed_control: the control is one model, repeated: then even one replica has a bootstrap interval, over
            test samples.
        redrawn: of treatment and control, the metric of drawn samples where it is no function of a mean score; the
            bootstrap then has 200 resamples at most.

    Returns:
        `mean` and `values` of the differences, `n`, `ci95` (t interval over replicas) and
        `ci95_bootstrap` (percentiles over replicas × test samples, both drawn with replacement and in
        pairs). With a single replica they are None: one pair says nothing of the spread over trainings.

    Raises:
        ValueError: the two sides do not pair up.
    """
    treated, control = np.asarray(treatment_R, float), np.asarray(control_R, float)
    right_treated, right_control = np.asarray(treatment_correct_RN), np.asarray(control_correct_RN)
    if treated.shape != control.shape or right_treated.shape != right_control.shape:
        raise ValueError(
            f"treatment and control do not pair up: {treated.shape} and {control.shape} replicas, "
            f"{right_treated.shape} and {right_control.shape} answers"
        )
    difference_R = treated - control
    replicas = len(difference_R)
    several = replicas > 1
    scores = right_treated.astype(np.float64), right_control.astype(np.float64)
    bootstrap = None
    drawn = several or fixed_control
    if drawn and redrawn is not None:
        samples, most = right_treated.shape[1], min(resamples, _MOST_REDRAWN)
        bootstrap = _bootstrap_redrawn(*redrawn, replicas, samples, seed, most)
    elif drawn and from_scores is None:
        bootstrap = percentiles(bootstrap_means(scores[0] - scores[1], seed, resamples))
    elif drawn and from_scores is not None:
        bootstrap = _bootstrap_of_curve(*scores, from_scores, seed, resamples)
    return {
        "mean": float(difference_R.mean()),
        "ci95": t_interval(difference_R) if several else None,
        "ci95_bootstrap": bootstrap,
        "n": replicas,
        "values": difference_R.tolist(),
    }


def paired_t_pvalue(values: ArrayLike, overlap: float = 0.0) -> float | None:
    """Two-sided p-value of the paired t test that the differences have mean 0; None below two.

    Args:
        values: the differences [R].
        overlap: as of `t_interval`.
    """
    difference_R = np.asarray(values, float)
    replicas = len(difference_R)
    if replicas < 2:
        return None
    error = _error(difference_R, overlap)
    mean = float(difference_R.mean())
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * _special().stdtr(replicas - 1, -abs(mean) / error))


def mcnemar(one_N: ArrayLike, other_N: ArrayLike) -> dict[str, Any]:
    """Who is right where the other is wrong (McNemar 1947), with the exact two-sided binomial p-value.

    Args:
        one_N: whether one model is right on each sample [N].
        other_N: the same of the other.

    Returns:
        `both`, `only_first`, `only_second`, `neither`: samples; `p`, 1 where they are never at odds.
    """
    one, other = np.asarray(one_N, bool), np.asarray(other_N, bool)
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    odds = first + second
    return {
        "both": int((one & other).sum()),
        "only_first": first,
        "only_second": second,
        "neither": int((~one & ~other).sum()),
        "p": min(1.0, 2 * float(_special().bdtr(min(first, second), odds, 0.5))),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for there being several, in the given order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    corrected = [0.0] * count
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (count - rank) * float(p_values[index])))
        corrected[index] = largest
    return corrected


def wilson(hits: ArrayLike, of: ArrayLike) -> Floats:
    """95 % interval of a share (Wilson 1927, "Probable inference", as in Brown et al. 2001, Eq. 4).

    Args:
        hits: how many did [...], 0 to `of`; means of counts need not be whole.
        of: how many there are [...].

    Returns:
        [..., 2] within [0, 1]; NaN where there are none.
    """
    hits, of = np.asarray(hits, float), np.asarray(of, float)
    count = np.where(of > 0, of, np.nan)
    share, square = hits / count, float(_special().ndtri((1 + LEVEL) / 2)) ** 2
    centre = (share + square / (2 * count)) / (1 + square / count)
    spread_of = np.sqrt(share * (1 - share) / count + square / (4 * count**2))
    half = float(np.sqrt(square)) * spread_of / (1 + square / count)
    return np.clip(np.stack([centre - half, centre + half], axis=-1), 0.0, 1.0)


def fisher(hits: float, of: float, all_hits: float, everywhere: float) -> float:
    """One-sided p-value of Fisher's exact test that a part has more hits than all else (Fisher 1934).

    Args:
        hits: hits in the part, a whole number as all of these.
        of: its size.
        all_hits: hits in all of it, the part included.
        everywhere: the size of all.

    Returns:
        P(a part of this size, drawn without replacement, has so many hits or more): the hypergeometric tail.
    """
    least, size, marked, every = int(hits), int(of), int(all_hits), int(everywhere)
    count_K = np.arange(max(least, 0, size + marked - every), min(size, marked) + 1)
    logs_K = (
        _log_choices(marked, count_K)
        + _log_choices(every - marked, size - count_K)
        - _log_choices(every, np.array(size))
    )
    return float(min(1.0, np.exp(logs_K).sum()))


def _log_choices(of: int, count: NDArray[np.int64]) -> Floats:
    gammaln = _special().gammaln
    found: Floats = gammaln(of + 1) - gammaln(count + 1) - gammaln(of - count + 1)
    return found


def ranks(values: ArrayLike) -> Floats:
    """Ranks of numbers [N] from 1; equal ones share their mean rank."""
    _, place_N, count_K = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    mean_K = np.cumsum(count_K) - (count_K - 1) / 2
    found: Floats = mean_K[place_N]
    return found


def t_interval(values: ArrayLike, overlap: float = 0.0) -> list[float]:
    """95 % interval of the mean of two or more numbers.

    Args:
        values: the numbers [R].
        overlap: 0 where they are independent. Of folds, which share training data, the size of a test part over
            that of its training part: the corrected resampled t test (Nadeau & Bengio 2003, "Inference for the
            generalization error"), which takes 1/R + overlap for 1/R.
    """
    value_R = np.asarray(values, float)
    replicas = len(value_R)
    error = _error(value_R, overlap)
    half = float(_special().stdtrit(replicas - 1, (1 + LEVEL) / 2)) * error
    mean = float(value_R.mean())
    return [mean - half, mean + half]


def _error(value_R: Floats, overlap: float) -> float:
    """Standard error of the mean."""
    return float(value_R.std(ddof=1)) * math.sqrt(1 / len(value_R) + overlap)


def bootstrap_means(values_RN: ArrayLike, seed: int, resamples: int = 2000) -> Floats:
    """Means of [R, N] under resampling of both axes, each drawn with replacement.

    Args:
        values_RN: a number for each replica and sample, or episode [R, N].
        seed: of the draws: of arrays of one shape all are the same, so that their means pair up.
        resamples: S.

    Returns:
        the means [S].
    """
    value_RN = np.asarray(values_RN, np.float64)
    replicas, samples = value_RN.shape
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // max(1, samples))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.multinomial(replicas, np.full(replicas, 1 / replicas), size=count)
        over_replicas_SN = (drawn / replicas) @ value_RN
        rows_SN = generator.integers(0, samples, size=(count, samples), dtype=np.int32)
        picked = np.take_along_axis(over_replicas_SN, rows_SN, axis=1)
        means[start : start + count] = picked.mean(axis=1)
    return means


def percentiles(found_S: ArrayLike) -> list[float]:
    """The 95 % interval of resampled numbers."""
    low, high = np.quantile(np.asarray(found_S, np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


def bootstrap_pvalue(means_S: ArrayLike) -> float:
    """Two-sided p-value that resampled means lie around 0, never 0 itself (Davison & Hinkley 1997, Eq. 4.11)."""
    mean_S = np.asarray(means_S, np.float64)
    beyond = min(int((mean_S <= 0).sum()), int((mean_S >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(mean_S)))


def _bootstrap_redrawn(
    treated: Redrawn, control: Redrawn, replicas: int, samples: int, seed: int, resamples: int
) -> list[float]:
    """As `_bootstrap_of_curve`, of metrics that are computed anew for each draw of samples."""
    generator = np.random.default_rng(seed)
    drawn_SR = generator.multinomial(replicas, np.full(replicas, 1 / replicas), size=resamples)
    times_SN = generator.multinomial(samples, np.full(samples, 1 / samples), size=resamples)
    difference_SR = treated(times_SN) - control(times_SN)
    return percentiles((difference_SR * drawn_SR).sum(axis=1) / replicas)


def _bootstrap_of_curve(
    treated_RN: Floats,
    control_RN: Floats,
    from_scores: Callable[[Floats], Floats],
    seed: int,
    resamples: int,
) -> list[float]:
    """The interval of `bootstrap_means`, of the difference of `from_scores` of each side's mean scores."""
    replicas, samples = treated_RN.shape
    generator = np.random.default_rng(seed)
    found = np.empty(resamples)
    step = max(1, _CHUNK // max(1, samples))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn_SR = generator.multinomial(replicas, np.full(replicas, 1 / replicas), size=count)
        rows_SN = generator.integers(0, samples, size=(count, samples), dtype=np.int32)
        times_SN = np.stack([np.bincount(rows, minlength=samples) for rows in rows_SN]) / samples
        sides_SR = [from_scores(times_SN @ scores_RN.T) for scores_RN in (treated_RN, control_RN)]
        difference_SR = sides_SR[0] - sides_SR[1]
        found[start : start + count] = (difference_SR * drawn_SR).sum(axis=1) / replicas
    return percentiles(found)
