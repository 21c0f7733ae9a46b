"""What a student is taught: configuration made into a loss callable and its stateful parts."""

from raykd.objective.controls import Role, TrainingRole, overrides_of, training_role
from raykd.objective.distill import DistillObjective, TeacherInfo
from raykd.objective.rule import LearningRule
from raykd.objective.terms import (
    Context,
    Losses,
    Term,
    ensemble_rows,
    ensemble_values,
    reduce_terms,
)

__all__ = [
    "Context",
    "DistillObjective",
    "LearningRule",
    "Losses",
    "Role",
    "TeacherInfo",
    "Term",
    "TrainingRole",
    "ensemble_rows",
    "ensemble_values",
    "overrides_of",
    "reduce_terms",
    "training_role",
]
