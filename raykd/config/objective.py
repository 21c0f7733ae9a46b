"""`objective:` labels, soft targets and features, each with its weight; how the ensemble is mixed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from raykd.config.base import Count, NonNegative, Positive, Settings, Unit
from raykd.config.methods import (
    LOSSES,
    WEIGHTINGS,
    Disagreement,
    FeatureLoss,
    LabelLoss,
    SoftLoss,
    Weighting,
)
from raykd.methods import Combine


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


LABEL_WEIGHT = 0.1
SOFT_WEIGHT = 0.9


class Labels(Settings):
    """Loss with the true labels, over the labelled samples of a batch."""

    added_later = frozenset({"mode"})

    loss: LabelLoss | None = None
    """null = the task's own: cross-entropy; in regression mse; in multilabel binary cross-entropy, mean
    over the labels. In regression of standardised values."""
    mode: Literal["replace", "add"] | None = None
    """`replace`: a labelled sample is learnt from its label, all others from the ensemble, in one mean over all of
    them with the weight of the soft targets. `add`: labels are a term of their own, and the ensemble speaks on
    labelled samples too. null = `add` where `weight` is given, else `replace` where unlabelled training samples
    outnumber labelled ones, else `add`. Classification only; elsewhere it is `add`."""
    weight: Scheduled | None = None
    """Factor of the term; a number or a schedule. null = 0.1. With `mode: replace` there is no such term."""
    smoothing: Unit = 0.0
    """Label smoothing."""
    fill: Literal["none", "ensemble"] = "none"
    """`ensemble`: unlabelled samples take the ensemble's argmax as their label."""
    class_weights: Literal["balanced"] | tuple[NonNegative, ...] | None = None
    """Per-class factors; `balanced` is inverse to the class counts among the labelled samples."""

    @property
    def strength(self) -> float | Course:
        """Factor of the term, also where the recipe says nothing."""
        return LABEL_WEIGHT if self.weight is None else self.weight

    @property
    def replaces(self) -> bool:
        """Whether labels take the place of the ensemble's answers."""
        return self.mode == "replace"


class SoftTargets(Settings):
    """Match the ensemble: its tempered probabilities, or in regression its mean value.

    Of embeddings: each teacher's vector through a projector of its own, or the mean of the relations between
    samples that they show.
    """

    added_later = frozenset({"sharpen", "hard_share", "tail"})

    loss: SoftLoss = LOSSES["kl"]()
    """Distance between the student's and the teachers' distributions."""
    temperature: ScheduledPositive | None = None
    """T, a number or a schedule; a teacher's own `temperature` multiplies it on the teacher's side. null = 4 where
    every training sample is labelled, else 1: with few labels T > 1 loses to the ensemble's hard labels. A
    regression has none (1)."""
    weight: Scheduled | None = None
    """Factor of the term; a number or a schedule. null = 0.9, or 1 with `labels.mode: replace`."""
    sharpen: Literal["fit"] | Positive | None = None
    """T_c: the teachers are mixed first, then their mixture is sharpened (T_c < 1) or smoothed, softmax(log p̄ / T_c),
    and the student learns it at T = 1. `fit` = the T_c of least NLL on half of validation, within 0.05 and 20
    ("pool, then calibrate", Rahaman & Thiery 2021). A mean of teachers is under-confident, most of all with few
    labels; a teacher's own `temperature: fit` acts before mixing and makes the mean less confident still."""
    hard_share: Unit = 0.0
    """λ of λ·onehot(argmax p̄) + (1−λ)·p̄, one target, learnt at T = 1. 1 is the ensemble's hard labels."""
    tail: bool = True
    """With `task: language` and more tokens than `targets.full_up_to`: whether those that are not kept count, as one
    bucket; false takes them for impossible, as most public code does, to be compared with."""
    combine: Combine | None = None
    """Mix tempered probabilities (arithmetic mean; or temper after mixing), logits (geometric mean), or
    add up the teachers' own losses; in regression values; of embeddings relations between samples. null = the right one for the loss: whichever
    has the gradient of that sum, which for kl is probabilities."""
    disagreement: Disagreement | None = None
    """How much a sample counts by how far the teachers agree on it; the term is the mean over what
    counts. null = all alike."""

    @property
    def strength(self) -> float | Course:
        """Factor of the term, also where the recipe says nothing."""
        return SOFT_WEIGHT if self.weight is None else self.weight

    @property
    def course(self) -> float | Course:
        """T, also before the data has told which."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def remakes_target(self) -> bool:
        """Whether the mixture of the teachers is sharpened or made hard in part."""
        return self.sharpen is not None or self.hard_share > 0

    @property
    def mixing(self) -> Combine:
        """How the teachers are combined, also where the recipe leaves it to the loss."""
        return self.combine or self.loss.row.combines[0]


def _taps(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, str) for v in value)
    ):
        return tuple(value)
    raise ValueError("needs a module path, or two of them for fsp")


Tap = Annotated[str | tuple[str, str], BeforeValidator(_taps)]
"""A dotted module path, as `raykd inspect` prints it, or two of them."""


def tap_paths(tap: str | tuple[str, str]) -> tuple[str, ...]:
    """The module paths of one side of a feature term."""
    return (tap,) if isinstance(tap, str) else tap


class FeatureTerm(Settings):
    """One feature of the student against one feature of a teacher."""

    loss: FeatureLoss
    """Which loss."""
    teacher: str
    """Name of the teacher."""
    student_tap: Tap
    """Dotted module path in the student, as `raykd inspect` prints it; for fsp a list of two."""
    teacher_tap: Tap
    """Dotted module path in the teacher; for fsp a list of two."""
    weight: Scheduled | None = None
    """Factor of the term; a number or a schedule. null = the one that goes with the loss: 100 for hint,
    1000 for attention, ..."""

    @property
    def strength(self) -> float | Course:
        """Factor of the term, also where the recipe leaves it to the loss."""
        return self.loss.row.default_weight if self.weight is None else self.weight

    @property
    def student_taps(self) -> tuple[str, ...]:
        """Module paths in the student."""
        return tap_paths(self.student_tap)

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """Module paths in the teacher."""
        return tap_paths(self.teacher_tap)


class PhaseTerm(Settings):
    """What a phase changes of a term."""

    weight: Scheduled | None = None
    """Factor of the term; null = as outside the phase."""


class PhaseSoftTargets(PhaseTerm):
    """What a phase changes of the soft targets."""

    temperature: ScheduledPositive | None = None
    """T; null = as outside the phase."""


def _for_all(value: Any) -> Any:
    return (value,) if isinstance(value, dict | PhaseTerm) else value


class Phase(Settings):
    """A stretch of training with weights of its own: hint first, then KD (FitNets); FSP's first stage.

    Schedules inside count epochs from the start of training, too.
    """

    until_epoch: Positive
    """Where it ends; it begins where the phase before it ends."""
    labels: PhaseTerm = PhaseTerm()
    """Changes of the label term."""
    soft_targets: PhaseSoftTargets = PhaseSoftTargets()
    """Changes of the soft targets."""
    features: Annotated[tuple[PhaseTerm, ...], BeforeValidator(_for_all)] = ()
    """Changes of the feature terms: one entry for all of them, or a list with one for each."""


Candidate = Literal["hard", "soft", "calibrated", "mixed", "tempered"]
"""A target of the menu; see `raykd.config.choosing`."""


def _menu(value: Any) -> Any:
    if isinstance(value, list | tuple) and (
        len(value) < 2 or len(set(map(str, value))) < len(value)
    ):
        raise ValueError("needs at least two targets, each of them once, or auto")
    return value


class Choose(Settings):
    """The target is chosen on validation, from a menu, before any other student is trained."""

    menu: Annotated[Literal["auto"] | tuple[Candidate, ...], BeforeValidator(_menu)] = "auto"
    """hard: the ensemble's hard labels. soft: its probabilities at T = 1. calibrated: those, sharpened as
    `sharpen: fit` does. mixed: half hard, half calibrated. tempered: T = 4. auto: the first four, and tempered
    where every training sample is labelled."""
    replicas: Count = 2
    """Students trained with each target. They are the first replicas of the student and of the `hard` control,
    so that the one that is chosen is not trained again."""


class Objective(Settings):
    """The sum of the label, soft-target and feature terms."""

    added_later = frozenset({"choose", "mean"})

    choose: Choose | None = None
    """Choose the target on validation: `soft_targets.temperature`, `sharpen` and `hard_share`, which are left out
    then. By the task's metric on the half of validation that fits no temperature; of those within one paired
    standard error of the best, by the NLL at the student's own temperature. The choice is kept in `choice.json`.
    Classification only."""
    labels: Labels = Labels()
    """True labels."""
    soft_targets: SoftTargets | None = SoftTargets()
    """null leaves the term out."""
    weighting: Weighting = WEIGHTINGS["uniform"]()
    """How much each teacher counts, per sample."""
    features: tuple[FeatureTerm, ...] = ()
    """Feature terms."""
    phases: tuple[Phase, ...] = ()
    """Stretches of training with other weights, in order; after the last one all is as written above."""
    mean: Literal["units", "domains"] = "units"
    """With `task: language`: means over all tokens, or such that each domain counts alike, however much text it has."""


def phase_weights(objective: Objective, phase: Phase | None) -> tuple[float | Course, ...]:
    """Weights of labels, soft targets (0 where there are none) and each feature term in a phase.

    Args:
        objective: all of it.
        phase: one of its phases, or None for the time after them.
    """
    soft, changes = objective.soft_targets, phase or _NO_CHANGE
    own = changes.features or (PhaseTerm(),)
    return (
        0.0 if objective.labels.replaces else _changed(changes.labels, objective.labels.strength),
        0.0 if soft is None else _changed(changes.soft_targets, soft.strength),
        *(
            _changed(own[index % len(own)], term.strength)
            for index, term in enumerate(objective.features)
        ),
    )


def restricted(
    objective: Objective,
    features: Sequence[bool],
    *,
    labels: bool = True,
    soft_targets: bool = True,
) -> Objective:
    """The objective with some of its terms only; its phases say nothing of the others.

    A phase without anything left to learn is left out: the next one begins earlier.

    Args:
        objective: all of it.
        features: whether each feature term stays.
        labels: whether the label term keeps its weight.
        soft_targets: whether the soft targets stay.
    """
    update: dict[str, Any] = {"features": tuple(compress(objective.features, features))}
    if not labels:
        update["labels"] = objective.labels.model_copy(update={"weight": 0.0, "mode": "add"})
    if not soft_targets:
        update |= {"soft_targets": None, "choose": None}
        if labels and objective.labels.replaces and objective.soft_targets is not None:
            own = {"weight": objective.soft_targets.strength, "mode": "add"}
            update["labels"] = objective.labels.model_copy(update=own)
    rest = objective.model_copy(update=update)
    phases = (_of_terms(phase, features, labels, soft_targets) for phase in objective.phases)
    active = tuple(p for p in phases if any(map(ever_active, phase_weights(rest, p))))
    return rest.model_copy(update={"phases": active})


def _of_terms(phase: Phase, features: Sequence[bool], labels: bool, soft_targets: bool) -> Phase:
    """A phase with its changes of the terms that stay."""
    update: dict[str, Any] = {}
    if not any(features):
        update["features"] = ()
    elif len(phase.features) == len(features):  # else one entry, or none, for all terms
        update["features"] = tuple(compress(phase.features, features))
    if not labels:
        update["labels"] = PhaseTerm()
    if not soft_targets:
        update["soft_targets"] = PhaseSoftTargets()
    return phase.model_copy(update=update)


_NO_CHANGE = Phase(until_epoch=1)


def _changed(change: PhaseTerm, weight: float | Course) -> float | Course:
    return weight if change.weight is None else change.weight
