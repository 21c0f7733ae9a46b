"""Optimizers and learning-rate schedules from configuration."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from raykd.config.training import (
    AdamW,
    ConstantSchedule,
    CosineSchedule,
    Schedule,
    Sgd,
    StepSchedule,
    Training,
)
from raykd.models.frozen import parameter_groups


class _Uncompiled(torch.optim.Optimizer):
    """An optimizer without torch's wrappers around it, by which its first step imports torch's compiler.

    That takes each process more than a second, and what is compiled here is the model alone. Numbers are the same.
    """

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name in ("add_param_group", "state_dict", "load_state_dict"):
            setattr(cls, name, inspect.unwrap(getattr(cls, name)))
        cls.step = torch.no_grad()(inspect.unwrap(cls.step))  # type: ignore[method-assign]


class _AdamW(_Uncompiled, torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter 2019, algorithm 2)."""


class _Sgd(_Uncompiled, torch.optim.SGD):
    """SGD with momentum."""


def make_optimizer(
    module: nn.Module,
    settings: Sgd | AdamW,
    factors: Mapping[str, float],
    *,
    key: str,
    parted: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters of `module`: one kernel for all of them, on a CPU too.

    Args:
        module: what is trained.
        settings: which optimizer.
        factors: module path -> factor on the learning rate.
        key: dotted key of the fit, for errors.
        parted: whether some parameters are in parts (FSDP), for which there is no such kernel of SGD.
    """
    groups = parameter_groups(module, settings.lr, factors, settings.weight_decay, key=key)
    if parted:
        groups = [part for group in groups for part in _of_one_kind(group)]
    if isinstance(settings, Sgd):
        return _Sgd(
            groups,
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            fused=not parted,
        )
    return _AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def _of_one_kind(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A group of parameters as two: one kernel takes tensors in parts, or whole ones."""
    for whole in (False, True):
        if some := [p for p in group["params"] if (type(p) is nn.Parameter) is whole]:
            yield {**group, "params": some}


def rate_factor(schedule: Schedule, steps_per_epoch: int, steps: int, step: int) -> float:
    """The learning rate of update `step` (from 0) as a part of the highest one."""
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if isinstance(schedule, CosineSchedule):
        return schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2
    if isinstance(schedule, StepSchedule):
        passed = sum(step >= milestone * steps for milestone in schedule.milestones)
        return float(schedule.factor**passed)
    assert isinstance(schedule, ConstantSchedule), f"schedule {schedule.type} has no rule"
    return 1.0


def make_schedule(
    optimizer: torch.optim.Optimizer, training: Training, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule, to be stepped after each update."""
    rule: Callable[[int], float] = partial(
        rate_factor, training.schedule, steps_per_epoch, training.epochs * steps_per_epoch
    )
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rule)
