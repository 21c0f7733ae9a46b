"""Labels to judge embeddings by: classes, int64 [N] in [−1, C); nothing is learnt from them."""

from __future__ import annotations

from dataclasses import replace

from raykd.tasks.classification.labels import LABELS as CLASS_LABELS
from raykd.types import UNLABELLED, is_labelled

LABELS = replace(
    CLASS_LABELS,
    strata=lambda labels: labels - UNLABELLED,  # those without a label are a group too
    missing=lambda labels, names: [],  # noqa: ARG005 - nothing is learnt from them
    missing_text="",
    holds=lambda labels, _: is_labelled(labels),
    needed=False,
    paired=True,
    same_as="classification",
    alike=None,
    counted=lambda names: f"{len(names)} classes to judge by" if names else "no labels",
)
