"""Processes that outlive a piece of work: what is idle takes the next one, its imports already paid for."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import ray

Result = TypeVar("Result")
Needs = tuple[tuple[str, float], ...]
"""Resources of one member, by Ray's names."""
_SEED = 0
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
        for name in modules:
            import_module(name)

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

    def start(
        self, resources: Mapping[str, float], count: int, modules: Sequence[str] = ()
    ) -> None:
        """Have idle members start, ahead of what they will be needed for."""
        for _ in range(count):
            member = ray.remote(concurrency_groups={_ASIDE: 1})(Member).options(
                num_cpus=resources["CPU"],
                num_gpus=resources.get("GPU", 0),
                max_restarts=-1,
                max_task_retries=-1,
            )
            self.give_back(member.remote(modules), resources)

    def give_back(self, member: Any, resources: Mapping[str, float]) -> None:
        """It is idle again."""
        self._idle[_needs(resources)].append(member)

    def dismiss(self) -> None:
        """End what is idle, so that others get its resources."""
        for idle in self._idle.values():
            while idle:
                ray.kill(idle.pop())


def _needs(resources: Mapping[str, float]) -> Needs:
    return tuple(sorted((name, float(count)) for name, count in resources.items() if count))
