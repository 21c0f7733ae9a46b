"""A model made by the user's own function, or a function that is itself made by it."""

from __future__ import annotations

import inspect

from torch import nn

from raykd.config.models import FactoryModel
from raykd.importing import load_callable
from raykd.models.shapes import BuildContext
from raykd.models.zoo.foreign import CallableModel


def build_factory(spec: FactoryModel, context: BuildContext) -> nn.Module:
    """What the function `path` returns for `kwargs`; nothing else is passed to it.

    Returns:
        The user's module, as it came; a function of arrays as a module that calls it.

    Raises:
        InputError: the function is not there, does not take `kwargs`, or returns neither.
    """
    factory = load_callable(spec.path, key=f"{context.key}.path")
    signature = inspect.signature(factory)
    try:
        signature.bind(**spec.kwargs)
    except TypeError as error:
        raise context.error(
            f"do not fit {spec.path}{signature}: {error}", field="kwargs"
        ) from error
    model = factory(**spec.kwargs)
    if isinstance(model, nn.Module):
        return model
    if callable(model):
        return CallableModel(model, spec.path)
    estimator = hasattr(model, "predict_proba")
    raise context.error(
        f"{spec.path} returned {type(model).__name__}; it must return a torch.nn.Module, or, for a teacher, "
        + ("its method predict_proba" if estimator else "a function of arrays"),
        field="path",
    )
