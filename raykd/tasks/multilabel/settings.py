"""Several yes-or-no labels. What a recipe may say."""

from __future__ import annotations

from raykd.config.tasks import CONTROLS, GIVEN_WEIGHTINGS, NO_VECTORS, TaskSettings
from raykd.methods import losses_of

SETTINGS = TaskSettings(
    select=("accuracy", "nll"),
    label_losses=("binary_cross_entropy",),
    soft_losses=losses_of("labels"),
    combine=("probabilities", "logits"),
    expect=("accuracy",),
    weightings=(*GIVEN_WEIGHTINGS, "accuracy"),
    kinds=("logits", "probabilities", "log_probabilities"),
    controls=CONTROLS,
    unused={
        **NO_VECTORS,
        "objective.labels.class_weights": None,
        "teachers.*.label_map": None,
        "evaluate.compare.*.label_map": None,
    },
    defaults={"objective": {"soft_targets": {"loss": {"type": "bernoulli_kl"}}}},
)
