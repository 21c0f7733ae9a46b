"""`data.transfer:` samples without labels that are made or brought, for students to learn from what teachers say of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from raykd.config.base import Count, ImportPath, Json, Name, Positive, Settings, Unit
from raykd.config.sources import Source

OWN = "own"
"""What the recipe's own training samples are called beside the transfer sets."""


class Made(Settings):
    """What the sets share that are made of the recipe's own training samples."""

    count: Count
    """How many samples are made. A larger set contains the smaller one, so that only new samples are scored."""
    of: Literal["all", "labelled"] = "all"
    """Made of all training samples, or of those alone whose label is within the budget."""


class MungeSet(Made):
    """Tables: values of near neighbours are swapped, or drawn about the neighbour's (Bucila et al. 2006, algorithm 1)."""

    type: Literal["munge"] = "munge"
    p: Unit = 0.5
    """Probability of each value to be changed: 0 = copies of the samples."""
    s: Positive = 1.0
    """Local variance: a new value deviates by |difference to the neighbour| / s; a large one keeps to the neighbour's."""


class MixtureSet(Settings):
    """Tables of numbers: draws from a mixture of Gaussians for each class, fitted on the labels within the budget.

    In a regression the classes are deciles of the value; of several labels the rarest one that a sample has.
    """

    type: Literal["gaussian_mixture"] = "gaussian_mixture"
    count: Count
    """How many samples are drawn. A larger set contains the smaller one."""
    components: Count = 1
    """Gaussians of each class, at most one for each of its samples."""
    ridge: Positive = 1.0e-3
    """Added to each variance, as a part of the column's own variance: more makes wider, rounder clouds."""


class NoiseSet(Made):
    """Each value drawn by itself, without a thought for the others: what the other sets are held against."""

    type: Literal["noise"] = "noise"
    like: Literal["columns", "normal", "uniform"] = "columns"
    """columns: any of the values that the training samples have at this place. normal: of their mean and deviation there.
    uniform: between the least and the largest of them. Words are always drawn from the column."""


class MixupSet(Made):
    """Blends of two samples, drawn at random, once and for all (Zhang et al. 2018); for images and tables of numbers."""

    type: Literal["mixup"] = "mixup"
    alpha: Positive = 1.0
    """Beta(alpha, alpha) gives the shares."""


class FactorySet(Made):
    """Your own function: `(inputs, count, generator, **kwargs) -> inputs`, arrays [N, ...] to arrays [count, ...]."""

    type: Literal["factory"] = "factory"
    path: ImportPath
    """`module:function`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Keyword arguments of the function."""


class BroughtSet(Settings):
    """Samples of any source, such as those of another domain; their labels are not looked at."""

    type: Literal["source"] = "source"
    source: Source
    """Where they come from: as `data.source`. Samples have to look like the recipe's own: shape, dtype, columns."""
    count: Count | None = None
    """Take so many of them, the same ones each time; null = all."""


TransferSet = Annotated[
    MungeSet | MixtureSet | NoiseSet | MixupSet | FactorySet | BroughtSet,
    Field(discriminator="type"),
]


class Transfer(Settings):
    """Samples without labels beside the recipe's own training samples, or in their place."""

    sets: Annotated[dict[Name, TransferSet], Field(min_length=1, max_length=20)]
    """Name -> how its samples are made, or where they come from. They are made once, of training samples alone."""
    replace: bool = False
    """Students learn from these samples alone; the recipe's own stay for teachers to be fitted on, for the control
    `labels`, and for a `student.learns_from` that names `own`."""


def taught_sets(
    transfer: Transfer | None, learns_from: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """The sets that a student learns from, `own` among them or not; None = all training samples, since there is no other set.

    Args:
        transfer: `data.transfer`.
        learns_from: `student.learns_from`.
    """
    if transfer is None:
        return None
    if learns_from is not None:
        return learns_from
    return (*(() if transfer.replace else (OWN,)), *transfer.sets)
