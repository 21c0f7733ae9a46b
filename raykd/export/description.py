"""What `model.json` says of a student: read as data, checked before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from raykd.config.base import Count, Name, Positive, Settings
from raykd.config.models import Model
from raykd.config.sources import (
    CsvSource,
    HfSource,
    ImagesSource,
    ParquetSource,
    WebdatasetSource,
)
from raykd.errors import InputError
from raykd.folders import read_json
from raykd.models.preprocess import Preprocessing
from raykd.tasks import BUILT_IN, known_task, unknown_task
from raykd.types import Scale

_LONGEST = 2**20


def _fields_of(kind: type) -> Callable[[Any], Any]:
    """Refuses keys that a dataclass does not have."""
    known = {field.name for field in fields(kind)}

    def check(value: Any) -> Any:
        if isinstance(value, dict) and not value.keys() <= known:
            raise ValueError(f"unknown: {', '.join(sorted(map(str, value.keys() - known)))}")
        return value

    return check


def _named(task: str) -> str:
    """The name of a built-in task, or of one of somebody's own, which is not looked for here."""
    if task not in BUILT_IN and ":" not in task:
        raise ValueError(unknown_task(task))
    return task


FileSource = Annotated[
    CsvSource | ParquetSource | ImagesSource | WebdatasetSource | HfSource,
    Field(discriminator="type"),
]


class Input(Settings):
    """What the student takes."""

    name: Annotated[str, Field(min_length=1)]
    """Name of its only input."""
    shape: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Of one sample in source space, without the batch."""
    dtype: Literal["float32", "int64", "uint8"] = "float32"
    """Of its numbers; images of uint8 come divided by 255; uint8 itself are texts in UTF-8, padded with zeros."""
    bytes: bool = False
    """Whether its files held 0 to 255 where it takes 0 to 1."""
    columns: tuple[str, ...] = ()
    """Names of its numbers in order, where a table brought them."""
    words: tuple[str, ...] = ()
    """Of these the columns of words, whose numbers are codes: `preprocessing.table` lists what they stand for."""
    source: FileSource | None = None
    """How the files that it was trained on are read, without their path and labels."""


class Description(Settings):
    """Everything about a student but its weights."""

    version: Literal[1] = Field(default=1, alias="schema")
    """Of this layout."""
    task: Annotated[str, AfterValidator(_named)]
    """What it learnt."""
    model: Model
    """The network, as in the recipe."""
    preprocessing: Annotated[Preprocessing, BeforeValidator(_fields_of(Preprocessing))]
    """From source space to the network's input."""
    input: Input
    """What it takes."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of its outputs, in order."""
    scale: Annotated[Scale, BeforeValidator(_fields_of(Scale))] | None = None
    """Unit of a regression."""
    temperature: Positive | None = None
    """The student's own, which its probabilities are calibrated by; None = 1."""
    teachers: tuple[Name, ...] = ()
    """Names of those who taught it."""
    fingerprint: str | None = None
    """Of its weights; None in students of before, which are not checked."""

    @model_validator(mode="after")
    def _is_finite(self) -> Description:
        shown = self.preprocessing
        divisors = [*(shown.std or ()), *([self.scale.std] if self.scale else [])]
        numbers = [*divisors, shown.scale, *(shown.mean or ())]
        numbers += [self.scale.mean] if self.scale else []
        numbers += (shown.table and shown.table.fill) or ()
        if not all(map(math.isfinite, numbers)) or not all(value > 0 for value in divisors):
            raise ValueError("numbers must be finite, and deviations above 0")
        tokens = shown.tokens
        is_text = tokens is not None or shown.chunks is not None
        if is_text != (self.input.dtype == "uint8"):
            raise ValueError("texts come as uint8, and nothing else does")
        chunks = shown.chunks
        if chunks is not None:
            fitted = {"bpe": chunks.size, "bpe_occurring": chunks.size}
            known = {"bytes": 256, **fitted}.get(chunks.tokenizer)
            if not 1 < chunks.length <= _LONGEST or {chunks.size, len(self.classes)} != {known}:
                raise ValueError(
                    f"chunks have 2 to {_LONGEST:,} tokens, and one output for each token of a known tokenizer"
                )
        if tokens is not None and not (0 < tokens.length <= _LONGEST and tokens.size > 0):
            raise ValueError(f"tokens have a length of 1 to {_LONGEST:,}, and 1 id at least")
        return self

    @property
    def outputs(self) -> int:
        """How many numbers the network puts out for a sample."""
        form = known_task(self.task, where="task").labels
        shape = self.preprocessing.output_shape(self.input.shape)
        return form.width(self.classes, shape, getattr(self.model, "bins", None) or 1)

    @property
    def taken(self) -> Input:
        """What the student takes without raykd around it: what the source gives, of texts the ids of their tokens."""
        chunks, tokens = self.preprocessing.chunks, self.preprocessing.tokens
        if chunks is not None:
            return Input(name="tokens", shape=(chunks.length,), dtype="int64")
        if tokens is None:
            return self.input.model_copy(update={"source": None})
        return Input(name="tokens", shape=(tokens.length,), dtype="int64")

    def to_json(self) -> dict[str, Any]:
        """What `model.json` holds."""
        return self.model_dump(mode="json", by_alias=True)


def read_description(file: Path) -> Description:
    """The description in a `model.json`.

    Raises:
        InputError: the file is damaged, or says what no student can be.
    """
    try:
        return Description.model_validate(read_json(file))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3]
        )
        raise InputError.at(str(file), f"is damaged: {wrong}; export or run anew") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.at(str(file), f"is damaged: {error}; export or run anew") from None
