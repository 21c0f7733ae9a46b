"""An estimator of scikit-learn as a teacher.

Its state is what it is fitted on: each process that hosts it fits it anew. So nothing has to be pickled, and
its answers are a pure function of (settings, seed, rows). It is fitted on one thread, since some estimators'
sums depend on the number of threads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.config.models import SklearnModel
from raykd.errors import InputError
from raykd.importing import load_callable
from raykd.models.shapes import BuildContext
from raykd.models.weights import fingerprint
from raykd.models.zoo.foreign import ForeignModel, array_of

INPUTS, LABELS, WEIGHTS, SEED = "inputs", "labels", "weights", "seed"
_TINY = 1e-12
_SEEDS = 2**32
_KEPT = 8
"""Fitted estimators that a process keeps: it may build a teacher several times."""


def examples_of(
    inputs: Tensor, labels: Tensor, weights: Tensor | None, *, seed: int
) -> dict[str, Tensor]:
    """The state of an estimator.

    Args:
        inputs: preprocessed, float [M, ...], or texts uint8 [M, L].
        labels: classes int64 [M], values float [M] (standardised), or marks int64 [M, K]; all known.
        weights: float [M], how much each counts; None = equally.
        seed: of all that it draws.
    """
    state = {INPUTS: inputs, LABELS: labels, SEED: torch.tensor(seed % _SEEDS)}
    return state if weights is None else {**state, WEIGHTS: weights}


class EstimatorModel(ForeignModel):
    """Answers of a fitted estimator: logits of classes or labels [B, C], values [B, 1].

    Args:
        examples: what it was fitted on, of `examples_of`; None: it is not fitted, and cannot be asked.
        answer: inputs float32 [B, D], or texts [B] -> float [B, C].
    """

    def __init__(
        self, examples: Mapping[str, Tensor] | None, answer: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        super().__init__()
        for name, tensor in (examples or {}).items():
            self.register_buffer(name, tensor)
        self._answer = answer

    def forward(self, inputs: Tensor) -> Tensor:
        """The answer, on the device of the inputs."""
        outputs_BC = self._answer(_given(inputs))
        return torch.from_numpy(outputs_BC.astype(np.float32)).to(inputs.device)


def build_estimator(spec: SklearnModel, context: BuildContext) -> EstimatorModel:
    """The estimator that `path` returns for `kwargs`, fitted on `examples`.

    Raises:
        InputError: there is no such estimator, it refuses its arguments or the examples, or it cannot say
            probabilities.
    """
    if context.weights is None:
        return EstimatorModel(None, _unfitted)
    rows = _Rows(fingerprint(context.weights), context.weights)
    estimator = _fitted(spec.path, json.dumps(spec.kwargs, sort_keys=True), rows, context.key)
    kind = _kind(context.weights[LABELS])
    return EstimatorModel(
        context.weights, lambda inputs: ANSWERS[kind](estimator, inputs, context.classes)
    )


@dataclass(frozen=True)
class _Rows:
    """Examples that are known by their fingerprint."""

    name: str
    tensors: Mapping[str, Tensor] = field(compare=False)


@lru_cache(maxsize=_KEPT)
def _fitted(path: str, kwargs: str, rows: _Rows, key: str) -> Any:
    from threadpoolctl import threadpool_limits

    examples, estimator = rows.tensors, _made(path, json.loads(kwargs), key)
    if _kind(examples[LABELS]) != "values" and not hasattr(estimator, "predict_proba"):
        raise InputError.at(
            f"{key}.path", f"{path} has no predict_proba, so it cannot say how sure it is; use a classifier "
            "that has it (of SVC: kwargs {probability: true})"
        )  # fmt: skip
    params = estimator.get_params()
    random = [n for n in params if n.split("__")[-1] == "random_state" and params[n] is None]
    estimator.set_params(**dict.fromkeys(random, int(examples[SEED])))
    more = {"sample_weight": examples[WEIGHTS].numpy()} if WEIGHTS in examples else {}
    try:
        with threadpool_limits(limits=1):
            estimator.fit(_given(examples[INPUTS]), examples[LABELS].numpy(), **more)
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        numbers = examples[INPUTS].is_floating_point()
        gaps = numbers and bool(examples[INPUTS].isnan().any())
        mend = "fill the gaps by its preprocess.impute (median)" if gaps else "mend its kwargs"
        raise InputError.at(
            key, f"{path} cannot be fitted on {len(examples[INPUTS])} samples ({why}); {mend}, or, where it wants texts, "
            "set preprocess: {tokenizer: none}"
        ) from error  # fmt: skip
    return estimator


def _made(path: str, kwargs: dict[str, Any], key: str) -> Any:
    make = load_callable(path, key=f"{key}.path")
    try:
        estimator = make(**kwargs)
    except TypeError as error:
        raise InputError.at(f"{key}.kwargs", f"do not fit {path}: {error}") from error
    missing = [name for name in ("fit", "get_params", "predict") if not hasattr(estimator, name)]
    if missing:
        raise InputError.at(
            f"{key}.path", f"{path} returned {type(estimator).__name__}, which has no {', no '.join(missing)}; "
            "it must return an estimator of scikit-learn, or of its kind"
        )  # fmt: skip
    return estimator


def _kind(labels: Tensor) -> str:
    if labels.is_floating_point():
        return "values"
    return "classes" if labels.ndim == 1 else "marks"


def _unfitted(inputs: np.ndarray) -> np.ndarray:
    raise RuntimeError(
        f"an estimator is fitted within a recipe; there are no examples for {len(inputs)} samples here"
    )


def _given(inputs: Tensor) -> np.ndarray:
    """Rows of numbers, or texts."""
    return array_of(inputs if inputs.dtype == torch.uint8 else inputs.flatten(1).float())


def _spread(probabilities: np.ndarray, own: np.ndarray, outputs: int) -> np.ndarray:
    """Over all outputs; one that no example was of has probability 0."""
    whole = np.zeros((len(probabilities), outputs))
    whole[:, own] = probabilities
    return whole


def _classes(estimator: Any, inputs: Any, outputs: int | None) -> np.ndarray:
    probabilities = np.asarray(estimator.predict_proba(inputs))
    if outputs is not None:
        probabilities = _spread(probabilities, estimator.classes_, outputs)
    logits: np.ndarray = np.log(np.maximum(probabilities, _TINY))
    return logits


def _marks(estimator: Any, inputs: Any, outputs: int | None) -> np.ndarray:
    probabilities = estimator.predict_proba(inputs)
    if isinstance(
        probabilities, list
    ):  # forests: of each label the probabilities of its two classes
        own = zip(probabilities, estimator.classes_, strict=True)
        probabilities = np.stack([_spread(one, classes, 2)[:, 1] for one, classes in own], axis=1)
    assert outputs in (None, probabilities.shape[1]), "a probability for each label"
    odds: np.ndarray = np.log(np.maximum(probabilities, _TINY)) - np.log(
        np.maximum(1 - probabilities, _TINY)
    )
    return odds


def _values(estimator: Any, inputs: Any, outputs: int | None) -> np.ndarray:
    outputs_BC: np.ndarray = np.asarray(estimator.predict(inputs)).reshape(
        len(inputs), outputs or -1
    )
    return outputs_BC


ANSWERS: dict[str, Callable[[Any, Any, int | None], np.ndarray]] = {
    "classes": _classes,
    "marks": _marks,
    "values": _values,
}
