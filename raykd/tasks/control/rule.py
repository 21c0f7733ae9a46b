"""labels·CE + soft_targets·T²KL + Σ features, of logits of actions: policy distillation (Rusu et al. 2015, eq. 3)."""

from __future__ import annotations

from raykd.tasks.classification.rule import RULE as CLASS_RULE

RULE = CLASS_RULE
