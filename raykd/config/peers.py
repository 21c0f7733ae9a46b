"""`peers:` students that learn from each other while they train, beside the frozen teachers or in their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from raykd.config.base import Count, NonNegative, Settings, Unit
from raykd.config.schedules import ever_active
from raykd.errors import Problem
from raykd.tasks import find_task

if TYPE_CHECKING:
    from raykd.config.root import Config

WITHOUT_PEERS = "without_peers"
"""The control that is taught as the student is, by the frozen teachers alone."""


class _Shared(Settings):
    share: Unit | None = None
    """How much of the target is what the peers say, in equal parts; the frozen teachers have the rest, as
    `objective.weighting` divides it. 1 = the peers alone, null = a peer counts as much as a teacher."""
    from_epoch: NonNegative = 0
    """Epochs from the start in which nobody listens to peers (burn-in): what untrained networks say teaches little."""

    @property
    def alone(self) -> bool:
        """Whether the frozen teachers have no part in the target."""
        return self.share == 1


class MutualLearning(_Shared):
    """Deep mutual learning (Zhang et al. 2018): each network learns from what the others say in the same step.

    All see the same batches, in one process.
    """

    type: Literal["dml"] = "dml"
    count: Count = 2
    """K networks, of which the first is the student; 1 = the recipe without peers."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all peers; the first is the student."""
        return tuple(f"peer{index}" for index in range(self.count))

    def others(self, peer: int) -> tuple[str, ...]:
        """Whom one of them learns from."""
        return tuple(name for index, name in enumerate(self.names) if index != peer)


Peers = MutualLearning


def _none_of_one(given: Peers | None) -> Peers | None:
    return None if given is not None and given.count == 1 else given


MaybePeers = Annotated[Peers | None, AfterValidator(_none_of_one)]
"""One peer is the recipe without peers: the same settings, the same identity, the same bits."""


def peer_problems(config: Config) -> Iterator[Problem]:
    """What leaves peers nothing to say or nobody to listen, or what they cannot do yet.

    Args:
        config: the recipe.
    """
    if config.peers is None:
        if WITHOUT_PEERS in config.evaluate.controls:
            yield Problem("evaluate.controls", f"holds {WITHOUT_PEERS}, but the recipe has no peers, so that it would be the "
                          "student again; leave it out, or give `peers`")  # fmt: skip
        return
    task = find_task(config.task).settings
    if not task.class_logits or task.chunks:
        yield Problem("peers", f"found with `task: {config.task}`; what peers say is learnt as probabilities of classes: "
                      "`task: classification` only, leave it out")  # fmt: skip
        return
    yield from _learnt(config)
    if config.peers.from_epoch >= config.train.epochs:
        yield Problem("peers.from_epoch", f"found {config.peers.from_epoch:g}, but train.epochs is {config.train.epochs}: nobody "
                      "would ever listen to a peer; lower it, or leave `peers` out")  # fmt: skip
    if config.student.weights is not None:
        yield Problem("student.weights", "is found beside `peers`, which would all start as the same network and have nothing to "
                      "tell each other; leave one of the two out")  # fmt: skip


def _learnt(config: Config) -> Iterator[Problem]:
    """Peers are listened to by soft targets."""
    soft = config.objective.soft_targets
    if config.objective.choose is not None:
        yield Problem("objective.choose", "chooses by what the frozen teachers say, before there are peers; name the target "
                      "that is to be learnt, or leave `peers` out")  # fmt: skip
        return
    if soft is None or not ever_active(soft.strength):
        yield Problem("peers", "only soft targets are learnt from peers, and there are none (objective.soft_targets); give them a "
                      "weight, or leave `peers` out")  # fmt: skip
    elif soft.sharpen == "fit":
        yield Problem("objective.soft_targets.sharpen", "found fit, a temperature for the mixture of the frozen teachers; of a "
                      "mixture with peers, who change, it is not known: give a number, or leave it out")  # fmt: skip
