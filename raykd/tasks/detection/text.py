"""How the numbers of a detector are told in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.task import POINTS, Measure, TaskText, share_kept, share_spread, share_tile
from raykd.report.wording import mean_of, number, percent

_AP = Measure(key="ap", name="mAP 50:95", form=percent, spread=share_spread)
_AP50 = Measure(key="ap50", name="AP50", form=percent, spread=share_spread)


def _follows(fidelity: Mapping[str, Any]) -> str:
    agreement = percent(mean_of(fidelity["agreement_ensemble"]))
    return f"finds the ensemble's boxes with an F1 of {agreement} (IoU 0.5, scores from 0.4)"


TEXT = TaskText(
    metric=_AP,
    spread=share_spread,
    reached=lambda value: f"a test mAP of {percent(value)}",
    gain=POINTS,
    second=_AP50,
    numbers=(
        _AP,
        _AP50,
        Measure(key="ap75", name="AP75", form=percent),
        Measure(key="score_error", name="error of scores", form=number),
    ),
    numbers_note="mAP is the mean over IoU 0.50 to 0.95 and classes, as pycocotools computes it; "
    "the error of scores is the mean distance of a box's score from the share of such boxes that is right",
    panels=(
        Measure(key="ap", name="validation mAP 50:95", form=percent),
        Measure(key="ap50", name="validation AP50", form=percent),
    ),
    kept=share_kept("mAP"),
    follows=_follows,
    fidelity=(Measure(key="agreement_ensemble", name="F1 of the ensemble's boxes", form=percent),),
    by_teacher=Measure(key="agreement", name="F1 of the boxes of", form=percent),
    hard="the ensemble's fused boxes as labels",
    tile=share_tile("mAP"),
    base="labels alone",
    untaught="trained on labels alone",
    decisions="test images",
)
