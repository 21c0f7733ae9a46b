"""Values that change while a student trains: a number, or a course from one to another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from raykd.config.base import NonNegative, Positive, Settings


class ConstantCourse(Settings):
    """Always the same."""

    type: Literal["constant"] = "constant"
    value: NonNegative
    """The value."""


class _Ramp(Settings):
    """From one value to another, and constant before and after."""

    type: str
    start: NonNegative = Field(alias="from")
    """Value up to `start_epoch`."""
    to: NonNegative
    """Value from `start_epoch + epochs` on."""
    epochs: Positive
    """How long the change takes."""
    start_epoch: NonNegative = 0.0
    """When the change begins."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"from" if name == "start" else name: v for name, v in handler(self).items()}


class LinearCourse(_Ramp):
    """A straight line: a warm-up (`from: 0`) or a decay (`to: 0`)."""

    type: Literal["linear"] = "linear"


class CosineCourse(_Ramp):
    """Half a cosine: slow at both ends (Loshchilov & Hutter 2017)."""

    type: Literal["cosine"] = "cosine"


class SigmoidCourse(_Ramp):
    """exp(−5(1−t)²), the ramp-up of Laine & Aila 2017, as ONE (Lan et al. 2018) has it over 80 epochs.

    It begins at 0.7 % of the way.
    """

    type: Literal["sigmoid"] = "sigmoid"


class StepCourse(Settings):
    """One value after another."""

    type: Literal["step"] = "step"
    milestones: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Epochs at which the next value begins, rising."""
    values: tuple[NonNegative, ...]
    """One more than milestones."""

    @model_validator(mode="after")
    def _consistent(self) -> StepCourse:
        if len(self.values) != len(self.milestones) + 1:
            raise ValueError(
                f"{len(self.milestones)} milestones separate {len(self.milestones) + 1} values, "
                f"found {len(self.values)}"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, found {list(self.milestones)}")
        return self


Course = ConstantCourse | LinearCourse | CosineCourse | SigmoidCourse | StepCourse

NUMBER = "number"
"""Stands for a plain number where pydantic names a type."""


def _kind(value: Any) -> str | None:
    """`number`, or the type of the course; None for a mapping without one."""
    if isinstance(value, Course):
        return value.type
    if isinstance(value, dict):
        return None if "type" not in value else str(value["type"])
    return NUMBER


Scheduled = Annotated[
    Annotated[NonNegative, Tag(NUMBER)]
    | Annotated[ConstantCourse, Tag("constant")]
    | Annotated[LinearCourse, Tag("linear")]
    | Annotated[CosineCourse, Tag("cosine")]
    | Annotated[SigmoidCourse, Tag("sigmoid")]
    | Annotated[StepCourse, Tag("step")],
    Discriminator(_kind),
]
"""At least 0: a number, or `{type: constant | linear | cosine | sigmoid | step, ...}`."""


def values_of(scheduled: float | Course) -> tuple[float, ...]:
    """The values that a schedule goes through: its ends, or its steps."""
    if isinstance(scheduled, ConstantCourse):
        return (scheduled.value,)
    if isinstance(scheduled, StepCourse):
        return scheduled.values
    if isinstance(scheduled, _Ramp):
        return (scheduled.start, scheduled.to)
    return (scheduled,)


def ever_active(weight: float | Course) -> bool:
    """Whether a weight is above 0 at some time."""
    return max(values_of(weight)) > 0


def _above_zero(scheduled: float | Course) -> float | Course:
    if min(values_of(scheduled)) <= 0:
        raise ValueError("must be above 0, at every epoch")
    return scheduled


ScheduledPositive = Annotated[Scheduled, AfterValidator(_above_zero)]
"""Above 0, otherwise as `Scheduled`."""
