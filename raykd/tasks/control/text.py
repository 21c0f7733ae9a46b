"""How the numbers of discrete control are told in words."""

from __future__ import annotations

from dataclasses import replace

from raykd.report.task import Measure, TaskFigures, share_kept, share_tile
from raykd.report.wording import number, percent
from raykd.tasks.classification.text import TEXT as CLASS_TEXT

_AGREEMENT = Measure(key="accuracy", name="agreement", form=percent)

TEXT = replace(
    CLASS_TEXT,
    metric=_AGREEMENT,
    reached=lambda value: f"{percent(value)} of the recorded actions of test",
    numbers=(_AGREEMENT, Measure(key="nll", name="NLL (nats)", form=number)),
    numbers_note="Agreement is with the action that was taken when a state was recorded; NLL in nats",
    panels=(
        Measure(key="accuracy", name="validation agreement", form=percent),
        Measure(key="nll", name="validation NLL (nats)", form=number),
    ),
    kept=share_kept("agreement"),
    tile=share_tile("agreement"),
    hard="the ensemble's likeliest actions",
    decisions="test states",
    group="action",
    groups="actions",
)
FIGURES = TaskFigures()
