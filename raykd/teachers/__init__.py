"""Teachers: the frozen model, its actor, the fleet, and how the target store is filled."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from raykd.teachers.client import LiveTargets
from raykd.teachers.model import Recorded, Spec, TeacherModel
from raykd.teachers.pool import ActorFleet, Place
from raykd.teachers.write_through import WriteThrough

if TYPE_CHECKING:
    from raykd.pipeline.fleet import Fleet

__all__ = [
    "ActorFleet",
    "Fleet",
    "LiveTargets",
    "Place",
    "Recorded",
    "Spec",
    "TeacherModel",
    "WriteThrough",
]


def __getattr__(name: str) -> Any:
    """`Fleet` is made of a whole recipe, which only the stages above can read."""
    if name != "Fleet":
        raise AttributeError(f"module 'raykd.teachers' has no attribute {name!r}")
    return import_module("raykd.pipeline.fleet").Fleet
