"""How often a policy takes the action that was taken when the states were recorded; answers are log-probabilities.

What a policy is worth is its return, which is measured by rolling it; agreement tells how it follows its teachers.
"""

from __future__ import annotations

from raykd.tasks.classification.metrics import METRICS as CLASS_METRICS

METRICS = CLASS_METRICS
