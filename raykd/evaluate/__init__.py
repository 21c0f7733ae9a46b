"""Measuring models: quality, fidelity, cost, and what replicas can show."""

from raykd.evaluate.metrics import classification_metrics, confusion, reliability
from raykd.evaluate.statistics import holm, paired_gain, paired_t_pvalue, spread
from raykd.evaluate.summary import (
    Evaluation,
    Requirement,
    SplitOutputs,
    best_teacher,
    check_requirements,
    choose_examples,
    numbers_on,
    summarise,
)
from raykd.evaluate.task import TaskMetrics

__all__ = [
    "Evaluation",
    "Requirement",
    "SplitOutputs",
    "TaskMetrics",
    "best_teacher",
    "check_requirements",
    "choose_examples",
    "classification_metrics",
    "confusion",
    "holm",
    "numbers_on",
    "paired_gain",
    "paired_t_pvalue",
    "reliability",
    "spread",
    "summarise",
]
