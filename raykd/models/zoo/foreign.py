"""Models that are made elsewhere: by the user's own function, or called by torch alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.engines import EngineModel
from raykd.config.models import FactoryModel
from raykd.importing import load_callable
from raykd.models.shapes import BuildContext
from raykd.models.tokens import texts_of

CONTENT = "content"
"""Name of the state of a model that is a file."""


class ForeignModel(nn.Module):
    """A model without parameters of torch: it can be a teacher, and cannot be trained.

    How many parameters it has and how many operations it takes is not known.
    """


def refuse_engine(spec: EngineModel, context: BuildContext) -> nn.Module:
    """An engine is asked by whoever hosts it, and is no module.

    Raises:
        InputError: always.
    """
    raise context.error(f"an engine ({spec.path}) is asked for tokens and has no modules; it can be a teacher with "
                        "`task: language` alone")  # fmt: skip


class CallableModel(ForeignModel):
    """A function of arrays, such as `predict_proba` of a fitted scikit-learn estimator.

    Args:
        function: takes a float array [B, ...] (the preprocessed inputs; several by their names; texts as an array of
            objects [B]), returns [B, C], or [B] where it says only the best class.
        name: how the function is called, for errors.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__()
        self._function = function
        self._name = name

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """What the function says, on the device of its inputs.

        Raises:
            TypeError: it returns something that is no array of numbers.
        """
        device = next(iter((*args, *kwargs.values()))).device
        given = [array_of(x) for x in args]
        named = {name: array_of(x) for name, x in kwargs.items()}
        found = np.asarray(self._function(*given, **named))
        if found.dtype.kind not in "fiu":
            raise TypeError(f"{self._name} returned {found.dtype}; an array of numbers is needed")
        kept = found.astype(np.float32) if found.dtype.kind == "f" else found.astype(np.int64)
        return torch.from_numpy(kept).to(device)


def array_of(x: Tensor) -> np.ndarray:
    """Inputs as others' models take them: texts, which are uint8 rows, as objects [B], numbers as they are."""
    if x.dtype != torch.uint8:
        return x.cpu().numpy()
    return np.array(texts_of(x), dtype=object)


def given_texts(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A hook before the forward pass of a module that takes a list of texts: uint8 rows become one."""
    del module
    return tuple(texts_of(x) for x in args)


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
        if context.gives_texts:
            model.register_forward_pre_hook(given_texts)
        return model
    if callable(model):
        return CallableModel(model, spec.path)
    estimator = hasattr(model, "predict_proba")
    raise context.error(
        f"{spec.path} returned {type(model).__name__}; it must return a torch.nn.Module, or, for a teacher, "
        + ("its method predict_proba" if estimator else "a function of arrays"),
        field="path",
    )
