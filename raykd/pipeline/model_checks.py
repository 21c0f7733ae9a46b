"""What one model must be, held against its settings and the data before anything starts.

Every function raises InputError, which names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from raykd.config import Config
from raykd.config.models import Teacher
from raykd.errors import InputError, Problem
from raykd.models.weights import count_parameters, size_bytes
from raykd.models.zoo.foreign import ForeignModel

Shape = tuple[int, ...]


def check_answer(teacher: Teacher, found: Shape, outputs: int, key: str) -> None:
    """The shape of an answer goes with `kind` and `label_map`."""
    if teacher.kind == "top1":
        if found not in ((), (1,)):
            raise InputError(
                Problem(f"{key}.kind", f"top1 is one number per sample; the model answers {list(found)}")
            )  # fmt: skip
    elif teacher.label_map is None:
        check_classes(found, outputs, f"{key}.model")
    elif found != (outputs,):
        raise InputError(
            Problem(f"{key}.label_map", f"has {outputs} entries; the model answers {list(found)} per sample: give "
                    "one for each of its classes, null for those that are none of the data's")
        )  # fmt: skip


def check_trainable(model: nn.Module, key: str) -> None:
    """A model that is to be fitted has parameters."""
    if isinstance(model, ForeignModel):
        raise InputError(
            Problem(key, "has no parameters that could be trained; a function of arrays can be a teacher "
                    "without `fit`")
        )  # fmt: skip


def check_classes(found: Shape, classes: int, key: str) -> None:
    """A model answers one number for each class, label or value of the data."""
    if found != (classes,):
        raise InputError(
            Problem(key, f"answers {list(found)} per sample; the data has {classes} classes (labels, values); "
                    "mend the model's number of outputs, or give a label_map")
        )  # fmt: skip


def check_limits(config: Config, model: nn.Module) -> None:
    """The student keeps to `student.limits`."""
    limits, problems = config.student.limits, []
    parameters, megabytes = count_parameters(model, trainable=True), size_bytes(model) / 1e6
    if limits.parameters is not None and parameters > limits.parameters:
        problems.append(
            Problem("student.limits.parameters", f"is {limits.parameters:,}, the student has {parameters:,}; "
                    "lower student.model.width or depth")
        )  # fmt: skip
    if limits.size_mb is not None and megabytes > limits.size_mb:
        problems.append(
            Problem("student.limits.size_mb", f"is {limits.size_mb:g}, the student has {megabytes:.3g}; lower "
                    "student.model.width or depth")
        )  # fmt: skip
    if problems:
        raise InputError(problems)


def check_last_batch(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    rows: int,
    batch_size: int,
    *,
    key: str,
    workers: int = 1,
) -> None:
    """No worker's part of an epoch's last batch is a single sample that batch norm cannot be trained on."""

    def last(size: int) -> int:
        return rows % size or min(size, rows)

    batch_norm = any(isinstance(module, _BatchNorm) for module in network.modules())
    if last(batch_size) >= 2 * workers or not batch_norm:
        return
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    try:
        with torch.no_grad():
            deepcopy(network).train()(one)
    except ValueError:  # PyTorch: more than one value per channel is needed
        fitting = (size for size in range(batch_size + 1, rows + 1) if last(size) >= 2 * workers)
        better = next(fitting, None)
        mend = "label more samples" if better is None else f"set it to {better}"
        raise InputError(
            Problem(f"{key}.batch_size", f"is {batch_size}, which leaves {last(batch_size)} of {rows} samples for an "
                    f"epoch's last batch, and one for a worker: batch norm cannot be trained on that; {mend}")
        ) from None  # fmt: skip
