"""What a teacher of control must show: more agreement with the actions that were taken than chance has."""

from __future__ import annotations

from raykd.tasks.classification.selftest import check_accuracy

check_actions = check_accuracy
