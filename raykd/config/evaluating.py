"""`evaluate:` what the student is held against, and on which samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from raykd.config.base import Count, Name, Natural, Real, Settings
from raykd.config.data import Preprocess
from raykd.config.models import Model, Teacher, expand_model

Control = Literal["labels", "best_teacher", "hard", "untrained"]


class Compared(Settings):
    """Another model, such as the one in use today. It is measured as the student is; nothing is learnt from it.

    An estimator (`sklearn`) is fitted on the labels within the budget.
    """

    name: Name
    """Unique; used in tables and in summary.json."""
    model: Model
    """The network, or an estimator."""
    weights: str | None = None
    """A `.safetensors` file, or a `.pt` state dict (loaded with weights_only)."""
    label_map: tuple[Natural | str | None, ...] | None = None
    """As of a teacher: for each of its classes the data's class, by number or name, or null."""
    embedding: str | None = None
    """As of a teacher, with `task: embedding`: the module whose output is its vector; null = what it returns."""
    kind: Literal["logits", "probabilities", "log_probabilities", "top1"] = "logits"
    """What it returns; `top1` is the number of its class alone."""
    preprocess: Preprocess = Preprocess()
    """Its own input size, channels and normalisation."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of its forward pass."""

    def as_teacher(self) -> Teacher:
        """The same model as one that answers as teachers do."""
        return Teacher(**{name: getattr(self, name) for name in type(self).model_fields})


def _named(value: Any) -> Any:
    """A model alone is called after its file or its own name."""
    if isinstance(value, Mapping) and ("model" in value or "type" not in value):
        return value
    if not isinstance(value, str | Mapping):
        return value
    spec = expand_model(value)
    told = spec.get("name") or str(spec.get("path", "")).rpartition(":")[2] or spec.get("type")
    stem = re.sub(r"[^\w-]+", "_", PurePath(str(told)).stem)
    return {"name": stem if stem[:1].isalpha() else f"model_{stem}", "model": value}


class Slice(Settings):
    """Test samples of one class, or those of a column of the data set: one slice for each value or range."""

    name: str | None = None
    """What it is called; null = the column, or the class."""
    column: str | None = None
    """Column of the source (a factory gives `Dataset(columns={...})`)."""
    of_class: str | None = Field(default=None, alias="class")
    """Name of a class; of a multilabel task the samples that have this label."""
    values: tuple[bool | int | float | str, ...] | None = None
    """The column's values that are wanted; null = all of them, at most 20."""
    bins: Count | tuple[Real, ...] | None = None
    """For numbers: so many ranges with equally many samples, or the rising bounds between the ranges."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"class" if name == "of_class" else name: v for name, v in handler(self).items()}


class Evaluate(Settings):
    """What the student is held against."""

    controls: tuple[Control, ...] = ("labels", "best_teacher", "hard")
    """The same student taught otherwise: labels alone, the best single teacher, hard labels. Of embeddings the
    best single teacher, and untrained: as it is before training."""
    compare: tuple[Annotated[Compared, BeforeValidator(_named)], ...] = ()
    """Other models, such as the one in use today, measured on the same samples; each a model, or
    `{name, model, weights, preprocess, label_map}`. Of `raykd run` alone."""
    slices: tuple[Slice, ...] = ()
    """Parts of test on which all is measured by itself: `{column: sex}`, `{column: age, bins: [18, 65]}`,
    `{class: cat}`. Of `raykd run` alone."""
    require: tuple[str, ...] = ()
    """Conditions on summary.json, e.g. `student.test.accuracy >= 0.9`; exit code 3 if one fails."""
