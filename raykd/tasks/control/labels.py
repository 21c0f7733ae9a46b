"""Labels of states: the action that was taken there, int64 [N] in [−1, A), −1 where it is not known.

Nothing has to be learnt from them: teachers say what to do.
"""

from __future__ import annotations

from dataclasses import replace

from raykd.tasks.classification.labels import LABELS as CLASS_LABELS
from raykd.types import UNLABELLED

LABELS = replace(
    CLASS_LABELS,
    strata=lambda labels: labels - UNLABELLED,  # states without a known action are a group too
    missing=lambda labels, names: [],  # noqa: ARG005 - an action may never be taken
    missing_text="",
    needed=False,
    alike=None,
    counted=lambda names: f"{len(names)} actions",
)
