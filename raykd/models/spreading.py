"""A model of transformers over several devices of one process (`teachers[].resources.device_map`), by accelerate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raykd.errors import TeacherError
from raykd.importing import load_package
from raykd.models.network import Network
from raykd.models.zoo.hubs import HfCausal, Pooled

DeviceMap = str | Mapping[str, int | str]
"""`auto`, `balanced` or `sequential`, or path of a module -> number of a GPU of the process, or `cpu`."""


def require_accelerate(key: str) -> Any:
    """The package.

    Raises:
        InputError: it is not there; names the extra.
    """
    return load_package("accelerate", install="raykd[large]", key=key)


def spread(network: Network, device_map: DeviceMap, device: torch.device, *, key: str) -> Network:
    """Lay a network over devices, in place: each layer computes where it lies, and what comes out is where inputs were.

    The numbers are those of one device of the same kind: only where a layer is computed changes.

    Args:
        network: of a model of transformers, with its weights and in its dtype, on the CPU.
        device_map: what lies where.
        device: where inputs are going to be.
        key: dotted key of the map, for errors.

    Raises:
        InputError: accelerate is missing.
        TeacherError: the map leaves out modules, or the model does not fit.
    """
    accelerate = require_accelerate(key)
    for name, part in network.named_children():
        if name != "model":
            part.to(device)
    if device.type == "cpu":  # also where GPUs are logical
        network.model.to(device)
        return network
    inner = _of_transformers(network.model)
    found = device_map
    if isinstance(found, str):
        kept = sorted(getattr(inner, "_no_split_modules", None) or ())
        memory = None
        if found != "sequential":
            memory = accelerate.utils.get_balanced_memory(inner, no_split_module_classes=kept)
        found = accelerate.infer_auto_device_map(
            inner, max_memory=memory, no_split_module_classes=kept
        )
        if "disk" in (places := set(found.values())) or "cpu" in places:
            raise TeacherError(
                f"{key}: found {device_map}, but the model does not fit into the {torch.cuda.device_count()} GPUs of its process: "
                "raise its resources.gpus, or name what is to lie on the CPU, {module: number or cpu}"
            )
    try:
        accelerate.dispatch_model(inner, dict(found), main_device=0)
    except ValueError as error:
        why = " ".join(str(error).split())[:300]
        raise TeacherError(f"{key}: the map does not fit the model: {why}") from error
    return network


def _of_transformers(model: nn.Module) -> nn.Module:
    """The model as transformers has made it."""
    if isinstance(model, HfCausal):
        inner: nn.Module = model.model
        return inner
    return model.encoder if isinstance(model, Pooled) else model
