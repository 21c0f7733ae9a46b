"""Freezing parts of a model, and learning rates by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from raykd.errors import Problem, refuse
from raykd.models.names import belongs, unknown
from raykd.models.network import core


def _check_prefixes(module: nn.Module, prefixes: Iterable[str], key: str) -> None:
    modules = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    known = dict.fromkeys([*modules, *(name for name, _ in module.named_parameters())])
    refuse(Problem(key, unknown(prefix, known)) for prefix in prefixes if prefix not in known)


def freeze(module: nn.Module, prefixes: Iterable[str], *, key: str) -> None:
    """Take the parameters below `prefixes` out of training; see also `set_training`.

    Args:
        module: the model, or a Network for its model; changed in place.
        prefixes: dotted module paths (or parameter names).
        key: dotted key of the recipe that names them, for errors.

    Raises:
        InputError: unknown prefixes, all at once, with the nearest names; nothing was frozen.
    """
    root = core(module)
    given = tuple(prefixes)
    _check_prefixes(root, given, key)
    for name, parameter in root.named_parameters(remove_duplicate=False):
        if any(belongs(name, prefix) for prefix in given):
            parameter.requires_grad_(False)


def set_training(module: nn.Module, frozen_prefixes: Iterable[str] = ()) -> None:
    """Training mode, but evaluation mode below `frozen_prefixes`.

    Call it instead of `module.train()`: batch statistics move even where nothing has a gradient, and
    dropout would make a frozen part random.

    Args:
        module: the model, or a Network for its model; changed in place.
        frozen_prefixes: what `freeze` was given.
    """
    given = tuple(frozen_prefixes)
    module.train()
    for name, part in core(module).named_modules(remove_duplicate=False):
        if any(belongs(name, prefix) for prefix in given):
            part.eval()


def parameter_groups(
    module: nn.Module,
    lr: float,
    factors: Mapping[str, float],
    weight_decay: float,
    *,
    key: str,
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer.

    Frozen parameters are left out. Biases, norms and other parameters of at most one dimension get no
    weight decay.

    Args:
        module: the model, or a Network for its model.
        lr: learning rate where no factor applies.
        factors: module path -> factor of `lr`; the longest path that a parameter belongs to counts.
        weight_decay: of the parameters with two dimensions or more.
        key: dotted key of the recipe that holds the factors, for errors.

    Returns:
        Groups of `params`, `lr` and `weight_decay`, in the order in which their first parameter is
        defined; each parameter in one of them.

    Raises:
        InputError: unknown module paths, all at once, with the nearest names.
    """
    root = core(module)
    _check_prefixes(root, factors, key)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in root.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = max((p for p in factors if belongs(name, p)), key=len, default=None)
        factor = 1.0 if prefix is None else factors[prefix]
        decay = weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
