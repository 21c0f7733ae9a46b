"""Teachers hosted by the processes of a crew: each process answers for every teacher, one call after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from raykd.teachers.actor import TeacherActor

_HOSTED: dict[bytes, TeacherActor] = {}
"""The teachers in this process."""


def _ask(references: bytes, threads: int, method: str, *given: Any) -> Any:
    """Call a method of a teacher, which is loaded at its first call."""
    if references not in _HOSTED:
        _HOSTED[references] = TeacherActor(references, threads)
    return getattr(_HOSTED[references], method)(*given)


def _statistics(references: bytes) -> dict[str, Any]:
    hosted = _HOSTED.get(references)
    loading = {"samples_scored": 0, "busy_s": 0.0, "uploaded_bytes": 0}
    return loading if hosted is None else hosted.statistics()


def forget() -> None:
    """Let go of the teachers that this process hosts."""
    _HOSTED.clear()


@dataclass(frozen=True)
class _Method:
    """One method of the hosted teacher, called as that of an actor is."""

    call: Callable[..., Any]

    def remote(self, *given: Any) -> Any:
        """A reference to what it will return."""
        return self.call(*given)


@dataclass(frozen=True)
class Seat:
    """A teacher's place in a process of the crew; it is asked as the handle of a `TeacherActor` is.

    Attributes:
        member: of the crew.
        references: to the teacher and the data, pickled.
        threads: of torch.
    """

    member: Any
    references: bytes
    threads: int = 1

    def _method(self, name: str) -> _Method:
        def call(*given: Any) -> Any:
            asked = (self.references, self.threads, name, *given)
            return self.member.do.remote(self.threads, _ask, *asked)

        return _Method(call)

    @property
    def ready(self) -> _Method:
        """Loads the model."""
        return self._method("ready")

    @property
    def score(self) -> _Method:
        """See `TeacherActor.score`."""
        return self._method("score")

    @property
    def score_inputs(self) -> _Method:
        """See `TeacherActor.score_inputs`."""
        return self._method("score_inputs")

    @property
    def fill(self) -> _Method:
        """See `TeacherActor.fill`."""
        return self._method("fill")

    @property
    def alive(self) -> _Method:
        """The process id, at once, also while the process is at work."""
        return _Method(self.member.ready.remote)

    @property
    def statistics(self) -> _Method:
        """See `TeacherActor.statistics`; answered while the process is at work."""
        return _Method(lambda: self.member.aside.remote(_statistics, self.references))


def end_process(actor: Any) -> None:
    """End the process behind a handle; Ray starts it again."""
    ray.kill(actor.member if isinstance(actor, Seat) else actor, no_restart=False)
