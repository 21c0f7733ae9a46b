"""One class of several. What a recipe may say."""

from __future__ import annotations

from raykd.config.tasks import CONTROLS, NO_VECTORS, TaskSettings

SETTINGS = TaskSettings(
    select=("accuracy", "nll"),
    label_losses=("cross_entropy",),
    soft_losses=("kl", "reverse_kl", "js", "skew_kl", "mse", "dkd", "dist"),
    combine=("probabilities", "probabilities_then_temper", "logits", "losses"),
    expect=("accuracy",),
    controls=CONTROLS,
    unused=NO_VECTORS,
    class_logits=True,
)
