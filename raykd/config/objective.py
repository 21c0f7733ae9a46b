"""`objective:` labels, soft targets and features, each with its weight; how the ensemble is mixed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raykd.config.base import NonNegative, Positive, Settings, Unit


class Labels(Settings):
    """Cross-entropy with the true labels, over the labelled samples of a batch."""

    weight: NonNegative = 0.1
    """Factor of the term."""
    smoothing: Unit = 0.0
    """Label smoothing."""
    fill: Literal["none", "ensemble"] = "none"
    """`ensemble`: unlabelled samples take the ensemble's argmax as their label."""
    class_weights: Literal["balanced"] | tuple[NonNegative, ...] | None = None
    """Per-class factors; `balanced` is inverse to the class counts among the labelled samples."""


class KlLoss(Settings):
    """T²·KL(teacher ‖ student) at temperature T (Hinton et al. 2015)."""

    type: Literal["kl"] = "kl"


class SoftTargets(Settings):
    """Match the ensemble's tempered probabilities."""

    loss: KlLoss = KlLoss()
    """Distance between the student's and the teachers' distributions."""
    temperature: Positive = 4.0
    """T; a teacher's own `temperature` multiplies it on the teacher's side."""
    weight: NonNegative = 0.9
    """Factor of the term."""
    combine: Literal["probabilities", "logits"] = "probabilities"
    """Mix tempered probabilities (arithmetic mean) or logits (geometric mean)."""


class UniformWeighting(Settings):
    """Every teacher counts the same."""

    type: Literal["uniform"] = "uniform"


class FixedWeighting(Settings):
    """Given weights, normalised to 1 over the teachers that answered."""

    type: Literal["fixed"] = "fixed"
    weights: dict[str, NonNegative]
    """Teacher name -> weight; all teachers must be named."""


Weighting = Annotated[UniformWeighting | FixedWeighting, Field(discriminator="type")]


class HintLoss(Settings):
    """Mean squared error of projected features (FitNets, Romero et al. 2015)."""

    type: Literal["hint"] = "hint"


class AttentionLoss(Settings):
    """Match spatial attention maps (Zagoruyko & Komodakis 2017)."""

    type: Literal["attention"] = "attention"


FeatureLoss = Annotated[HintLoss | AttentionLoss, Field(discriminator="type")]


class FeatureTerm(Settings):
    """One feature of the student against one feature of a teacher."""

    loss: FeatureLoss
    """Which loss."""
    teacher: str
    """Name of the teacher."""
    student_tap: str
    """Dotted module path in the student, as `raykd inspect` prints it."""
    teacher_tap: str
    """Dotted module path in the teacher."""
    weight: NonNegative = 1.0
    """Factor of the term."""


class Objective(Settings):
    """The sum of the label, soft-target and feature terms."""

    labels: Labels = Labels()
    """True labels."""
    soft_targets: SoftTargets | None = SoftTargets()
    """null leaves the term out."""
    weighting: Weighting = UniformWeighting()
    """How much each teacher counts, per sample."""
    features: tuple[FeatureTerm, ...] = ()
    """Feature terms."""
