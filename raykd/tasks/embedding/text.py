"""How the numbers of embeddings are told in words; no picture is theirs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.task import (
    POINTS,
    Measure,
    TaskFigures,
    TaskText,
    share_kept,
    share_spread,
    share_tile,
)
from raykd.report.wording import mean_of, number, percent

_MAP = Measure(key="map_10", name="mAP@10", form=percent)


def _follows(fidelity: Mapping[str, Any]) -> str:
    correlation = number(mean_of(fidelity["spearman_ensemble"]))
    shared = percent(mean_of(fidelity["overlap_ensemble"]))
    return (
        f"orders pairs of test samples by likeness as the ensemble does with a rank correlation of {correlation} "
        f"and shares {shared} of the 10 nearest neighbours"
    )


TEXT = TaskText(
    metric=_MAP,
    spread=share_spread,
    reached=lambda value: f"a test mAP@10 of {percent(value)}",
    gain=POINTS,
    second=Measure(key="probe", name="linear probe", form=percent, spread=share_spread),
    numbers=(
        _MAP,
        Measure(key="recall_1", name="recall@1", form=percent),
        Measure(key="recall_10", name="recall@10", form=percent),
        Measure(key="knn", name="kNN", form=percent),
        Measure(key="probe", name="linear probe", form=percent),
    ),
    numbers_note="Each sample asks all others of its split by cosine; relevant are those of its class. "
    "kNN: accuracy of the weighted vote of the 10 nearest. "
    "Linear probe: accuracy of ridge regression on the classes, each sample left out in turn",
    panels=(
        Measure(key="map_10", name="validation mAP@10", form=percent),
        Measure(key="recall_1", name="validation recall@1", form=percent),
    ),
    kept=share_kept("mAP@10"),
    follows=_follows,
    fidelity=(
        Measure(key="spearman_ensemble", name="rank correlation with the ensemble", form=number),
        Measure(key="overlap_ensemble", name="neighbours shared with it", form=percent),
    ),
    by_teacher=Measure(key="spearman", name="rank correlation with", form=number),
    hard="",
    tile=share_tile("mAP@10"),
    baseline="untrained",
    base="no training",
    untaught="before training",
    without_labels=True,
)
FIGURES = TaskFigures()
