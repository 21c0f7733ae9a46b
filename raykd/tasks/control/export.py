"""An exported policy of discrete actions: logits and probabilities, the likeliest action."""

from __future__ import annotations

from dataclasses import replace

from raykd.tasks.classification.export import EXPORT as CLASS_EXPORT

EXPORT = replace(
    CLASS_EXPORT,
    outputs={
        "logits": "[batch, actions], before the softmax",
        "probabilities": "[batch, actions], softmax of the logits over the student's temperature: each row sums to 1",
    },
    weak_spots=lambda *_: "",
    hub_tag=lambda *_: "reinforcement-learning",
)
