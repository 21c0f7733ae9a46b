"""Processes that outlive a piece of work: what is idle takes the next one, its imports already paid for."""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from raykd.errors import RaykdError, TrainingError
from raykd.runtime.labels import selector

Result = TypeVar("Result")
Needs = tuple[tuple[str, float], ...]
"""Resources of one member, by Ray's names."""
_SEED = 0
_MOST_LOSSES = 3
_MOST_LATE = 2
_ASK_S = 2.0
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
    def ready(self, modules: Sequence[str] = ()) -> int:
        """Answers once the process has started and imported them, with its id; also while it is at work."""
        _imported(modules)
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


@dataclass(frozen=True)
class Limit:
    """How long a piece of work may take.

    Attributes:
        seconds: of one piece, once a process has begun it.
        where: a function of a module that says how far its process has come; asked of a process that is late.
        error: makes an error of the number of a piece that was late each time, and of what `where` said, or None.
        modules: that pieces need; a process imports them before it begins, so that their time does not count.
    """

    seconds: float
    where: Callable[[], Any]
    error: Callable[[int, Any], RaykdError]
    modules: tuple[str, ...] = ()


class Crew:
    """The members that are idle; who takes one gives it back, or ends it."""

    def __init__(self) -> None:
        self._members: dict[Needs, list[Any]] = defaultdict(list)
        self._session: tuple[str, str] | None = None

    @property
    def _idle(self) -> dict[Needs, list[Any]]:
        """By size. Those of a connection that has ended went with it."""
        session = _session()
        if session != self._session:
            self._members.clear()
            self._session = session
        return self._members

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
        limit: Limit | None = None,
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
            limit: how long a piece may take; one that takes longer is ended and done again.

        Raises:
            TrainingError: no process started in time, or processes were lost again and again.
            RaykdError: of `limit`, where a piece took too long each time.
        """
        members = [self._hired(resources, runtime_env) for _ in range(min(most, len(given)))]
        pieces = _Pieces(members, work, given, max(1, int(resources.get("CPU", 1))), limit)
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
        limit: Limit | None = None,
    ) -> None:
        self._modules = () if limit is None else limit.modules
        self.starting = {member.ready.remote(self._modules): member for member in members}
        self.idle: list[Any] = []
        self.found: dict[int, Result] = {}
        self._left = deque(range(len(given)))
        self._calls: dict[Any, tuple[int, Any]] = {}
        self._work, self._given, self._threads, self._losses = work, given, threads, 0
        self._limit = limit
        self._begun: dict[Any, float] = {}
        self._late = Counter[int]()

    def advance(self) -> None:
        """Until the next process is ready, or the next piece done."""
        while self._left and self.idle:
            index, member = self._left.popleft(), self.idle.pop()
            call = member.do.remote(self._threads, self._work, *self._given[index])
            self._calls[call] = index, member
            self._begun[call] = time.monotonic()
        done = self._next()
        if done in self.starting:
            self.idle.append(self.starting.pop(done))
            return
        index, member = self._calls.pop(done)
        self._begun.pop(done, None)
        try:
            self.found[index] = ray.get(done)
            self.idle.append(member)
        except RayActorError as error:
            self.starting[member.ready.remote(self._modules)] = member
            self._left.appendleft(index)
            if self._late[index]:
                return
            self._losses += 1
            if self._losses > _MOST_LOSSES:
                raise TrainingError(f"processes were lost again and again: {error}") from error
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, RaykdError) else error) from None

    def _next(self) -> Any:
        """The call that is done next; processes that are late are ended meanwhile."""
        while True:
            waited = None
            if self._limit is not None and self._begun:
                ends = min(self._begun.values()) + self._limit.seconds
                waited = max(0.0, ends - time.monotonic())
            done = ray.wait([*self.starting, *self._calls], timeout=waited)[0]
            if done:
                return done[0]
            assert self._limit is not None, "without a limit there is no end to waiting"
            now, limit = time.monotonic(), self._limit
            for call in [one for one, begun in self._begun.items() if now - begun >= limit.seconds]:
                self._end(call, limit)

    def _end(self, call: Any, limit: Limit) -> None:
        """End the process of a piece that is late; it starts anew by itself."""
        index, member = self._calls[call]
        self._late[index] += 1
        try:
            asked = member.aside.options(max_task_retries=0).remote(limit.where)
            where = ray.get(asked, timeout=_ASK_S)
        except (RayActorError, RayTaskError, GetTimeoutError):
            where = None
        if self._late[index] >= _MOST_LATE:
            raise limit.error(index, where)
        del self._begun[call]
        ray.kill(member, no_restart=False)


def _session() -> tuple[str, str] | None:
    """What tells this connection to a cluster from any other; None without one."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.gcs_address, context.get_job_id()


def _started(resources: Mapping[str, float], modules: Sequence[str], **options: Any) -> Any:
    """A handle of a new member."""
    member = ray.remote(concurrency_groups={_ASIDE: 1})(Member).options(
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        label_selector=selector(resources),
        max_restarts=-1,
        max_task_retries=-1,
        **options,
    )
    return member.remote(modules)


def _needs(resources: Mapping[str, float]) -> Needs:
    return tuple(sorted((name, float(count)) for name, count in resources.items() if count))
