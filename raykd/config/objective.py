"""`objective:` labels, soft targets and features, each with its weight; how the ensemble is mixed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
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
from raykd.config.on_policy import MaybeOnPolicy
from raykd.config.schedules import Course, Scheduled, ScheduledPositive, ever_active
from raykd.methods import Combine

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

    added_later = frozenset({"sharpen", "hard_share", "tail", "top_k", "projector", "target"})

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
    """With `task: language`, where not all tokens are kept or learnt from: whether the others count, as one
    bucket; false takes them for impossible, as most public code does, to be compared with."""
    top_k: Count | None = None
    """With `task: language`: of each teacher its so many likeliest tokens are learnt from, and the others as `tail` says,
    however many the store keeps: to compare that on one set of targets. null = all that are kept."""
    combine: Combine | None = None
    """Mix tempered probabilities (arithmetic mean; or temper after mixing), logits (geometric mean), or
    add up the teachers' own losses; in regression values; of embeddings relations between samples. null = the right one for the loss: whichever
    has the gradient of that sum, which for kl is probabilities."""
    disagreement: Disagreement | None = None
    """How much a sample counts by how far the teachers agree on it; the term is the mean over what
    counts. null = all alike."""
    projector: Literal["mlp"] | None = None
    """Of embeddings: the head by which the student's vector is compared with each teacher's, trained beside the student and
    never exported. null = a linear map; `mlp` = two layers."""
    target: Literal["global", "phis"] | None = None
    """Of embeddings: the scale at which each teacher's vectors are compared, fitted once on training samples and kept.
    `global` = mean and one deviation; `phis` = the same after a rotation that gives all channels equal variance
    (Ranzinger et al. 2024); null = as they are, or as the loss standardises them."""

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

    added_later = frozenset({"projector", "target", "foreground"})

    loss: FeatureLoss
    """Which loss."""
    teacher: str
    """Name of the teacher."""
    student_tap: Tap
    """Dotted module path in the student, as `raykd inspect` prints it; for fsp a list of two."""
    teacher_tap: Tap
    """Dotted module path in the teacher; for fsp a list of two."""
    weight: Scheduled | None = None
    """Factor of the term; a number or a schedule. null = that of the loss: 100 for hint, 1000 for attention, ..."""
    projector: Literal["orthogonal", "mlp"] | None = None
    """null = any linear map. `orthogonal` keeps lengths and angles (VkD: with smooth_l1, `standardise: false`, `target: layer_norm`).
    `mlp` = two layers at each position."""
    target: Literal["layer_norm", "global", "phis"] | None = None
    """`layer_norm`: the teacher's feature with mean 0 and deviation 1 over the channels of each position. `global`,
    `phis`: at a scale that is fitted once, as of the soft targets."""
    foreground: Literal["truth", "ensemble"] | None = None
    """With `task: detection` and the losses pkd and cwd, of maps: which positions count. `truth`: those within true boxes,
    of labelled images; `ensemble`: each by the teachers' largest probability there. null = all alike."""

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

    added_later = frozenset({"choose", "mean", "feature_weighting", "on_policy"})

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
    feature_weighting: Literal["heads", "uncertainty", "teachers"] | None = None
    """`heads`: shares of the terms, 1 in sum, by how well each teacher's head reads the label from the student (CA-MKD).
    `uncertainty`: ½·exp(−s)·L + ½·s of each term, with an s that is learnt (Kendall et al. 2018), times its `weight`.
    `teachers`: a term counts as its teacher does in the soft targets, sample by sample, and with the weighting `drop` what
    a teacher's terms cost counts in who is dropped (UNIC)."""
    phases: tuple[Phase, ...] = ()
    """Stretches of training with other weights, in order; after the last one all is as written above."""
    mean: Literal["units", "domains"] = "units"
    """With `task: language`: means over all tokens, or such that each domain counts alike, however much text it has."""
    on_policy: MaybeOnPolicy = None
    """With `task: language`: a part of each batch are texts that the student writes itself, scored once by the teachers
    (GKD). null = all texts are the pool's."""


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
        update |= {"soft_targets": None, "choose": None, "on_policy": None}
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
