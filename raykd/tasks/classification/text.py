"""How the numbers of a classification are told in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.task import (
    MACRO_SCORES,
    POINTS,
    Measure,
    TaskText,
    share_kept,
    share_spread,
    share_tile,
)
from raykd.report.wording import mean_of, number, percent


def _follows(fidelity: Mapping[str, Any]) -> str:
    agreement = percent(mean_of(fidelity["agreement_ensemble"]))
    kl = number(mean_of(fidelity["kl_ensemble_nats"]))
    return f"gives the ensemble's answer on {agreement} of the test samples (KL {kl} nats)"


TEXT = TaskText(
    metric=Measure(key="accuracy", name="accuracy", form=percent),
    spread=share_spread,
    reached=lambda value: f"{percent(value)} test accuracy",
    gain=POINTS,
    second=Measure(key="nll", name="NLL (nats)", form=number),
    numbers=(Measure(key="accuracy", name="accuracy", form=percent), *MACRO_SCORES),
    numbers_note="Precision, recall and F1 are macro means; NLL in nats",
    panels=(
        Measure(key="accuracy", name="validation accuracy", form=percent),
        Measure(key="nll", name="validation NLL (nats)", form=number),
    ),
    kept=share_kept("accuracy"),
    follows=_follows,
    fidelity=(
        Measure(key="agreement_ensemble", name="same answer as the ensemble", form=percent),
        Measure(key="kl_ensemble_nats", name="KL(ensemble ‖ student), nats", form=number),
    ),
    by_teacher=Measure(key="agreement", name="same answer as", form=percent),
    hard="the ensemble's hard labels",
    tile=share_tile("accuracy"),
)
