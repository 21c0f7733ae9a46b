"""A model made by the user's own function, or a function that is itself made by it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.models.zoo.foreign import CallableModel


def build_factory(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    path: str,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """What the function `path` returns for `kwargs`; nothing else is passed to it.

    Args:
        input_shape: not passed on; a probe checks that the model fits the data.
        classes: not passed on either.
        key: dotted key of the model in the recipe, for errors.
        path: `module:function`.
        kwargs: its keyword arguments.

    Returns:
        The user's module, as it came; a function of arrays as a module that calls it.

    Raises:
        InputError: the function is not there, does not take `kwargs`, or returns neither.
    """
    del input_shape, classes
    factory = load_callable(path, key=f"{key}.path")
    signature = inspect.signature(factory)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise InputError.at(f"{key}.kwargs", f"do not fit {path}{signature}: {error}") from error
    model = factory(**kwargs)
    if isinstance(model, nn.Module):
        return model
    if callable(model):
        return CallableModel(model, path)
    estimator = hasattr(model, "predict_proba")
    raise InputError.at(
        f"{key}.path",
        f"{path} returned {type(model).__name__}; it must return a torch.nn.Module, or, for a teacher, "
        + ("its method predict_proba" if estimator else "a function of arrays"),
    )
