"""Codistillation: one peer's side of the exchange of weights, and the copies of the others that it learns from.

A peer learns from the others' weights as they were at the last multiple of `exchange_every` updates, never from newer
ones: so the same bits come out however the peers are spread over processes, and whenever one is stopped. It writes a
checkpoint with its own weights before anybody else can have them, so that it never has to make them again. Of what it
has left for the others it keeps the last two: none of them can be further behind.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn

from raykd.config.peers import Codistillation
from raykd.data import Samples
from raykd.errors import CheckpointError, WaitingError
from raykd.models.network import Network, placed
from raykd.train.checkpoint import FitFolder, State
from raykd.train.fit import PEERS, Fit, build_network, id_of_peer
from raykd.train.world import World

_KEPT = 2
Said = Callable[[Network], Tensor]
"""A network -> what it puts out for the inputs of a step."""


class Board(Protocol):
    """Where peers leave weights for each other; see `raykd.runtime.board`."""

    def enter(self, name: str) -> None:
        """Somebody of this name is at work from now on."""
        ...

    def leave(self, name: str) -> None:
        """It goes away, perhaps to come back."""
        ...

    def put(self, name: str, step: int, payload: bytes) -> None:
        """Leave bytes for the others."""
        ...

    def take(self, names: Sequence[str], step: int) -> tuple[list[bytes] | None, str | None]:
        """The bytes of all names at a step, or None; and whose are gone for ever."""
        ...


class LocalBoard:
    """A board for peers that take turns in one process: nobody is waited for."""

    def __init__(self) -> None:
        self._left: dict[str, dict[int, bytes]] = {}

    def enter(self, name: str) -> None:
        """Nobody else is at work."""

    def leave(self, name: str) -> None:
        """Nobody waits."""

    def put(self, name: str, step: int, payload: bytes) -> None:
        """Keep the bytes, of each name the last two."""
        own = self._left.setdefault(name, {})
        own[step] = payload
        for old in sorted(own)[:-_KEPT]:
            del own[old]

    def take(self, names: Sequence[str], step: int) -> tuple[list[bytes] | None, str | None]:
        """What is there."""
        left = [self._left.get(name, {}) for name in names]
        past = [n for n, own in zip(names, left, strict=True) if min(own, default=step) > step]
        found = [own[step] for own in left if step in own]
        return (found if len(found) == len(names) else None), (past[0] if past else None)


class Copies:
    """The other peers as they were at the last exchange; they are never trained.

    Args:
        networks: name -> network of its kind, whose weights do not count yet.

    Attributes:
        step: of the exchange; None before the first.
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self.step: int | None = None
        self._networks = {name: network.eval() for name, network in networks.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the other peers."""
        return tuple(self._networks)

    @torch.no_grad()
    def outputs(self, said: Said) -> dict[str, Tensor]:
        """What each of them puts out; nothing before the first exchange."""
        if self.step is None:
            return {}
        return {name: said(network) for name, network in self._networks.items()}

    def load(self, step: int, weights: Sequence[Mapping[str, Tensor]]) -> None:
        """Take the others' weights of one exchange, in the order of `names`."""
        for network, own in zip(self._networks.values(), weights, strict=True):
            network.model.load_state_dict(own)
        self.step = step

    def state(self) -> State:
        """All that it takes to go on."""
        found = {name: dict(one.model.state_dict()) for name, one in self._networks.items()}
        return {"step": self.step, "weights": {} if self.step is None else found}

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        if state["step"] is not None:
            self.load(state["step"], [state["weights"][name] for name in self.names])


class Exchange:
    """When a peer exchanges weights, what it has left for the others, and whose copies it learns from.

    Args:
        fit: of one peer.
        samples: the data.
        board: where weights are left and taken.
        world: this worker.
    """

    def __init__(self, fit: Fit, samples: Samples, board: Board, world: World) -> None:
        assert isinstance(fit.peers, Codistillation), "others exchange nothing"
        assert fit.peer is not None, "one of its pieces"
        self._every, self._steps, self._board = fit.peers.exchange_every, fit.steps, board
        others = [peer for peer in range(fit.peers.count) if peer != fit.peer]
        self._own, self._others = fit.fit_id, [id_of_peer(fit.fit_id, peer) for peer in others]
        self.copies = Copies(
            {
                name: placed(build_network(fit, samples), world.device, tf32=True)
                for name in fit.peers.others(fit.peer)
            }
        )
        self._left: dict[int, dict[str, Tensor]] = {}
        self._before_s, self._begun = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """That the peer has been at work, over all its turns."""
        return self._before_s + time.monotonic() - self._begun

    def due(self, step: int) -> bool:
        """Whether the weights after so many updates are to be exchanged, and have not been."""
        return 0 < step < self._steps and not step % self._every and self.copies.step != step

    def keep(self, step: int, model: nn.Module) -> None:
        """Remember the peer's own weights, for the checkpoint that has to be written before `swap`."""
        weights = {n: t.detach().cpu().clone().contiguous() for n, t in model.state_dict().items()}
        self._left = dict([*sorted(self._left.items())[1 - _KEPT :], (step, weights)])

    def swap(self, step: int) -> None:
        """Leave the peer's own weights, and take those of the others.

        Raises:
            WaitingError: they are not there yet; this peer goes on from its checkpoint once they are.
            CheckpointError: another peer has gone past this step, and does not have its weights any more.
        """
        self.leave()
        found, past = self._board.take(self._others, step)
        if past is not None:
            raise CheckpointError(
                f"{self._own} needs the weights of {past} after step {step}, which has gone past it and does not keep them: a "
                f"checkpoint was damaged or deleted; delete checkpoints/{self._own.split(PEERS)[0]} in the run's folder and "
                "resume the run to train all of them anew"
            )
        if found is None:
            raise WaitingError(f"{self._own} waits after step {step} for the other peers")
        self.copies.load(step, [tensors_of(payload) for payload in found])

    def leave(self) -> None:
        """Leave what the others may still need."""
        for step, weights in self._left.items():
            self._board.put(self._own, step, bytes_of(weights))

    def rejoin(self, step: int) -> None:
        """Begin, or go on from a checkpoint after so many updates.

        Raises:
            WaitingError: as `swap`.
            CheckpointError: as `swap`.
        """
        if self.due(step):
            self.swap(step)
        else:
            self.leave()

    def staleness(self, first: int, last: int) -> float | None:
        """How many updates ago the copies were made, mean over the updates `first` to `last`; None before any."""
        ages = [step % self._every for step in range(first, last) if step >= self._every]
        return sum(ages) / len(ages) if ages else None

    def state(self) -> State:
        """All that it takes to go on, and to give the others what they still need."""
        return {"copies": self.copies.state(), "left": self._left, "seconds": self.seconds}

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        self.copies.restore(state["copies"])
        self._left, self._before_s = dict(state["left"]), state["seconds"]


def take_turns(pieces: Sequence[Fit], train: Callable[[Fit], object]) -> None:
    """Train the peers of a fit one after the other in one process, each as far as it comes without the others.

    Args:
        pieces: the peers.
        train: trains one to its end, or raises `WaitingError`.
    """
    waiting = deque(pieces)
    while waiting:
        piece = waiting.popleft()
        try:
            train(piece)
        except WaitingError:
            waiting.append(piece)


def leave_again(fit: Fit, folder: FitFolder, board: Board) -> None:
    """Leave what a finished peer keeps for others that are behind it."""
    restored = folder.load(fit.identities)
    left = {} if restored is None else restored.state["exchange"]["left"]
    for step, weights in left.items():
        board.put(fit.fit_id, step, bytes_of(weights))
