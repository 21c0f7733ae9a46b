"""Teachers: the frozen model, its actor, the fleet, and how the target store is filled."""

from raykd.teachers.live import LiveTargets
from raykd.teachers.model import Recorded, Spec, TeacherModel
from raykd.teachers.pool import Fleet, Place
from raykd.teachers.write_through import WriteThrough

__all__ = [
    "Fleet",
    "LiveTargets",
    "Place",
    "Recorded",
    "Spec",
    "TeacherModel",
    "WriteThrough",
]
