"""One of several actions in each state. What a recipe may say."""

from __future__ import annotations

from dataclasses import replace

from raykd.tasks.classification.settings import SETTINGS as CLASSES

SETTINGS = replace(
    CLASSES,
    acts=True,
    defaults={
        "train": {"select": "last"},
        "objective": {
            "labels": {"mode": "add", "weight": 0.0},
            "soft_targets": {"temperature": 1.0},
        },
    },
)
"""The actions that were taken are not learnt, unless a recipe says so: teachers say what to do in each state."""
