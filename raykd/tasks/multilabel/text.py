"""How the numbers of several labels are told in words."""

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
    return f"decides {agreement} of the test labels as the ensemble does (KL {kl} nats per label)"


TEXT = TaskText(
    metric=Measure(key="accuracy", name="label accuracy", form=percent),
    spread=share_spread,
    reached=lambda value: f"{percent(value)} right label decisions on test",
    gain=POINTS,
    second=Measure(key="nll", name="NLL (nats per label)", form=number),
    numbers=(
        Measure(key="accuracy", name="label accuracy", form=percent),
        Measure(key="accuracy_subset", name="all labels right", form=percent),
        *MACRO_SCORES,
    ),
    numbers_note="Label accuracy is the share of right label decisions; precision, recall and F1 are "
    "means over the labels; NLL in nats per label",
    panels=(
        Measure(key="accuracy", name="validation label accuracy", form=percent),
        Measure(key="nll", name="validation NLL (nats per label)", form=number),
    ),
    kept=share_kept("label accuracy"),
    follows=_follows,
    fidelity=(
        Measure(
            key="agreement_ensemble", name="same label decisions as the ensemble", form=percent
        ),
        Measure(key="kl_ensemble_nats", name="KL(ensemble ‖ student), nats per label", form=number),
    ),
    by_teacher=Measure(key="agreement", name="same label decisions as", form=percent),
    hard="the ensemble's hard labels",
    tile=share_tile("label accuracy"),
    decisions="label decisions on test",
    group="label",
    groups="labels",
)
