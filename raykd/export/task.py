"""The export facet of a task: what its exported student puts out, how a prediction is written, where it is weak.

Shapes: B batch, N samples, C classes or labels, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

Inputs = Literal["text", "image", "tabular"]
OfNetwork = Callable[["Tensor", float], "tuple[Tensor, ...]"]
WORST = 3
"""Classes, labels or other parts that a model card names."""


@dataclass(frozen=True)
class Boxes:
    """What a detector finds in one image, the surest first.

    Attributes:
        corners_M4: float32, (x1, y1, x2, y2) in pixels.
        class_M: int64.
        score_M: float32.
    """

    corners_M4: np.ndarray
    class_M: np.ndarray
    score_M: np.ndarray


@dataclass(frozen=True)
class Predicted:
    """What the student says.

    Attributes:
        classes: names of the classes or labels in order; of the one value of a regression.
        words: each prediction as text: a class, the labels that hold, a value.
        label_N: int64 [N], the most probable class; in multilabel int64 [N, C] of 0 and 1; in regression
            float32 [N], the value in original units; of embeddings the sample's place.
        probability_NC: float32, of each class or label; None in regression and of embeddings.
        vector_ND: float32, the embedding; None in other tasks.
        bits_N: float32, bits per byte of a text, which `words` go on with; None in other tasks.
        boxes: what is found in each image; None in other tasks.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    label_N: np.ndarray
    probability_NC: np.ndarray | None
    vector_ND: np.ndarray | None = None
    bits_N: np.ndarray | None = None
    boxes: tuple[Boxes, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskExport:
    """What leaves raykd with a student of one task.

    Attributes:
        outputs: names of the exported module's outputs, in order -> what each means.
        of_network: the network's output [B, C] and the student's temperature -> the outputs, in this order.
        of_network_for: number of classes and the shape of the network's input -> `of_network` where those are known
            beforehand, for graphs that look at no numbers; None where it is the same.
        predict: outputs [N, C], of logits over the student's temperature, and their names -> what the student says in words and arrays.
        weak_spots: answers [N, C], labels [N] and names -> where the student is weak on test, a sentence.
        hub_tag: kind of the inputs (None: another one) -> what Hugging Face calls the task; None where it has
            no name for it.
        sized: number of outputs -> what the student maps its inputs to, in words.
        of_columns: columns [N, A] that evaluation keeps of a model's answers -> what it says; None where answers are kept.
        label_of: labels as evaluation keeps them -> the right answers [N], where they say more than that.
        has_probabilities: whether it puts out probabilities, which may be calibrated or not.
    """

    outputs: Mapping[str, str]
    of_network: Callable[[Tensor, float], tuple[Tensor, ...]]
    predict: Callable[[Tensor, tuple[str, ...]], Predicted]
    weak_spots: Callable[[Tensor, Tensor, Sequence[str]], str]
    hub_tag: Callable[[Inputs | None], str | None] = lambda _: None
    sized: Callable[[int], str] = lambda count: f"{count} outputs"
    of_network_for: Callable[[int, tuple[int, ...]], OfNetwork] | None = None
    of_columns: Callable[[Tensor], Predicted] | None = None
    label_of: Callable[[Tensor], Tensor] | None = None
    has_probabilities: bool = False


def classification_tag(kind: Inputs | None) -> str | None:
    """Hugging Face's name of a classification of such inputs."""
    return None if kind is None else f"{kind}-classification"


def quoted(name: str) -> str:
    """A user's own name inside Markdown."""
    return f"`{' '.join(name.replace('`', '´').split())}`"
