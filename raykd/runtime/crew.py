"""Processes that outlive a piece of work: what is idle takes the next one, its imports already paid for."""

from __future__ import annotations

import os
import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from raykd.errors import RaykdError, TrainingError

Result = TypeVar("Result")
Needs = tuple[tuple[str, float], ...]
"""Resources of one member, by Ray's names."""
_SEED = 0
_MOST_LOSSES = 3
_ASIDE = "aside"
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def _method(**options: Any) -> Callable[[_Decorated], _Decorated]:
    """`ray.method`, which is not typed."""
    decorate: Callable[[_Decorated], _Decorated] = ray.method(**options)
    return decorate


class Member:
    """One process of a crew.

    Args:
        modules: that it is going to need, imported while nobody waits for them.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        _imported(modules)

    @_method(concurrency_group=_ASIDE)
    def ready(self) -> int:
        """Answers once the process has started, with its id; also while it is at work."""
        return os.getpid()

    @_method(concurrency_group=_ASIDE)
    def aside(self, work: Callable[..., Result], *given: Any) -> Result:
        """What is asked of a process that is at work."""
        return work(*given)

    @_method(max_task_retries=0)
    def do(self, threads: int, work: Callable[..., Result], *given: Any) -> Result:
        """One piece of work, as a new process would do it."""
        _afresh(threads)
        return work(*given)


def _imported(modules: Sequence[str]) -> None:
    for name in modules:
        import_module(name)


def _afresh(threads: int) -> None:
    """Whatever the piece before it left behind: random numbers, default type, threads, gradients."""
    import torch  # a driver that starts a crew does without

    random.seed(_SEED)
    np.random.seed(_SEED)  # noqa: NPY002 (what a user's code may draw from)
    torch.manual_seed(_SEED)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)


class Crew:
    """The members that are idle; who takes one gives it back, or ends it."""

    def __init__(self) -> None:
        self._idle: dict[Needs, list[Any]] = defaultdict(list)

    def take(self, resources: Mapping[str, float]) -> Any:
        """A handle of a `Member`: an idle one, or a new one, for which idle ones of other sizes make room.

        Args:
            resources: `CPU` and `GPU`.
        """
        if not self._idle[_needs(resources)]:
            self.dismiss()
            self.start(resources, 1)
        return self._idle[_needs(resources)].pop()

    def idle(self, resources: Mapping[str, float]) -> int:
        """How many members of a size are idle."""
        return len(self._idle[_needs(resources)])

    def prepare(self, resources: Mapping[str, float], modules: Sequence[str]) -> None:
        """Have idle members of a size import what their next piece of work needs, while nobody waits for it."""
        for member in self._idle[_needs(resources)]:
            member.aside.options(max_task_retries=0).remote(
                _imported, tuple(modules)
            )  # it may be ended before

    def start(
        self, resources: Mapping[str, float], count: int, modules: Sequence[str] = ()
    ) -> None:
        """Have idle members start, ahead of what they will be needed for."""
        for _ in range(count):
            self.give_back(_started(resources, modules), resources)

    def give_back(self, member: Any, resources: Mapping[str, float]) -> None:
        """It is idle again."""
        self._idle[_needs(resources)].append(member)

    def each(
        self,
        work: Callable[..., Result],
        given: Sequence[tuple[Any, ...]],
        resources: Mapping[str, float],
        most: int,
        *,
        patience_s: float,
        runtime_env: Mapping[str, Any] | None = None,
        tell: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """What a piece of work makes of each of the given, in their order, done side by side.

        A piece whose process is lost is done again.

        Args:
            work: a function of a module.
            given: its arguments, for each piece.
            resources: of each process, by Ray's names.
            most: processes at a time.
            patience_s: how long the first process may take to start.
            runtime_env: of processes that need one of their own; they end with the work.
            tell: is called with how many pieces are done, whenever a process is ready or a piece done.

        Raises:
            TrainingError: no process started in time, or processes were lost again and again.
        """
        members = [self._hired(resources, runtime_env) for _ in range(min(most, len(given)))]
        pieces = _Pieces(members, work, given, max(1, int(resources.get("CPU", 1))))
        try:
            if members and not ray.wait(list(pieces.starting), timeout=patience_s)[0]:
                raise TrainingError(f"no process started within {patience_s:g} s: one asks for {dict(resources)}; free "
                                    "that much on a node, and resume the run")  # fmt: skip
            while len(pieces.found) < len(given):
                pieces.advance()
                if tell is not None:
                    tell(len(pieces.found))
            return [pieces.found[index] for index in range(len(given))]
        finally:
            for member in members:
                if runtime_env is None and member in pieces.idle:
                    self.give_back(member, resources)
                else:
                    ray.kill(member)

    def _hired(self, resources: Mapping[str, float], runtime_env: Mapping[str, Any] | None) -> Any:
        if runtime_env is None:
            return self.take(resources)
        self.dismiss()
        return _started(resources, (), runtime_env=dict(runtime_env))

    def dismiss(self) -> None:
        """End what is idle, so that others get its resources."""
        for idle in self._idle.values():
            while idle:
                ray.kill(idle.pop())


class _Pieces(Generic[Result]):
    """Pieces of work under way: who starts, who is idle, what is left, what is found."""

    def __init__(
        self,
        members: Sequence[Any],
        work: Callable[..., Result],
        given: Sequence[tuple[Any, ...]],
        threads: int,
    ) -> None:
        self.starting = {member.ready.remote(): member for member in members}
        self.idle: list[Any] = []
        self.found: dict[int, Result] = {}
        self._left = deque(range(len(given)))
        self._calls: dict[Any, tuple[int, Any]] = {}
        self._work, self._given, self._threads, self._losses = work, given, threads, 0

    def advance(self) -> None:
        """Until the next process is ready, or the next piece done."""
        while self._left and self.idle:
            index, member = self._left.popleft(), self.idle.pop()
            call = member.do.remote(self._threads, self._work, *self._given[index])
            self._calls[call] = index, member
        done = ray.wait([*self.starting, *self._calls])[0][0]
        if done in self.starting:
            self.idle.append(self.starting.pop(done))
            return
        index, member = self._calls.pop(done)
        self.idle.append(member)
        try:
            self.found[index] = ray.get(done)
        except RayActorError as error:
            self._left.appendleft(index)
            self._losses += 1
            if self._losses > _MOST_LOSSES:
                raise TrainingError(f"processes were lost again and again: {error}") from error
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, RaykdError) else error) from None


def _started(resources: Mapping[str, float], modules: Sequence[str], **options: Any) -> Any:
    """A handle of a new member."""
    member = ray.remote(concurrency_groups={_ASIDE: 1})(Member).options(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        max_restarts=-1,
        max_task_retries=-1,
        **options,
    )
    return member.remote(modules)


def _needs(resources: Mapping[str, float]) -> Needs:
    return tuple(sorted((name, float(count)) for name, count in resources.items() if count))
