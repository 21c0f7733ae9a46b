"""The teachers as the objective hears them, and what they say of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raykd.objective.terms import Context


@dataclass(frozen=True)
class Voice:
    """A teacher as the objective hears it.

    Attributes:
        name: the teacher's name.
        temperature: factor on the objective's temperature, on this teacher's side.
        error: its error on validation, for `inverse_error`: mean squared in regression, else the NLL.
        accuracy: its accuracy on validation, for `accuracy`.
    """

    name: str
    temperature: float = 1.0
    error: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Heard:
    """One batch as student and teachers see it, before the teachers are weighed.

    Attributes:
        student_NC: the student's logits, with gradient.
        teachers_TNC: the teachers' logits over their own temperatures; anything where unavailable.
        available_TN: bool, False where a teacher gave no answer or the unit is padding.
        labels_N: int64, −1 where unlabelled or blended of several samples; None where labels are no
            classes.
        ids_N: the units' ids.
        temperature: T of the soft targets at this moment.
        context: when it is, and the other workers.
    """

    student_NC: Tensor
    teachers_TNC: Tensor
    available_TN: Tensor
    labels_N: Tensor | None
    ids_N: Tensor
    temperature: float
    context: Context
