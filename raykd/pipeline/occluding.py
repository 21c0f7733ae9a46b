"""What `raykd explain` hides of a sample: which options fit, patches of an image, features of a table.

Shapes: D columns of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from raykd.data import Samples
from raykd.errors import InputError, Problem, refuse
from raykd.evaluate.occlusion import (
    Occlusion,
    default_patch,
    features_of,
    image_occlusion,
    table_occlusion,
)
from raykd.evaluate.outputs import Split
from raykd.export.description import Description
from raykd.models.encoding import FITTED_ROWS
from raykd.tasks import find_task
from raykd.types import ORIGINAL_VIEW

MOST_SAMPLES = 256
_EXPLAINED = ("logits", "label_logits", "value")
_ONE_HOT_ROWS = 10_000
"""Training samples in which one-hot columns are looked for."""
_IMAGE, _TABLE = 3, 1
"""Dimensions of one sample."""


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """What is explained, and how.

    Attributes:
        samples: at most so many, 1 to 256.
        split: where they are from.
        patch: side of what is hidden of an image, pixels; None = an eighth of its longer side, at least 2.
        stride: from patch to patch, pixels; None = half a patch.
    """

    samples: int = 64
    split: Split = "test"
    patch: int | None = None
    stride: int | None = None


def check_options(about: Description, options: ExplainOptions) -> None:
    """Whether student and options go together, before any data is loaded.

    Raises:
        InputError: samples, task or options that do not fit.
    """
    shape, text = about.input.shape, about.input.dtype == "uint8"
    if text or len(shape) not in (_IMAGE, _TABLE):
        found = "texts" if text else f"samples of shape {list(shape)}"
        raise InputError.at(
            "RUN", f"its student takes {found}; allowed: images [C, H, W] and rows of a table [D]"
        )
    if find_task(about.task).metrics.kind not in _EXPLAINED:
        raise InputError.at(
            "RUN", f"is of the task {about.task!r}, which has no class, label or value to explain; "
            "allowed: classification, multilabel, regression"
        )  # fmt: skip
    problems = []
    if not 1 <= options.samples <= MOST_SAMPLES:
        problems.append(
            Problem("--samples", f"found {options.samples}; allowed: 1 to {MOST_SAMPLES}")
        )
    patch, _ = _patch_and_stride(shape, options)
    sizes = {
        "--patch": (options.patch, min(shape[1:], default=0)),
        "--stride": (options.stride, patch),
    }
    for key, (size, most) in sizes.items():
        if size is not None and len(shape) == _TABLE:
            what = "is for images; of a table one feature is hidden at a time"
            problems.append(Problem(key, what))
        elif size is not None and not 1 <= size <= most:
            problems.append(Problem(key, f"found {size}; allowed: 1 to {most} pixels"))
    refuse(problems)


def _patch_and_stride(shape: tuple[int, ...], options: ExplainOptions) -> tuple[int, int]:
    if len(shape) == _TABLE:
        return 0, 0
    patch = options.patch or default_patch(shape[1], shape[2])
    return patch, options.stride or max(1, patch // 2)


def occlusion_of(samples: Samples, options: ExplainOptions) -> tuple[Occlusion, dict[str, Any]]:
    """What is hidden of each sample, and the same in plain values for `Explanation.settings`."""
    shape = samples.input_shape
    if samples.has_gaps_or_words:
        return _of_columns(samples)
    means = samples.statistics()[0]
    if len(shape) == _IMAGE:
        patch, stride = _patch_and_stride(shape, options)
        occlusion = image_occlusion(shape[1], shape[2], means, patch=patch, stride=stride)
        return occlusion, {"patch": patch, "stride": stride, "reference": list(means)}
    rows = samples.splits["train"][:_ONE_HOT_ROWS]
    (values_ND,) = samples.batch(rows, ORIGINAL_VIEW).inputs.values()
    groups = features_of(values_ND)
    names = [_feature(columns, samples.features) for columns in groups]
    occlusion = table_occlusion(means, groups)
    return occlusion, {"features": names, "reference": occlusion.reference.tolist()}


def _of_columns(samples: Samples) -> tuple[Occlusion, dict[str, Any]]:
    """A table with gaps or words: its numbers give way to their mean, its words to the most frequent one."""
    values_ND = np.ma.masked_invalid(samples.training_rows(FITTED_ROWS).astype(np.float64))
    reference = values_ND.mean(axis=0).filled(0.0)
    for column, words in samples.word_columns.items():
        codes = values_ND[:, column].compressed().astype(np.int64)
        reference[column] = int(np.bincount(codes, minlength=len(words)).argmax())
    groups = tuple((column,) for column in range(len(reference)))
    occlusion = table_occlusion(tuple(reference.tolist()), groups)
    names = [_feature(columns, samples.features) for columns in groups]
    return occlusion, {"features": names, "reference": occlusion.reference.tolist()}


def _feature(columns: tuple[int, ...], names: tuple[str, ...]) -> str:
    """What a feature is called: after its column, or its first and last one."""
    first, last = columns[0], columns[-1]
    if not names:
        return f"column {first}" if first == last else f"columns {first} to {last}"
    return names[first] if first == last else f"{names[first]} to {names[last]}"
