"""The losses of the objective, each with its own knobs and the paper's defaults.

`combines` says how a loss can take several teachers, the usual way first: as one target (mean of
probabilities, of logits, of values, of relations between samples), where that has the gradient of the weighted sum of the teachers'
own losses, or is wanted in its own right; or as that sum (`losses`).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.config.base import NonNegative, Positive, Settings, Unit

Combine = Literal[
    "probabilities", "probabilities_then_temper", "logits", "losses", "values", "relations"
]
Layout = Literal["projected", "positions", "matrices", "pairs", "any"]


class MseLoss(Settings):
    """Mean squared error (in regression of standardised values)."""

    type: Literal["mse"] = "mse"


class HuberLoss(Settings):
    """Quadratic up to `delta`, linear beyond (Huber 1964); of standardised values."""

    combines: ClassVar[tuple[Combine, ...]] = ("values",)
    type: Literal["huber"] = "huber"
    delta: Positive = 1.0
    """Where it turns linear, in standard deviations."""


LabelLoss = Annotated[MseLoss | HuberLoss, Field(discriminator="type")]


class LogitLoss(Settings):
    """What all losses of class logits share."""

    combines: ClassVar[tuple[Combine, ...]] = ("losses",)
    type: str
    standardise: bool = False
    """Z-score the logits of student and teachers first (LSKD, Sun et al. 2024; theirs: T = 2, weight 9)."""


class KlLoss(LogitLoss):
    """T²·KL(teacher ‖ student) at temperature T (Hinton et al. 2015)."""

    combines: ClassVar[tuple[Combine, ...]] = (
        "probabilities", "logits", "probabilities_then_temper", "losses",
    )  # fmt: skip
    type: Literal["kl"] = "kl"


class ReverseKlLoss(LogitLoss):
    """T²·KL(student ‖ teacher) (MiniLLM, Gu et al. 2024)."""

    combines: ClassVar[tuple[Combine, ...]] = ("logits", "losses")
    type: Literal["reverse_kl"] = "reverse_kl"


class JsLoss(LogitLoss):
    """Generalised Jensen-Shannon divergence (GKD, Agarwal et al. 2024), of the same strength at any β."""

    type: Literal["js"] = "js"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """β, the teacher's share of the mixture."""


class SkewKlLoss(LogitLoss):
    """T²·KL(teacher ‖ α·teacher + (1−α)·student) (DistiLLM, Ko et al. 2024)."""

    type: Literal["skew_kl"] = "skew_kl"
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """α, the teacher's share of the mixture."""


class LogitMseLoss(MseLoss, LogitLoss):
    """Mean squared error of logits (Ba & Caruana 2014); in regression of standardised values.

    A teacher's temperature divides its logits; the objective's cancels out. Of embeddings: of the
    projected vectors.
    """

    combines: ClassVar[tuple[Combine, ...]] = ("logits", "losses", "values")
    centred: bool = False
    """Subtract each sample's mean over the classes first: an offset then costs nothing."""


class DkdLoss(LogitLoss):
    """Decoupled knowledge distillation (Zhao et al. 2022): target class and other classes apart.

    An unlabelled or blended sample gets plain KL. Their warm-up is a schedule of the term's weight:
    `{type: linear, from: 0, to: 1, epochs: 20}`.
    """

    type: Literal["dkd"] = "dkd"
    alpha: NonNegative = 1.0
    """Weight of the target class's part."""
    beta: NonNegative = 8.0
    """Weight of the other classes' part; the paper's best is 0.5 to 8, by pair of networks."""


class DistLoss(LogitLoss):
    """Correlation of predictions within and between samples (DIST, Huang et al. 2022).

    Blind to the scale of the logits, so that T² multiplies its strength; theirs on CIFAR: T = 4.
    """

    type: Literal["dist"] = "dist"
    beta: NonNegative = 2.0
    """Weight of the correlation over classes, of each sample."""
    gamma: NonNegative = 2.0
    """Weight of the correlation over samples, of each class."""
    scope: Literal["global", "local"] = "global"
    """Samples of the whole batch, whatever the number of workers, or of each worker by itself."""


class BernoulliKlLoss(Settings):
    """T²·KL(teacher ‖ student) of each label's probability at temperature T, mean over the labels."""

    combines: ClassVar[tuple[Combine, ...]] = ("probabilities", "logits")
    type: Literal["bernoulli_kl"] = "bernoulli_kl"


class BoundedLoss(Settings):
    """Squared error with the label until the student is better than the ensemble (Chen et al. 2017).

    Their total adds a smooth-L1 loss with the label: `labels: {loss: {type: huber}, weight: 1.0}`.
    """

    combines: ClassVar[tuple[Combine, ...]] = ("values",)
    type: Literal["bounded"] = "bounded"
    margin: NonNegative = 0.0
    """m, in squared standard deviations."""


class ImitationLoss(Settings):
    """Follow the ensemble where it is right (attentive imitation, Saputra et al. 2019)."""

    combines: ClassVar[tuple[Combine, ...]] = ("values",)
    type: Literal["imitation"] = "imitation"
    alpha: Unit = 0.5
    """Share of the label."""
    error_range: Positive | None = None
    """η, in squared standard deviations; null = the range of the ensemble's squared errors on
    validation (the paper: on training samples, where fitted teachers err too little to tell)."""


class FeatureLossSettings(Settings):
    """What all losses of features share: their usual weight, and what shapes they compare.

    Layouts: `projected` brings the student to the teacher's shape by a trained linear map; `positions`
    needs two maps [C, H, W] or two rows of tokens [L, D], whatever their widths; `matrices` two stacks
    of attention [H, L, L]; `pairs` two taps of equal widths on each side; `any` anything.
    """

    default_weight: ClassVar[float] = 1.0
    layout: ClassVar[Layout] = "any"
    combines: ClassVar[tuple[Combine, ...]] = ("losses",)
    type: str


class HintLoss(FeatureLossSettings):
    """Mean squared error of projected features (FitNets, Romero et al. 2015)."""

    default_weight: ClassVar[float] = 100.0
    layout: ClassVar[Layout] = "projected"
    type: Literal["hint"] = "hint"


class AttentionLoss(FeatureLossSettings):
    """Match spatial attention maps (Zagoruyko & Komodakis 2017)."""

    default_weight: ClassVar[float] = 1000.0
    layout: ClassVar[Layout] = "positions"
    type: Literal["attention"] = "attention"


class AttentionMatrixLoss(FeatureLossSettings):
    """Mean squared error of transformers' attention matrices (TinyBERT, Jiao et al. 2020)."""

    layout: ClassVar[Layout] = "matrices"
    type: Literal["attention_matrix"] = "attention_matrix"


class NstLoss(FeatureLossSettings):
    """Match the distribution of channels' selectivity (NST, Huang & Wang 2017)."""

    default_weight: ClassVar[float] = 50.0
    layout: ClassVar[Layout] = "positions"
    type: Literal["nst"] = "nst"


class FspLoss(FeatureLossSettings):
    """Match the flow between two layers (Yim et al. 2017): two taps on each side."""

    default_weight: ClassVar[float] = 50.0
    layout: ClassVar[Layout] = "pairs"
    type: Literal["fsp"] = "fsp"


class VidLoss(FeatureLossSettings):
    """Gaussian likelihood with a learnt variance of each channel (VID, Ahn et al. 2019).

    The mean is a linear map of the student's feature (theirs has three layers).
    """

    layout: ClassVar[Layout] = "projected"
    type: Literal["vid"] = "vid"
    initial_variance: Annotated[float, Field(gt=1e-4)] = 5.0
    """σ² to begin with."""


class StandardisedLoss(FeatureLossSettings):
    """What losses of standardised teachers share."""

    layout: ClassVar[Layout] = "projected"
    standardise: bool = True
    """Subtract the teacher's mean of each channel and divide by its deviation (UNIC, Sariyildiz et al.
    2024): running statistics over all workers, of all batches so far alike until each newer one
    counts `momentum`."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 0.001
    """Least share of a new batch in the running statistics."""


class CosineLoss(StandardisedLoss):
    """One minus cosine similarity of each position (AM-RADIO, UNIC)."""

    type: Literal["cosine"] = "cosine"
    flatten: bool = False
    """One cosine of the whole flattened map (Theia)."""


class SmoothL1Loss(StandardisedLoss):
    """Smooth L1 distance (UNIC: half of it and half a cosine, two terms of weight 0.5)."""

    type: Literal["smooth_l1"] = "smooth_l1"
    beta: Positive = 1.0
    """Where it turns linear."""


class RelationalLoss(FeatureLossSettings):
    """What losses of relations between samples share."""

    combines: ClassVar[tuple[Combine, ...]] = ("relations", "losses")
    scope: Literal["global", "local"] = "global"
    """Samples of the whole batch, whatever the number of workers, or of each worker by itself."""


class SimilarityLoss(RelationalLoss):
    """Match similarities between samples (SP, Tung & Mori 2019)."""

    default_weight: ClassVar[float] = 3000.0
    type: Literal["similarity"] = "similarity"


class RkdDistanceLoss(RelationalLoss):
    """Match relative distances between samples (RKD-D, Park et al. 2019)."""

    default_weight: ClassVar[float] = 25.0
    type: Literal["rkd_distance"] = "rkd_distance"


class RkdAngleLoss(RelationalLoss):
    """Match angles between triplets of samples (RKD-A, Park et al. 2019)."""

    default_weight: ClassVar[float] = 50.0
    type: Literal["rkd_angle"] = "rkd_angle"


class PktLoss(RelationalLoss):
    """Match distributions over neighbours (PKT, Passalis & Tefas 2018)."""

    default_weight: ClassVar[float] = 30000.0
    type: Literal["pkt"] = "pkt"


FeatureLoss = Annotated[
    HintLoss
    | AttentionLoss
    | AttentionMatrixLoss
    | NstLoss
    | FspLoss
    | VidLoss
    | CosineLoss
    | SmoothL1Loss
    | SimilarityLoss
    | RkdDistanceLoss
    | RkdAngleLoss
    | PktLoss,
    Field(discriminator="type"),
]

SoftLoss = Annotated[
    KlLoss
    | ReverseKlLoss
    | JsLoss
    | SkewKlLoss
    | LogitMseLoss
    | DkdLoss
    | DistLoss
    | HuberLoss
    | BoundedLoss
    | ImitationLoss
    | BernoulliKlLoss
    | CosineLoss
    | SmoothL1Loss
    | SimilarityLoss
    | RkdDistanceLoss
    | RkdAngleLoss
    | PktLoss,
    Field(discriminator="type"),
]
"""The last six are of embeddings."""
