"""What every loss shares: dtype, temperature, standardisation and safe normalisation.

Shape suffixes: N units, B local batch, A batch gathered from all workers, C classes, D features,
P positions (H·W pixels or L tokens).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Temperature = float | Tensor
"""A number, a tensor of one element, or one value per unit ([N, 1] or [N]); always above 0."""

Gather = Callable[[Tensor], Tensor]
"""Local rows [B, ...] to the rows of all workers [A, ...]; gradients must flow back through it."""

_STANDARD_EPS = 1e-7  # the constant of the LSKD authors' code
_NORM_EPS = 1e-12  # shorter vectors count as zero


def at_least_float32(values: Tensor) -> Tensor:
    """Raise half precision to float32; float32 and float64 pass unchanged."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def prepare(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Give both inputs at least float32 and cut the teacher from the graph."""
    return at_least_float32(student), at_least_float32(teacher.detach())


def prepare_equal(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Like `prepare`, for losses that compare element by element.

    Raises:
        ValueError: the shapes differ (broadcasting would silently change the loss).
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}; they "
            "must be equal: project the student first"
        )
    return prepare(student, teacher)


def prepare_logits(student: Tensor, teacher: Tensor, *, standardise: bool) -> tuple[Tensor, Tensor]:
    """Like `prepare_equal` for logits [N, C], with the z-score of LSKD where asked for.

    Raises:
        ValueError: the shapes differ or are not [N, C].
    """
    student_NC, teacher_NC = prepare_equal(student, teacher)
    if student_NC.ndim != 2:
        raise ValueError(f"logits must be [N, C], found {tuple(student_NC.shape)}")
    if standardise:
        return standardised(student_NC), standardised(teacher_NC)
    return student_NC, teacher_NC


def check_class_labels(labels: Tensor, logits_NC: Tensor) -> None:
    """What a loss needs that tells the class of a label from the others.

    Raises:
        ValueError: labels are not [N], or there are fewer than two classes.
    """
    size, classes = logits_NC.shape
    if labels.shape != (size,) or classes < 2:
        raise ValueError(
            f"a loss of classes needs logits [N, C] with C >= 2 and labels [N], found {(size, classes)} and {tuple(labels.shape)}"
        )


def standardised(logits_NC: Tensor) -> Tensor:
    """Z-score of each row: (z − mean) / (1e-7 + unbiased standard deviation).

    Follows the code of Sun et al. 2024 (Logit Standardization in Knowledge Distillation), which
    uses the unbiased deviation and leaves the temperature to the caller. A constant row gives 0.
    """
    centred_NC = logits_NC - logits_NC.mean(-1, keepdim=True)
    return centred_NC / (_STANDARD_EPS + logits_NC.std(-1, keepdim=True))


def tempered(logits_NC: Tensor, temperature: Temperature) -> Tensor:
    """Logits divided by the temperature; no pass over memory where it is the number 1.

    Raises:
        ValueError: a number that is not above 0, or a tensor of another shape than `Temperature`.
    """
    if isinstance(temperature, Tensor):
        return logits_NC / _column(temperature)
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    return logits_NC if temperature == 1 else logits_NC / temperature


def scaled(loss_N: Tensor, temperature: Temperature) -> Tensor:
    """Loss times T², so that its gradient keeps its size at any temperature (Hinton et al. 2015).

    A learnable temperature receives a gradient through this factor too, as in the code of CTKD.
    """
    if isinstance(temperature, Tensor):
        return loss_N * _column(temperature).square().reshape(-1)
    return loss_N if temperature == 1 else loss_N * temperature**2


def _column(temperature: Tensor) -> Tensor:
    if temperature.numel() == 1:
        return temperature.reshape(())
    if temperature.ndim == 1 or (temperature.ndim == 2 and temperature.shape[1] == 1):
        return temperature.reshape(-1, 1)
    raise ValueError(
        f"temperature must be a number, [N] or [N, 1], found shape {tuple(temperature.shape)}"
    )


def unit(values: Tensor, dim: int) -> Tensor:
    """Vectors along `dim` divided by their length; a zero vector stays zero and gets no gradient.

    Equal to `torch.nn.functional.normalize` for vectors longer than 1e-12; that function's gradient
    at a zero vector is 1e12 times the incoming one.
    """
    energy = values.square().sum(dim, keepdim=True)
    nonzero = energy > _NORM_EPS**2
    scale = torch.where(nonzero, energy, 1.0).rsqrt()
    return values * torch.where(nonzero, scale, 0.0)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in the dtype of its inputs, also inside an autocast region."""
    with torch.autocast(device_type=left.device.type, enabled=False):
        return left @ right


def gathered(values: Tensor, gather: Gather | None) -> Tensor:
    """Rows of all workers where a gather was given, else the local rows."""
    return values if gather is None else gather(values)
