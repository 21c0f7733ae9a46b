"""What a student is taught: configuration made into a loss callable and its stateful parts."""

from raykd.objective.controls import Lesson, Role, lesson
from raykd.objective.distill import DistillObjective, Voice
from raykd.objective.terms import Losses, Term, reduce_terms

__all__ = [
    "DistillObjective",
    "Lesson",
    "Losses",
    "Role",
    "Term",
    "Voice",
    "lesson",
    "reduce_terms",
]
