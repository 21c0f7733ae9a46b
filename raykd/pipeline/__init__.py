"""Wires the stages: the only layer that sees them all."""

from raykd.pipeline.runs import Options, RunResult, run
from raykd.pipeline.student import load_student

__all__ = ["Options", "RunResult", "load_student", "run"]
