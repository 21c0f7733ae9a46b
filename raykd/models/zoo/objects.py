"""Fitted models that the user's own process holds, as teachers: modules of torch, pipelines of others' libraries.

An object is told by the library that its class is from; none is imported for it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.models import ObjectModel
from raykd.errors import InputError
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.estimator import ANSWERS
from raykd.models.zoo.foreign import ForeignModel, array_of, given_texts
from raykd.models.zoo.hubs import Unpadded
from raykd.objects import Held, digest_of, held, hold, is_of, library_of, named, version_of
from raykd.types import UNKNOWN_WORD

_NEW_WORD = "\0"
"""Stands for a word that no sample had when the words were collected."""
_NUMBERED = re.compile(r"LABEL_\d+")
_ALLOWED = "a torch.nn.Module, a pipeline of transformers, or a fitted estimator or pipeline of scikit-learn"


def hold_model(given: Any, *, key: str) -> tuple[dict[str, Any], Held]:
    """Settings of type `object` for a fitted model of this process, and the model, held.

    Args:
        given: the model.
        key: dotted key of the recipe where it stands, for errors.

    Raises:
        InputError: it is none that can be asked, it is not fitted, or it cannot be hashed.
    """
    if (
        is_of(given, "transformers")
        and hasattr(given, "tokenizer")
        and not isinstance(given, nn.Module)
    ):
        model, settings = _pipeline(given, key)
    elif isinstance(given, nn.Module):
        model, settings = _on_cpu(given), {"library": "torch", "classes": _labels_of(given)}
    elif hasattr(given, "predict") and hasattr(given, "get_params"):
        model, settings = given, _estimator(given, key)
    else:
        hint = ", not a class: call it" if isinstance(given, type) else ""
        raise InputError.at(
            key,
            f"found {named(given if isinstance(given, type) else type(given))}; give {_ALLOWED}{hint}",
        )
    try:
        fingerprint = digest_of(model)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError.at(
            key, f"{named(type(given))} cannot be hashed, since a part of it cannot be pickled ({error}); take that out"
        ) from error  # fmt: skip
    version = version_of(given)
    about = f"{named(type(given))}{'' if version is None else f' of {library_of(given)} {version}'}"
    return {"type": "object", "fingerprint": fingerprint, "describes": about, **settings}, hold(
        fingerprint, model
    )


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module; a copy where it lies on a GPU, which other processes may not have."""
    if all(part.device.type == "cpu" for part in (*module.parameters(), *module.buffers())):
        return module
    return copy.deepcopy(module).cpu()


def _labels_of(module: Any) -> list[str] | None:
    """Names of the classes of a model of transformers, where somebody has given names."""
    labels = getattr(getattr(module, "config", None), "id2label", None)
    if not is_of(module, "transformers") or not isinstance(labels, Mapping):
        return None
    names = [str(labels[number]) for number in sorted(labels)]
    return None if all(_NUMBERED.fullmatch(name) for name in names) else names


def _pipeline(given: Any, key: str) -> tuple[nn.Module, dict[str, Any]]:
    """A pipeline of transformers as a module, and its settings."""
    settings = {"library": "torch", "classes": _labels_of(given.model)}
    task = getattr(given, "task", None)
    if task in ("text-classification", "sentiment-analysis"):
        return TextPipeline(_on_cpu(given.model), given.tokenizer), {
            **settings,
            "wants_texts": True,
        }
    if task == "image-classification":
        return ImagePipeline(_on_cpu(given.model), given.image_processor), settings
    raise InputError.at(
        key, f"found a pipeline for {task}; those for text-classification and image-classification can be teachers"
    )  # fmt: skip


class TextPipeline(nn.Module):
    """A classifier of transformers with its tokenizer: texts to logits [B, C]."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    def forward(self, texts: list[str]) -> Tensor:
        """The logits; texts are cut where the tokenizer says."""
        made = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        logits: Tensor = self.model(**made.to(next(self.model.parameters()).device)).logits
        return logits

    def __deepcopy__(self, memo: dict[int, Any]) -> TextPipeline:
        return TextPipeline(copy.deepcopy(self.model, memo), self.tokenizer)


class ImagePipeline(nn.Module):
    """A classifier of transformers with what prepares its images: [B, C, H, W] from 0 to 1 to logits."""

    def __init__(self, model: nn.Module, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        pixels = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        made = self.processor(list(pixels), return_tensors="pt", input_data_format="channels_first")
        logits: Tensor = self.model(**made.to(images.device)).logits
        return logits


def _estimator(given: Any, key: str) -> dict[str, Any]:
    """Settings of an estimator of scikit-learn, or of its kind.

    Raises:
        InputError: it is not fitted, or a classifier that cannot say how sure it is.
    """
    if is_of(given, "sklearn"):
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted

        try:
            check_is_fitted(given)
        except NotFittedError as error:
            raise InputError.at(
                key, f"{named(type(given))} is not fitted; fit it first, or have raykd fit one: "
                "{type: sklearn, path: 'module:Class'}"
            ) from error  # fmt: skip
    classes = getattr(given, "classes_", None)
    if classes is not None and not hasattr(given, "predict_proba"):
        raise InputError.at(
            key, f"{named(type(given))} has no predict_proba, so it cannot say how sure it is; wrap it in "
            "sklearn.calibration.CalibratedClassifierCV, or take a classifier that has it"
        )  # fmt: skip
    features = getattr(given, "feature_names_in_", None)
    own = None if classes is None or isinstance(classes, list) else [str(name) for name in classes]
    return {
        "library": "sklearn",
        "classes": own,
        "features": None if features is None else [str(name) for name in features],
        "answers": "values" if classes is None else "marks" if own is None else "classes",
    }


def build_object(spec: ObjectModel, context: BuildContext) -> nn.Module:
    """A copy of the user's module, or one that asks their estimator.

    Raises:
        InputError: this process does not hold it, or texts cannot be shown to it.
    """
    found = held(spec.fingerprint, spec.describes, key=context.key).value
    if spec.library == "sklearn":
        return FittedEstimator(found, spec)
    module: nn.Module = copy.deepcopy(found)
    shape = context.input_shape
    if context.gives_texts:
        module.register_forward_pre_hook(given_texts)
    elif isinstance(shape, TokenShape) and shape.kind == "hf" and is_of(module, "transformers"):
        filler = getattr(module.config, "pad_token_id", None)
        module.register_forward_pre_hook(Unpadded(filler or 0), with_kwargs=True)
    return module


class FittedEstimator(ForeignModel):
    """Answers of an estimator that somebody else has fitted: logits of classes or labels [B, C], values [B, 1].

    Args:
        estimator: of scikit-learn, or of its kind.
        spec: what is known of it.
    """

    def __init__(self, estimator: Any, spec: ObjectModel) -> None:
        super().__init__()
        self._estimator = estimator
        self._spec = spec
        self._ask: Callable[[Any, Any, int | None], np.ndarray] = ANSWERS[spec.answers or "classes"]

    def forward(self, inputs: Tensor) -> Tensor:
        """The answer, on the device of the inputs."""
        given = array_of(inputs if inputs.dtype == torch.uint8 else inputs.flatten(1).float())
        outputs_BC = self._ask(self._estimator, self._framed(given), None)
        return torch.from_numpy(outputs_BC.astype(np.float32)).to(inputs.device)

    def _framed(self, given: np.ndarray) -> Any:
        """In the columns that it was fitted on, by their names, and with words as words."""
        spec = self._spec
        if spec.features is None and not spec.words:
            return given
        rows_BD = given[:, None] if given.ndim == 1 else given
        places = range(rows_BD.shape[1]) if spec.columns is None else spec.columns
        cells = [_cells(rows_BD[:, place], spec.words.get(place)) for place in places]
        if spec.features is None:
            return np.stack([one.astype(object) for one in cells], axis=1)
        import pandas as pd

        return pd.DataFrame(dict(zip(spec.features, cells, strict=True)))


def _cells(codes_B: np.ndarray, words: tuple[str, ...] | None) -> np.ndarray:
    """A column as its user has it: numbers, or the words of codes, and NaN where there is a gap."""
    if words is None:
        return codes_B
    known = np.array([*words, _NEW_WORD, np.nan], dtype=object)
    codes = np.where(np.isnan(codes_B), len(words) + 1, codes_B).astype(np.int64)
    found: np.ndarray = known[np.where(codes == UNKNOWN_WORD, len(words), codes)]
    return found
