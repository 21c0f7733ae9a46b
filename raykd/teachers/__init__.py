"""Teachers: the frozen model, its actor, the fleet, and how the target store is filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raykd.teachers.client import LiveTargets
from raykd.teachers.engines.teacher import EngineSpec
from raykd.teachers.in_process import InProcess
from raykd.teachers.model import AnySpec, Recorded, Spec, TeacherModel
from raykd.teachers.pool import ActorFleet, TeacherResources
from raykd.teachers.write_through import WriteThrough

if TYPE_CHECKING:
    from raykd import Fleet

__all__ = [
    "ActorFleet",
    "AnySpec",
    "EngineSpec",
    "Fleet",
    "InProcess",
    "LiveTargets",
    "Recorded",
    "Spec",
    "TeacherModel",
    "TeacherResources",
    "WriteThrough",
]


def __getattr__(name: str) -> Any:
    """`raykd.teachers.Fleet` is another name of the public `raykd.Fleet`, which reads a whole recipe.

    Nothing in this package uses it: reading a recipe takes the stages above.
    """
    if name != "Fleet":
        raise AttributeError(f"module 'raykd.teachers' has no attribute {name!r}")
    import raykd

    return raykd.Fleet
