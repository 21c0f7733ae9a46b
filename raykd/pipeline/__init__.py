"""Wires the stages: the only layer that sees them all."""

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
