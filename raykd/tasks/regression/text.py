"""How the numbers of a regression are told in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.task import Gain, Measure, TaskText
from raykd.report.wording import mean_of, number, percent, significant


def _spread(std: float) -> str:
    return significant(std, 2)


def _signed(value: float) -> str:
    return significant(value, 3, signed=True)


def _kept(own: float, whole: float) -> str:
    numbers = f"({significant(own)} against {significant(whole)})"
    if own <= whole:
        return f"It reaches the ensemble's RMSE {numbers}"
    return f"Its RMSE is {percent(own / whole - 1)} above the ensemble's {numbers}"


def _follows(fidelity: Mapping[str, Any]) -> str:
    distance = significant(mean_of(fidelity["rmse_ensemble"]))
    correlation = number(mean_of(fidelity["correlation_ensemble"]))
    return (
        f"differs from the ensemble's answers by an RMSE of {distance} (correlation {correlation})"
    )


TEXT = TaskText(
    metric=Measure(key="rmse", name="RMSE", form=significant),
    spread=_spread,
    reached=lambda value: f"a test RMSE of {significant(value)}",
    gain=Gain(
        name="reduction",
        signed=_signed,
        unit="",
        factor=1.0,
        better="lower",
        worse="higher",
        heading="RMSE reduction",
    ),
    second=Measure(key="r2", name="R²", form=number),
    numbers=(
        Measure(key="rmse", name="RMSE", form=significant),
        Measure(key="mae", name="MAE", form=significant),
        Measure(key="r2", name="R²", form=number),
    ),
    numbers_note="RMSE and MAE in the unit of the target; R² is the share of the variance explained",
    panels=(
        Measure(key="rmse", name="validation RMSE", form=significant),
        Measure(key="r2", name="validation R²", form=number),
    ),
    kept=_kept,
    follows=_follows,
    fidelity=(
        Measure(key="rmse_ensemble", name="RMSE to the ensemble", form=significant),
        Measure(key="correlation_ensemble", name="correlation with the ensemble", form=number),
    ),
    by_teacher=Measure(key="rmse", name="RMSE to", form=significant),
    hard="the ensemble's values as labels",
    tile=lambda own, whole: (f"{own / whole:.3f}×", "the ensemble's RMSE"),
)
