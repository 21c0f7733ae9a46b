"""What a student is taught: configuration made into a loss callable and its stateful parts."""

from raykd.config.tasks import TaskName
from raykd.objective.controls import Role, TrainingRole, training_role
from raykd.objective.distill import DistillObjective, TeacherInfo
from raykd.objective.embeddings import EmbeddingObjective
from raykd.objective.marks import MultilabelObjective
from raykd.objective.terms import (
    Context,
    Losses,
    Term,
    ensemble_sums,
    ensemble_values,
    reduce_terms,
)
from raykd.objective.values import ValueObjective

OBJECTIVES: dict[TaskName, type[DistillObjective]] = {
    "classification": DistillObjective,
    "regression": ValueObjective,
    "multilabel": MultilabelObjective,
    "embedding": EmbeddingObjective,
}

__all__ = [
    "OBJECTIVES",
    "Context",
    "DistillObjective",
    "Losses",
    "Role",
    "TeacherInfo",
    "Term",
    "TrainingRole",
    "ensemble_sums",
    "ensemble_values",
    "reduce_terms",
    "training_role",
]
