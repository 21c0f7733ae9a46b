"""One network that is trained: its objective, optimizer, schedule, average and best epoch."""

from __future__ import annotations

import math

import numpy as np
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


class Learner:
    """What the loop trains, validates and keeps: the student, and each of its peers.

    Args:
        fit: how it is trained.
        module: network and objective, on their device.
        task: whose metrics judge it.

    Attributes:
        module: network and objective.
        update: optimizer, schedule, clipping and averages.
        best: the best epoch so far, with its weights.
        last: validation metrics of the last epoch.
    """

    def __init__(self, fit: Fit, module: DistillModule, task: TaskMetrics) -> None:
        training, model = fit.training, module.network.model
        self.module = module
        self._average = None if training.ema is None else averaged(model, training.ema)
        assert training.optimizer is not None, "`prepare` has chosen one"
        optimizer = make_optimizer(
            module,
            training.optimizer,
            {f"network.model.{path}": factor for path, factor in fit.lr_factors.items()},
            key=fit.key,
        )
        self.update = Update(
            module,
            optimizer,
            make_schedule(optimizer, training, fit.plan.steps_per_epoch),
            clip_norm=training.clip_norm,
            averages=() if self._average is None else (self._average,),
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
        self.best.update(epoch, self.last, self.weights())

    def _judged(self) -> nn.Module:
        """The network that is validated and kept: the moving average when there is one."""
        network = self.module.network
        if self._average is None:
            return network
        return Network(self._average.module, network.preprocessing, network.scale)

    def weights(self) -> dict[str, Tensor]:
        """Of the network that is validated and kept, as they are now."""
        model = self.module.network.model if self._average is None else self._average.module
        return dict(model.state_dict())

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

    def result(self) -> State:
        """How its training ended."""
        return {
            "best_epoch": self.best.epoch,
            "best": self.best.metrics,
            "last": self.last,
            "fingerprints": {
                "best": fingerprint(self.best.weights),
                "last": fingerprint(self.weights()),
            },
        }


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers, which begins with the first update."""
    rule = get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=rule, use_buffers=True)
