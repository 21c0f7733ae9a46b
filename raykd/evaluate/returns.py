"""What policies earn where they act: returns of models that were rolled on the same seeds, and their differences.

Shapes: R replicas, E episodes (one of each common seed), V variants of the environment, S resamples. All models of a
variant share their episodes' seeds, so that differences are paired episode by episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raykd.evaluate.statistics import (
    Floats,
    bootstrap_means,
    bootstrap_pvalue,
    holm,
    paired_gain,
    percentiles,
    spread,
    wilson,
)

NOMINAL = "nominal"
"""The variant that changes nothing."""
RANDOM = "random"
"""The policy that draws its actions: where a normalised return is 0."""
RESAMPLES = 2000
_SEED = 0
_TRIMMED = 4
"""A quarter at either end is left out of an interquartile mean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rolled:
    """One model's episodes in one variant of the environment.

    Attributes:
        returns_RE: the sum of an episode's rewards [R, E].
        lengths_RE: its steps [R, E].
        success_RE: whether it ended as it should [R, E]; None where the environment does not say what that is.
        agreed_RE: steps at which the action was the ensemble's, too [R, E]; None where nobody was asked.
        apart_RE: how far the teachers were from each other, summed over the steps [R, E]; None as above.
    """

    returns_RE: Floats
    lengths_RE: NDArray[np.int64]
    success_RE: NDArray[np.bool_] | None = None
    agreed_RE: Floats | None = None
    apart_RE: Floats | None = None

    @classmethod
    def stacked(cls, replicas: Sequence[Rolled]) -> Rolled:
        """The episodes of several replicas."""

        def together(name: str) -> Any:
            parts = [getattr(one, name) for one in replicas]
            return None if any(part is None for part in parts) else np.concatenate(parts)

        return cls(**{name: together(name) for name in cls.__dataclass_fields__})

    @property
    def mean_R(self) -> Floats:  # noqa: N802 (a shape suffix)
        """Each replica's mean return."""
        found: Floats = self.returns_RE.mean(axis=1)
        return found

    def per_step(self, sums_RE: Floats | None) -> list[float] | None:
        """Each replica's mean over steps of what was summed over them."""
        if sums_RE is None:
            return None
        found: list[float] = (sums_RE.sum(axis=1) / self.lengths_RE.sum(axis=1)).tolist()
        return found


Variants = Mapping[str, Mapping[str, Rolled]]
"""Variant -> model -> its episodes."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Which model is what, in every variant.

    Attributes:
        students: `student` and the controls, of which there are several replicas.
        best: variant -> the teacher that is best there, by episodes of other seeds.
    """

    students: Sequence[str]
    best: Mapping[str, str]


def returns_numbers(found: Variants, cast: Cast) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> model -> its numbers; see `_numbers`.

    Every student also has `against_teacher`: how much more it earns than the best teacher, and the `student` has `against`:
    the same for each control. Both are as of `difference`, with `p_holm`, corrected for the number of models (or of
    controls) that are compared in that variant.
    """
    return {
        variant: _of_variant(models, cast.students, cast.best[variant])
        for variant, models in found.items()
    }


def _of_variant(
    models: Mapping[str, Rolled], students: Sequence[str], best: str
) -> dict[str, dict[str, Any]]:
    low, high = models[RANDOM], models[best]
    numbers = {
        name: _numbers(one, low, high, several=name in students) for name, one in models.items()
    }
    taught = [name for name in students if name in models]
    behind = {name: difference(models[name], high, fixed=True) for name in taught}
    for name, one in corrected(behind).items():
        numbers[name]["against_teacher"] = {"teacher": best, **one}
    if "student" in taught:
        own = models["student"]
        arms = {name: difference(own, models[name]) for name in taught if name != "student"}
        numbers["student"]["against"] = corrected(arms)
    return numbers


def _numbers(one: Rolled, low: Rolled, high: Rolled, *, several: bool) -> dict[str, Any]:
    """One model's numbers: over replicas as `spread`, of a single model plain.

    `return` with `ci95_bootstrap` (over replicas × seeds), `success` with `success_ci95` (Wilson; of several replicas
    bootstrap, too), `length` in steps, `normalised` (see `normalised`), `agreement` with the ensemble and `disagreement` of
    the teachers, both per step along the model's own way.
    """

    def shown(values: Sequence[float] | None) -> Any:
        if values is None:
            return None
        return spread(values) if several else float(values[0])

    success = one.success_RE
    return {
        "return": shown(one.mean_R.tolist()),
        "ci95_bootstrap": percentiles(bootstrap_means(one.returns_RE, _SEED, RESAMPLES)),
        "success": None if success is None else shown(success.mean(axis=1).tolist()),
        "success_ci95": None if success is None else _success_interval(success),
        "length": shown(one.lengths_RE.mean(axis=1).tolist()),
        "normalised": shown(normalised(one, low, high)),
        "agreement": shown(one.per_step(one.agreed_RE)),
        "disagreement": shown(one.per_step(one.apart_RE)),
    }


def _success_interval(success_RE: NDArray[np.bool_]) -> list[float]:
    if len(success_RE) > 1:
        return percentiles(bootstrap_means(success_RE, _SEED, RESAMPLES))
    found: list[float] = wilson(float(success_RE.sum()), float(success_RE.size)).tolist()
    return found


def difference(treated: Rolled, control: Rolled, *, fixed: bool = False) -> dict[str, Any]:
    """How much more one model earns than another on the same seeds.

    Args:
        treated: the model.
        control: the other, with as many replicas, which pair up; or one replica where `fixed`.
        fixed: the other is a single model, which all replicas are held against.

    Returns:
        as of `paired_gain`, and `p`: two-sided, of the bootstrap over replicas × seeds; None where that has no interval.

    Raises:
        ValueError: replicas or episodes do not pair up.
    """
    replicas = len(treated.returns_RE)
    other_RE = control.returns_RE
    if fixed:
        other_RE = np.repeat(other_RE, replicas, axis=0)
    found = paired_gain(
        treated.mean_R,
        other_RE.mean(axis=1),
        treated.returns_RE,
        other_RE,
        seed=_SEED,
        resamples=RESAMPLES,
        fixed_control=fixed,
    )
    if found["ci95_bootstrap"] is None:
        return {**found, "p": None}
    means_S = bootstrap_means(treated.returns_RE - other_RE, _SEED, RESAMPLES)
    return {**found, "p": bootstrap_pvalue(means_S)}


def corrected(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Differences with `p_holm` beside `p`: corrected for there being several (Holm 1979)."""
    known = {name: one["p"] for name, one in found.items() if one["p"] is not None}
    right = dict(zip(known, holm(list(known.values())), strict=True))
    return {name: {**one, "p_holm": right.get(name)} for name, one in found.items()}


def is_scale(low: Rolled, high: Rolled) -> bool:
    """Whether the best teacher earns more than chance, surely enough to be the unit of a normalised return."""
    return bool(difference(high, low, fixed=True)["ci95_bootstrap"][0] > 0)


def normalised(one: Rolled, low: Rolled, high: Rolled) -> list[float] | None:
    """(R − R_random) / (R_teacher − R_random) of each replica's mean return; None where the teacher is no better than chance."""
    if not is_scale(low, high):
        return None
    found: list[float] = scaled(one.mean_R, low.mean_R, high.mean_R).tolist()
    return found


def scaled(returns: ArrayLike, low: ArrayLike, high: ArrayLike) -> Floats:
    """Returns as shares of the way from one level to another."""
    value, start, end = (np.asarray(one, np.float64) for one in (returns, low, high))
    return (value - start) / (end - start)


def interquartile_mean(values: ArrayLike) -> Floats:
    """The mean of the middle half of the last axis: a quarter at either end is left out (Agarwal et al. 2021, Sec. 4.3)."""
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = ordered.shape[-1] // _TRIMMED
    found: Floats = ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
    return found


def over_variants(found: Variants, cast: Cast) -> dict[str, Any]:
    """The interquartile mean of each model's normalised returns over variants and replicas.

    Returns:
        `variants`: those whose best teacher is surely better than chance, which alone count; `models`: name -> `iqm`,
        `ci95_bootstrap` (over replicas and seeds, which all variants share), `n` numbers that it is the mean of.
    """
    counted = [name for name, one in found.items() if is_scale(one[RANDOM], one[cast.best[name]])]
    if not counted:
        return {"variants": [], "models": {}}
    low_VE = np.stack([found[name][RANDOM].returns_RE[0] for name in counted])
    high_VE = np.stack([found[name][cast.best[name]].returns_RE[0] for name in counted])
    everywhere = [name for name in found[counted[0]] if all(name in found[v] for v in counted)]
    models = {
        name: _over_variants(
            np.stack([found[v][name].returns_RE for v in counted]), low_VE, high_VE
        )
        for name in everywhere
        if name != RANDOM
    }
    return {"variants": counted, "models": models}


def _over_variants(returns_VRE: Floats, low_VE: Floats, high_VE: Floats) -> dict[str, Any]:
    variants, replicas, episodes = returns_VRE.shape
    generator = np.random.default_rng(_SEED)
    rows_SE = generator.integers(0, episodes, size=(RESAMPLES, episodes))
    times_SE = np.stack([np.bincount(rows, minlength=episodes) for rows in rows_SE]) / episodes
    picked_SR = generator.integers(0, replicas, size=(RESAMPLES, replicas))
    means_SVR = np.einsum("se,vre->svr", times_SE, returns_VRE)
    means_SVR = np.take_along_axis(means_SVR, picked_SR[:, None, :], axis=2)
    low_SV, high_SV = times_SE @ low_VE.T, times_SE @ high_VE.T
    drawn_SVR = scaled(means_SVR, low_SV[..., None], high_SV[..., None])
    point_VR = scaled(
        returns_VRE.mean(axis=2),
        low_VE.mean(axis=1, keepdims=True),
        high_VE.mean(axis=1, keepdims=True),
    )
    return {
        "iqm": float(interquartile_mean(point_VR.ravel())),
        "ci95_bootstrap": percentiles(interquartile_mean(drawn_SVR.reshape(RESAMPLES, -1))),
        "n": variants * replicas,
    }
