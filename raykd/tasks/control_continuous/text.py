"""How the numbers of continuous control are told in words."""

from __future__ import annotations

from dataclasses import replace

from raykd.report.task import Measure, TaskFigures
from raykd.report.wording import mean_of, number, significant
from raykd.tasks.regression.text import TEXT as VALUE_TEXT

_NUMBERS = (
    Measure(key="rmse", name="RMSE", form=significant),
    Measure(key="mae", name="MAE", form=significant),
)

TEXT = replace(
    VALUE_TEXT,
    reached=lambda value: f"an RMSE of {significant(value)} on the recorded actions of test",
    second=_NUMBERS[1],
    numbers=_NUMBERS,
    numbers_note="RMSE and MAE of the means, against the actions that were taken when states were recorded",
    panels=(
        Measure(key="rmse", name="validation RMSE", form=significant),
        Measure(key="mae", name="validation MAE", form=significant),
    ),
    follows=lambda fidelity: (
        f"differs from the ensemble's means by an RMSE of {significant(mean_of(fidelity['rmse_ensemble']))} (KL "
        f"{number(mean_of(fidelity['kl_ensemble_nats']))} nats)"
    ),
    fidelity=(
        Measure(key="rmse_ensemble", name="RMSE to the ensemble", form=significant),
        Measure(key="kl_ensemble_nats", name="KL(ensemble ‖ student), nats", form=number),
    ),
)
FIGURES = TaskFigures()
