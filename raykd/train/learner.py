"""One network that is trained: its objective, optimizer, schedule, average and best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raykd.data import Samples
from raykd.errors import TrainingError
from raykd.evaluate.task import TaskMetrics
from raykd.models.network import Network
from raykd.models.weights import fingerprint
from raykd.train.checkpoint import State
from raykd.train.fit import Fit
from raykd.train.optim import make_optimizer, make_schedule
from raykd.train.step import DistillModule, Update
from raykd.train.validation import Best, validate
from raykd.train.world import World

if TYPE_CHECKING:
    from raykd.train.sharding import Sharing

_MODULE, _OPTIMIZER, _AVERAGE = "module.", "optimizer.", "average."


class Learner:
    """What the loop trains, validates and keeps: the student, and each of its peers.

    Args:
        fit: how it is trained.
        module: network and objective, on their device.
        task: whose metrics judge it.
        sharing: the workers that hold the network in parts; None = each holds all of it. It is parted here.

    Attributes:
        module: network and objective.
        update: optimizer, schedule, clipping and averages.
        best: the best epoch so far, with its weights.
        last: validation metrics of the last epoch.
    """

    def __init__(
        self,
        fit: Fit,
        module: DistillModule,
        task: TaskMetrics,
        sharing: Sharing | None = None,
    ) -> None:
        training, model = fit.training, module.network.model
        self.module, self._sharing = module, sharing
        parted = sharing is not None
        self._average = (
            None if training.ema is None else averaged(model, training.ema, parted=parted)
        )
        if sharing is not None:
            for one in (model, *(() if self._average is None else (self._average.module,))):
                sharing.shard(one)
        assert training.optimizer is not None, "`prepare` has chosen one"
        optimizer = make_optimizer(
            module,
            training.optimizer,
            {f"network.model.{path}": factor for path, factor in fit.lr_factors.items()},
            key=fit.key,
            parted=parted,
        )
        self.update = Update(
            module,
            optimizer,
            make_schedule(optimizer, training, fit.plan.steps_per_epoch),
            clip_norm=training.clip_norm,
            averages=() if self._average is None else (self._average,),
            sharing=sharing,
        )
        self.best = Best(task, training.select)
        self.last: dict[str, float] = {}

    def follow(self, average: AveragedModel) -> None:
        """Keep another average of its weights, after each update."""
        self.update.averages = (*self.update.averages, average)

    def judge(self, epoch: int, samples: Samples, rows: np.ndarray, world: World) -> None:
        """Validate, and keep the weights where they are the best so far.

        Raises:
            TrainingError: a metric is NaN or infinite.
        """
        self.last = validate(self._judged(), samples, rows, world, self.best.task)
        if not all(map(math.isfinite, self.last.values())):
            raise TrainingError(
                f"the validation loss became NaN or infinite in epoch {epoch + 1} ({self.last}); "
                "lower train.optimizer.lr or set train.clip_norm"
            )
        self.best.update(epoch, self.last, self.weights)

    def _judged(self) -> nn.Module:
        """The network that is validated and kept: the moving average when there is one."""
        network = self.module.network
        if self._average is None:
            return network
        return Network(self._average.module, network.preprocessing, network.scale)

    def weights(self) -> dict[str, Tensor]:
        """Of the network that is validated and kept, as they are now; of one in parts, for the first worker alone.

        Every worker takes part.
        """
        model = self.module.network.model if self._average is None else self._average.module
        state = model.state_dict()
        return dict(state) if self._sharing is None else self._sharing.gathered(state.items())

    def state(self) -> State:
        """All that it takes to go on with the same bits."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.update.optimizer.state_dict(),
            "schedule": self.update.schedule.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "best": {
                "weights": self.best.weights,
                "metrics": self.best.metrics,
                "epoch": self.best.epoch,
            },
            "last": self.last,
        }

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        self.module.load_state_dict(state["module"])
        self.update.optimizer.load_state_dict(state["optimizer"])
        self.update.schedule.load_state_dict(state["schedule"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        best, self.last = state["best"], state["last"]
        self.best.weights, self.best.metrics, self.best.epoch = (
            best["weights"],
            best["metrics"],
            best["epoch"],
        )

    def tensors(self) -> dict[str, Tensor]:
        """Of `state`, the tensors, by name, but the weights of the best epoch; of a network in parts this worker's."""
        found = {f"{_MODULE}{name}": one for name, one in self.module.state_dict().items()}
        kept = self.update.optimizer.state
        for name, parameter in self.module.named_parameters():
            for key, value in kept[parameter].items() if parameter in kept else ():
                if isinstance(value, Tensor):
                    found[f"{_OPTIMIZER}{name}.{key}"] = value
        if self._average is not None:
            found |= {f"{_AVERAGE}{name}": one for name, one in self._average.state_dict().items()}
        return found

    def notes(self) -> State:
        """Of `state`, what is no tensor."""
        groups = self.update.optimizer.param_groups
        return {
            "groups": [{k: v for k, v in group.items() if k != "params"} for group in groups],
            "schedule": self.update.schedule.state_dict(),
            "best": {"metrics": self.best.metrics, "epoch": self.best.epoch},
            "last": self.last,
        }

    def room_for(self, shapes: Mapping[str, tuple[torch.Size, torch.dtype]]) -> dict[str, Tensor]:
        """Tensors of these names, as of `tensors`, to be filled; those of the optimizer are new."""
        found, parameters = self.tensors(), dict(self.module.named_parameters())
        for name, (shape, dtype) in shapes.items():
            if name.startswith(_OPTIMIZER):
                path, _, _ = name.removeprefix(_OPTIMIZER).rpartition(".")
                like = parameters[path].detach()
                same = shape == like.shape
                found[name] = (
                    torch.zeros_like(like, dtype=dtype)
                    if same
                    else torch.zeros(shape, dtype=dtype, device=like.device)
                )
        return {name: found[name] for name in shapes}

    def restore_parts(
        self, tensors: Mapping[str, Tensor], notes: State, best: dict[str, Tensor]
    ) -> None:
        """Go on from what `tensors` and `notes` gave, and the weights of the best epoch.

        Args:
            tensors: what `room_for` gave, filled.
            notes: what `notes` gave.
            best: weights.
        """
        parameters, optimizer = dict(self.module.named_parameters()), self.update.optimizer
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                path, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
                optimizer.state[parameters[path]][key] = tensor
        for group, own in zip(optimizer.param_groups, notes["groups"], strict=True):
            group.update(own)
        self.update.schedule.load_state_dict(notes["schedule"])
        self.best.weights, self.last = best, notes["last"]
        self.best.metrics, self.best.epoch = notes["best"]["metrics"], notes["best"]["epoch"]

    def result(self, last: Mapping[str, Tensor]) -> State:
        """How its training ended, `last` being its weights then."""
        return {
            "best_epoch": self.best.epoch,
            "best": self.best.metrics,
            "last": self.last,
            "fingerprints": {
                "best": fingerprint(self.best.weights),
                "last": fingerprint(last),
            },
        }


def averaged(model: nn.Module, decay: float, *, parted: bool = False) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers, which begins with the first update.

    Args:
        model: whose; it is not in parts yet.
        decay: of the average.
        parted: whether both are going to be.
    """
    rule = get_ema_multi_avg_fn(decay)
    if parted:
        from raykd.train.sharding import local_rule  # FSDP takes long to import

        rule = local_rule(rule)
    return AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
