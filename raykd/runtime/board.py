"""Where processes leave bytes for each other at agreed steps: a named actor that holds references to them.

The bytes lie in the object store and go from there to whoever takes them; the board owns them, so that they outlive the
process that left them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_CALL_TIMEOUT_S = 120.0
_PATIENCE_S = 60.0
_POLL_S = 0.02
_KEPT = 2
_CALLS = 1000


class _Board:
    """References by (name, step), and who is at work now."""

    def __init__(self) -> None:
        self._refs: defaultdict[str, dict[int, Any]] = defaultdict(dict)
        self._here: set[str] = set()

    async def enter(self, name: str) -> None:
        self._here.add(name)

    async def leave(self, name: str) -> None:
        self._here.discard(name)

    async def put(self, name: str, step: int, payload: bytes) -> None:
        """Keep what a name has left; of each name the last two steps."""
        own = self._refs[name]
        if step not in own:
            own[step] = ray.put(payload)
        for old in sorted(own)[:-_KEPT]:
            del own[old]

    async def take(
        self, names: Sequence[str], step: int, patience_s: float
    ) -> tuple[list[Any] | None, str | None]:
        """What all names have left at a step; or None; or whose is gone for ever.

        Names that are at work are waited for, those that are not cannot come before whoever asks goes away.
        """
        until = time.monotonic() + patience_s
        while True:
            missing = [name for name in names if step not in self._refs[name]]
            if not missing:
                return [self._refs[name][step] for name in names], None
            past = [name for name in missing if min(self._refs[name], default=step) > step]
            if past:
                return None, past[0]
            if time.monotonic() > until or not self._here.issuperset(missing):
                return None, None
            await asyncio.sleep(_POLL_S)


@dataclass(frozen=True)
class Board:
    """A board as any process of the cluster sees it; every call is bounded.

    Attributes:
        actor: the actor.
    """

    actor: Any

    def enter(self, name: str) -> None:
        """Somebody of this name is at work from now on."""
        ray.get(self.actor.enter.remote(name), timeout=_CALL_TIMEOUT_S)

    def leave(self, name: str) -> None:
        """It goes away, perhaps to come back."""
        ray.get(self.actor.leave.remote(name), timeout=_CALL_TIMEOUT_S)

    def put(self, name: str, step: int, payload: bytes) -> None:
        """Leave bytes for the others; what is there already stays."""
        ray.get(self.actor.put.remote(name, step, payload), timeout=_CALL_TIMEOUT_S)

    def take(self, names: Sequence[str], step: int) -> tuple[list[bytes] | None, str | None]:
        """The bytes that all names have left at a step, or None where they have not; and whose are gone for ever.

        Waits a minute at most, and only for names that are at work.
        """
        asked = self.actor.take.remote(list(names), step, _PATIENCE_S)
        refs, past = ray.get(asked, timeout=_PATIENCE_S + _CALL_TIMEOUT_S)
        return (None if refs is None else ray.get(refs, timeout=_CALL_TIMEOUT_S)), past

    def close(self) -> None:
        """End it, with all that is left there."""
        ray.kill(self.actor)


def new_board() -> Board:
    """A board on this node, which lives until it is closed, or as long as this driver; takes no CPU."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": _CALLS}
    name = f"raykd-board-{secrets.token_hex(4)}"
    return Board(ray.remote(_Board).options(name=name, **options).remote())
