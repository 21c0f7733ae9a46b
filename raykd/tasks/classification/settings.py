"""One class of several. What a recipe may say."""

from __future__ import annotations

from raykd.config.tasks import CONTROLS, NO_VECTORS, TaskSettings
from raykd.methods import losses_of

SETTINGS = TaskSettings(
    select=("accuracy", "nll"),
    label_losses=("cross_entropy",),
    soft_losses=losses_of("logits"),
    combine=("probabilities", "probabilities_then_temper", "logits", "losses"),
    expect=("accuracy",),
    controls=CONTROLS,
    unused=NO_VECTORS,
    class_logits=True,
)
