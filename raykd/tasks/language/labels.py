"""Labels of texts: the numbers of their domains, int64 [N] in [−1, D), −1 where there is none.

What is learnt is the text itself; domains are what all is measured by.
"""

from __future__ import annotations

from dataclasses import replace

from raykd.tasks.classification.labels import LABELS as CLASS_LABELS
from raykd.types import UNLABELLED, is_labelled

LABELS = replace(
    CLASS_LABELS,
    strata=lambda labels: labels - UNLABELLED,  # texts without a domain are a group too
    missing=lambda labels, names: [],  # noqa: ARG005 - a domain may be one to be judged by alone
    missing_text="",
    holds=lambda labels, domain: labels == domain if domain >= 0 else is_labelled(labels),
    needed=False,
    same_as="classification",
    alike=None,
    counted=lambda names: f"{len(names)} domains" if len(names) > 1 else "one domain",
)
