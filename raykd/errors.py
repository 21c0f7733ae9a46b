"""Every error that raykd raises on purpose.

Two kinds matter to a user. An `InputError` says that what was given is wrong: it names the key, what
was found, what is allowed and what to do; the command line turns it into exit code 2 before anything
starts. Every other `RaykdError` happened at run time: exit code 1, finished work is kept.
All of them are picklable, since they cross process boundaries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class RaykdError(Exception):
    """Root of all errors raised by raykd."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input.

    Attributes:
        key: dotted key of the recipe (`teachers.wide.fit.epochs`), or the command-line argument.
        message: what was found, what is allowed, and what to do.
    """

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class InputError(RaykdError, ValueError):
    """The input is wrong; carries every problem found, so that all can be mended at once."""

    def __init__(self, problems: Sequence[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def at(cls, key: str, message: str) -> InputError:
        """One problem alone; see `Problem`."""
        return cls(Problem(key, message))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        return (type(self), (self.problems,))


def refuse(problems: Iterable[Problem]) -> None:
    """Nothing where there is no problem.

    Raises:
        InputError: with every problem.
    """
    if found := tuple(problems):
        raise InputError(found)


class DiskError(RaykdError):
    """A file cannot be written: the disk is full, gone, or may only be read.

    Attributes:
        what: place, cause, and the bytes that are needed and free.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"{what}; make room there, or name another place, and repeat the command (a job goes on with --resume)"
        )

    def __reduce__(self) -> tuple[type[DiskError], tuple[str]]:
        return (type(self), (self.what,))


class TeacherError(RaykdError):
    """A teacher cannot serve: it failed its self-test, died too often, or answers NaN."""


class TargetTimeoutError(TeacherError):
    """A source of targets had no answer within the time that it was given."""


class UnreachableError(TeacherError):
    """A teacher's server cannot be asked at all: it is down, or its address is wrong."""


class NonFiniteError(TeacherError):
    """A teacher answered NaN or infinity."""


class DataError(RaykdError):
    """Samples cannot be read, or decoded samples cannot be written, or are damaged."""


class TargetError(RaykdError):
    """Targets do not belong to what was asked, or their files are damaged."""


class CheckpointError(RaykdError):
    """A checkpoint is missing, damaged, or belongs to another fit."""


class TrainingError(RaykdError):
    """A fit diverged or its workers failed."""


class PreemptedError(RaykdError):
    """The machine of a fit is about to be taken away; it was saved, and goes on elsewhere."""


class WaitingError(RaykdError):
    """A fit needs what another one has not made yet; it was saved, and goes on once that is there."""


class ExportError(RaykdError):
    """A student cannot be written in a format, or what was written says something else."""
