"""How much each teacher counts, per sample: every weighting sums to 1 over the teachers that answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raykd.config.base import Count, NonNegative, Positive, Settings, Unit


class AnyWeighting(Settings):
    """What all weightings have."""

    def strength(self, teachers: int) -> float:  # noqa: ARG002 (those that have a scale of their own use it)
        """Factor on the soft-target term; 1, since the weights sum to 1."""
        return 1.0


class UniformWeighting(AnyWeighting):
    """Every teacher counts the same (You et al. 2017)."""

    type: Literal["uniform"] = "uniform"


class FixedWeighting(AnyWeighting):
    """Given weights, normalised to 1 over the teachers that answered."""

    type: Literal["fixed"] = "fixed"
    weights: dict[str, NonNegative]
    """Teacher name -> weight; all teachers must be named."""


class AccuracyWeighting(AnyWeighting):
    """In proportion to a power of the accuracy on validation."""

    type: Literal["accuracy"] = "accuracy"
    power: NonNegative = 1.0
    """0 is uniform; larger values favour the best teacher."""


class InverseErrorWeighting(AnyWeighting):
    """In inverse proportion to the error on validation: mean squared in regression, else the NLL."""

    type: Literal["inverse_error"] = "inverse_error"


class EntropyWeighting(AnyWeighting):
    """The surer a teacher is of a sample, the more it counts (EBKD, Kwon et al. 2020)."""

    type: Literal["entropy"] = "entropy"
    temperature: Positive = 1.0
    """Of the probabilities whose entropy it is; a teacher's own temperature multiplies it."""
    paper_code_scale: bool = False
    """Weaken the soft targets to (K−1)/K for K teachers, as the re-implementation in CA-MKD's code does."""

    def strength(self, teachers: int) -> float:
        """Factor on the soft-target term."""
        return (teachers - 1) / teachers if self.paper_code_scale else 1.0


class ConfidenceWeighting(AnyWeighting):
    """The better a teacher predicts a sample's label, the more it counts (CA-MKD, Zhang et al. 2022)."""

    type: Literal["confidence"] = "confidence"
    unlabelled: Literal["uniform", "ensemble_argmax"] = "uniform"
    """Unlabelled (or blended) samples: all the same, or the ensemble's argmax stands for the label."""
    paper_code_scale: bool = False
    """Weaken the soft targets to 1/K for K teachers, as the authors' code does (which the paper does not)."""

    def strength(self, teachers: int) -> float:
        """Factor on the soft-target term."""
        return 1 / teachers if self.paper_code_scale else 1.0


class GradientWeighting(AnyWeighting):
    """The shortest combined gradient of the teachers' KL (AE-KD, Du et al. 2020)."""

    type: Literal["gradient"] = "gradient"
    tolerance: Annotated[float, Field(gt=0, le=1)] = 0.6
    """C_tol, the largest weight; raised to 1/K where it is less."""
    gram: Literal["per_sample", "summed", "batch"] = "per_sample"
    """Weights of each sample; or shared ones, from inner products summed over the samples, or of the
    batch's mean gradients as in the authors' code."""


class AgreementWeighting(AnyWeighting):
    """Only the teachers in the majority count."""

    type: Literal["agreement"] = "agreement"


class SampleWeighting(AnyWeighting):
    """One teacher at a time, drawn anew in each step."""

    type: Literal["sample"] = "sample"
    per: Literal["sample", "batch"] = "sample"
    """A draw for each sample, or one for the batch."""
    probabilities: dict[str, NonNegative] | None = None
    """Teacher name -> how often, relative to the others; null = all alike."""


class DropWeighting(AnyWeighting):
    """The teacher the student is worst at, and each other one by chance (UNIC, Sariyildiz et al. 2024)."""

    type: Literal["drop"] = "drop"
    probability: Unit = 0.5
    """Of leaving out a teacher."""


Weighting = Annotated[
    UniformWeighting
    | FixedWeighting
    | AccuracyWeighting
    | InverseErrorWeighting
    | EntropyWeighting
    | ConfidenceWeighting
    | GradientWeighting
    | AgreementWeighting
    | SampleWeighting
    | DropWeighting,
    Field(discriminator="type"),
]


class DisagreementFilter(Settings):
    """Leave out samples on which the teachers disagree."""

    type: Literal["filter"] = "filter"
    minimum_votes: Count = 2
    """A sample counts where at least so many teachers have the same argmax."""


class DisagreementDiscount(Settings):
    """A sample counts exp(−JSD/τ), JSD being the teachers' Jensen-Shannon divergence in nats."""

    type: Literal["discount"] = "discount"
    tau: Positive = 1.0
    """τ, in nats."""


Disagreement = Annotated[DisagreementFilter | DisagreementDiscount, Field(discriminator="type")]
