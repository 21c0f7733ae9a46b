"""Wires the stages: the only layer that sees them all.

Each name is imported when it is first asked for: who loads a student needs no Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raykd.pipeline.ablating import AblateResult, ablate
    from raykd.pipeline.comparing import CompareResult, compare
    from raykd.pipeline.fleet import Fleet
    from raykd.pipeline.prediction import Predictions, predict
    from raykd.pipeline.runs import RunResult, run
    from raykd.pipeline.session import Options
    from raykd.pipeline.student import load_student

__all__ = [
    "AblateResult",
    "CompareResult",
    "Fleet",
    "Options",
    "Predictions",
    "RunResult",
    "ablate",
    "compare",
    "load_student",
    "predict",
    "run",
]

_HOMES = {
    "AblateResult": "ablating",
    "ablate": "ablating",
    "CompareResult": "comparing",
    "compare": "comparing",
    "Fleet": "fleet",
    "Options": "session",
    "Predictions": "prediction",
    "RunResult": "runs",
    "load_student": "student",
    "predict": "prediction",
    "run": "runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
