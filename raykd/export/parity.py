"""Whether what was written says the same as the student in torch."""

from __future__ import annotations

import numpy as np

from raykd.errors import ExportError
from raykd.export.student import Runner, Student, run_module

ABSOLUTE, RELATIVE = 1e-4, 1e-5
BATCHES = (1, 7, 64)


def check_parity(
    student: Student, run: Runner, name: str, *, exact: bool = True
) -> dict[str, float]:
    """The largest difference of each output over batches of several sizes of random inputs.

    Allowed are 10⁻⁴ (of a regression: 10⁻⁴ standard deviations of the target) plus 10⁻⁵ of the value.

    Args:
        student: the student in torch.
        run: what was written, opened again.
        name: of the format, for the error.
        exact: refuse differences that are larger than allowed; else they are only measured.

    Returns:
        Output -> largest absolute difference.

    Raises:
        ExportError: a difference is larger, or an output is not finite or of another shape.
    """
    reference = run_module(student.answers())
    unit = 1.0 if student.about.scale is None else student.about.scale.std
    allowed = ABSOLUTE * unit if exact else np.inf
    largest = dict.fromkeys(student.outputs, 0.0)
    for size in BATCHES:
        inputs = student.random_inputs(size, seed=size).numpy()
        pairs = zip(student.outputs, reference(inputs), run(inputs), strict=True)
        for output, expected, found in pairs:
            difference = _difference(expected, found, allowed, f"{name}, {output}, batch of {size}")
            largest[output] = max(largest[output], difference)
    return largest


def _difference(expected: np.ndarray, found: np.ndarray, allowed: float, what: str) -> float:
    if found.shape != expected.shape:
        raise ExportError(f"{what}: shape {found.shape}, in torch {expected.shape}")
    if not np.isfinite(expected).all() or not np.isfinite(found).all():
        raise ExportError(
            f"{what}: NaN or infinity on inputs like the data's; the student is broken"
        )
    distance = np.abs(found.astype(np.float64) - expected)
    if (distance > allowed + RELATIVE * np.abs(expected)).any():
        raise ExportError(
            f"{what}: differs from torch by up to {distance.max():.3g}, allowed are {allowed:.3g} "
            f"and {RELATIVE:g} of the value; nothing was exported; leave this format out with --format"
        )
    return float(distance.max())
