"""`peers:` students that learn from each other while they train, beside the frozen teachers or in their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from raykd.config.base import Count, NonNegative, Settings, Unit
from raykd.config.schedules import ever_active
from raykd.errors import Problem
from raykd.tasks import find_task

if TYPE_CHECKING:
    from raykd.config.root import Config

WITHOUT_PEERS = "without_peers"
"""The control that is taught as the student is, by the frozen teachers alone."""


class _Heard(Settings):
    share: Unit | None = None
    """How much of the target is what the peers say, in equal parts; the frozen teachers have the rest, as
    `objective.weighting` divides it. 1 = the peers alone, null = a peer counts as much as a teacher."""
    from_epoch: NonNegative = 0
    """Epochs from the start in which nobody listens to peers (burn-in): what untrained networks say teaches little."""

    @property
    def alone(self) -> bool:
        """Whether the frozen teachers have no part in the target."""
        return self.share == 1


class _Several(_Heard):
    count: Count = 2
    """K networks, of which the first is the student; 1 = the recipe without peers."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all peers; the first is the student."""
        return tuple(f"peer{index}" for index in range(self.count))

    def others(self, peer: int) -> tuple[str, ...]:
        """Whom one of them learns from."""
        return tuple(name for index, name in enumerate(self.names) if index != peer)


class MutualLearning(_Several):
    """Deep mutual learning (Zhang et al. 2018): each network learns from what the others say in the same step.

    All see the same batches, in one process.
    """

    type: Literal["dml"] = "dml"


class Codistillation(_Several):
    """Codistillation (Anil et al. 2018): independent fits that learn from copies of each other.

    Each sees the data in its own order. At every multiple of `exchange_every` updates they exchange their weights, those
    after the same number of updates; in between each asks its own copies of the others.
    """

    type: Literal["codistillation"] = "codistillation"
    exchange_every: Count = 100
    """Updates after which weights are exchanged; with more than there are, the fits are independent."""


class MeanTeacher(_Heard):
    """Mean teacher (Tarvainen & Valpola 2017): the student learns from a moving average of its own weights.

    The average sees the same view as the student, in evaluation mode. With `objective.labels.mode: replace`, which is the
    default where few samples have a label, it teaches the samples without one.
    """

    type: Literal["mean_teacher"] = "mean_teacher"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Of the average: θ' ← decay·θ' + (1 − decay)·θ after each update. A short training needs less: of an average over
    1 / (1 − decay) updates little is left to learn where there are not many times as many."""

    @property
    def names(self) -> tuple[str, ...]:
        """The student, and its average."""
        return ("peer0", "average")

    def others(self, peer: int) -> tuple[str, ...]:  # noqa: ARG002 (as of other peers)
        """Whom the student learns from."""
        return self.names[1:]


Peers = Annotated[MutualLearning | Codistillation | MeanTeacher, Field(discriminator="type")]


def _none_of_one(given: Peers | None) -> Peers | None:
    alone = isinstance(given, MutualLearning | Codistillation) and given.count == 1
    return None if alone else given


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
    if config.train.micro_batch_size is not None:
        yield Problem("train.micro_batch_size", f"found {config.train.micro_batch_size} beside `peers`, whose networks hear each "
                      "other on the whole batch: leave one of the two out")  # fmt: skip
    if isinstance(config.peers, Codistillation):
        yield from _apart(config)
    together = isinstance(config.peers, MutualLearning | Codistillation)
    if together and config.student.weights is not None:
        yield Problem("student.weights", "is found beside `peers`, which would all start as the same network and have nothing to "
                      "tell each other; leave one of the two out")  # fmt: skip


def _apart(config: Config) -> Iterator[Problem]:
    """What fits that wait for each other cannot do."""
    kind = "peers.type=codistillation"
    if config.cluster.student.uses_ray_train:
        yield Problem("cluster.student", f"found workers or a trainer of Ray Train beside {kind}, where each network is trained by "
                      "one worker of its own; use workers: 1 and trainer: auto, or peers.type=dml")  # fmt: skip
    if config.train.early_stopping is not None:
        yield Problem("train.early_stopping", f"would end one network while others wait for its weights, with {kind}; leave it out")  # fmt: skip
    if config.targets.mode == "write_through":
        yield Problem("targets.mode", f"found write_through, which stores what the first student asks for; with {kind} several "
                      "begin at once: use stored or live")  # fmt: skip
    if config.search is not None:
        yield Problem("search", f"found beside {kind}: a trial trains one network at a time; search with peers.type=dml, or without "
                      "peers, and leave `search` out here")  # fmt: skip


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
