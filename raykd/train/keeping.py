"""What a checkpoint of a fit under way consists of: of workers that each hold all of it, and of those that hold parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from raykd.errors import CheckpointError
from raykd.train.checkpoint import PARTED, FitFolder, State
from raykd.train.exchange import Exchange
from raykd.train.fit import Fit
from raykd.train.learner import Learner
from raykd.train.peers import MeanTeacher

if TYPE_CHECKING:
    from raykd.train.sharded_states import ShardedStates
    from raykd.train.sharding import Sharing


class Found(NamedTuple):
    """Where training goes on.

    Attributes:
        epoch: the one to begin with.
        within: where every worker stood in it; None = at its beginning.
        instead_of: what is wrong with the state after this one; None = it is the last one.
    """

    epoch: int
    within: State | None
    instead_of: str | None


class Keeper(Protocol):
    """Writes the states of a fit, and goes on from them; every worker of it takes part."""

    def save(self, next_epoch: int, within: State | None, *, wait: bool) -> None:
        """Write the state after an epoch, or `within` the next one; without `wait` perhaps only soon.

        Raises:
            DiskError: the disk is full or cannot be written.
        """
        ...

    def restore(self) -> Found | None:
        """Go on from the last whole state; None where there is none.

        Raises:
            CheckpointError: none that is there is whole and of this fit.
        """
        ...

    def finish(self, epochs: int, result: dict[str, Any], last: dict[str, Tensor]) -> None:
        """Write the weights and the result; states are needed no more."""
        ...


@dataclass(frozen=True)
class WholeStates:
    """Of workers that each hold all of it: the first one writes, before training goes on.

    Attributes:
        fit: what is trained.
        folder: of its checkpoints.
        learners: the student, and its peers.
        exchange: with peers that are trained apart.
        mean_teacher: the average that teaches it.
        rank: of this worker.
    """

    fit: Fit
    folder: FitFolder
    learners: Sequence[Learner]
    exchange: Exchange | None
    mean_teacher: MeanTeacher | None
    rank: int

    def save(self, next_epoch: int, within: State | None, *, wait: bool = True) -> None:
        """See `Keeper`."""
        del wait  # it is written when this returns
        if self.rank:
            return
        student, *peers = self.learners
        state: State = {
            "identity": self.fit.identity,
            "next_epoch": next_epoch,
            "within": within,
            **student.state(),
            **({"peers": [peer.state() for peer in peers]} if peers else {}),
            **({} if self.exchange is None else {"exchange": self.exchange.state()}),
            **(
                {}
                if self.mean_teacher is None
                else {"mean": self.mean_teacher.average.state_dict()}
            ),
        }
        last, best = student.weights(), student.best.weights
        self.folder.save(state, last, best or last)

    def restore(self) -> Found | None:
        """See `Keeper`."""
        restored = self.folder.load(self.fit.identities)
        if restored is None:
            if any((self.folder.path / PARTED).glob("*/whole.json")):
                raise CheckpointError(
                    f"{self.folder.path / PARTED} was written with cluster.student.strategy: fsdp, which ddp does not read; set it "
                    f"to fsdp to go on, or delete {self.folder.path} to train this fit anew"
                )
            return None
        state = restored.state
        student, *peers = self.learners
        student.restore(state)
        for peer, own in zip(peers, state.get("peers", ()), strict=True):
            peer.restore(own)
        if self.exchange is not None:
            self.exchange.restore(state["exchange"])
        if self.mean_teacher is not None:
            self.mean_teacher.average.load_state_dict(state["mean"])
        return Found(int(state["next_epoch"]), state["within"], restored.instead_of)

    def finish(self, epochs: int, result: dict[str, Any], last: dict[str, Tensor]) -> None:
        """See `Keeper`."""
        del last
        if self.rank:
            return
        self.save(epochs, None)
        for index, peer in enumerate(self.learners[1:], 1):
            weights = peer.weights()
            self.folder.peer(index).keep(
                {"identity": self.fit.identity, **peer.result(weights)}, weights, peer.best.weights
            )
        self.folder.finish(result, forgets=self.exchange is None)


class PartedStates:
    """Of workers that hold parts of it: each writes its own, while training goes on.

    Args:
        fit: what is trained.
        folder: of its checkpoints.
        learner: the student; it has no peers.
        sharing: the workers.
        states: its checkpoints.
    """

    def __init__(
        self,
        fit: Fit,
        folder: FitFolder,
        learner: Learner,
        sharing: Sharing,
        states: ShardedStates,
    ) -> None:
        self._fit, self._folder, self._learner = fit, folder, learner
        self._sharing, self._states = sharing, states

    def save(self, next_epoch: int, within: State | None, *, wait: bool) -> None:
        """See `Keeper`."""
        step = next_epoch * self._fit.plan.steps_per_epoch
        step += within["sums"]["steps"] if within else 0
        learner = self._learner
        notes = {"next_epoch": next_epoch, "within": within, **learner.notes()}
        best = {f"best.{name}": tensor for name, tensor in learner.best.weights.items()}
        tensors = {**learner.tensors(), **best}
        self._states.save(step, self._fit.identity, tensors, notes, wait=wait)

    def restore(self) -> Found | None:
        """See `Keeper`."""
        found = self._states.restore(self._fit.identities)
        if found is None:
            return None
        place, problem = found
        notes = self._states.notes(place)
        tensors, best = self._template(place)
        self._states.load(place, {**tensors, **best})
        own = {name.removeprefix("best."): tensor for name, tensor in best.items()}
        self._learner.restore_parts(tensors, notes, own)
        return Found(int(notes["next_epoch"]), notes["within"], problem)

    def _template(self, place: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tensors to be filled: the learner's, and, on the first worker, the weights of the best epoch."""
        shapes = self._states.shapes(place)
        best = {
            name: torch.empty(shape, dtype=dtype)
            for name, (shape, dtype) in shapes.items()
            if name.startswith("best.") and not self._sharing.rank
        }
        rest = {n: shape for n, shape in shapes.items() if not n.startswith("best.")}
        return self._learner.room_for(rest), best

    def finish(self, epochs: int, result: dict[str, Any], last: dict[str, Tensor]) -> None:
        """See `Keeper`."""
        del epochs
        self._sharing.wait()
        if not self._sharing.rank:
            self._folder.keep(result, last, self._learner.best.weights or last)
        self._states.forget()


def keeper_of(
    fit: Fit,
    folder: FitFolder,
    learners: Sequence[Learner],
    sharing: Sharing | None,
    others: tuple[Exchange | None, MeanTeacher | None],
    rank: int,
) -> Keeper:
    """The keeper of a fit; `others` are those from which its student learns, and that have states too."""
    if sharing is None:
        return WholeStates(fit, folder, learners, *others, rank)
    from raykd.train.sharded_states import ShardedStates  # torch's checkpoints take long to import

    states = ShardedStates(folder.path, sharing)
    return PartedStates(fit, folder, learners[0], sharing, states)
