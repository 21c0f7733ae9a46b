"""The settings of every loss and weighting, made of the rows of `raykd.methods`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, create_model

from raykd.config.base import Count, Positive, Settings, no_bool
from raykd.methods import LOSS_ROWS, WEIGHTING_ROWS, feature_losses, soft_losses
from raykd.methods.rows import Knob, LossRow, WeightingRow


class MethodSettings(Settings):
    """A loss or a weighting: its name, and its knobs."""

    model_config = ConfigDict(use_attribute_docstrings=False)

    type: str

    @property
    def row(self) -> LossRow | WeightingRow:
        """What is known of it."""
        raise NotImplementedError

    def knob(self, name: str) -> Any:
        """The value of a knob; None of one that it does not have."""
        return getattr(self, name, None)

    @property
    def arguments(self) -> dict[str, Any]:
        """The knobs that are handed to the function as they stand."""
        knobs = self.row.knobs
        return {name: value for name, value in self if name in knobs and knobs[name].argument}


class LossSettings(MethodSettings):
    """What the settings of all losses share."""

    @property
    def row(self) -> LossRow:
        """The loss in the table."""
        return LOSS_ROWS[self.type]


class WeightingSettings(MethodSettings):
    """What the settings of all weightings share."""

    @property
    def row(self) -> WeightingRow:
        """The weighting in the table."""
        return WEIGHTING_ROWS[self.type]

    @property
    def per_teacher(self) -> dict[str, Mapping[str, float]]:
        """Those of the knobs that give a number for each teacher, by name."""
        given = {name: self.knob(name) for name, knob in self.row.knobs.items() if knob.per_teacher}
        return {name: values for name, values in given.items() if values is not None}

    def strength(self, teachers: int) -> float:
        """Factor on the soft-target term: 1, since the weights sum to 1, or that of the authors' code."""
        scale = self.row.paper_scale
        return scale(teachers) if scale is not None and self.knob("paper_code_scale") else 1.0


class MseLoss(LossSettings):
    """Mean squared error (in regression of standardised values)."""

    type: Literal["mse"] = "mse"


_Base = TypeVar("_Base", bound=MethodSettings)


def _field(knob: Knob) -> tuple[Any, Any]:
    """A knob as a field of pydantic: type and description."""
    bounds = Field(gt=knob.gt, ge=knob.ge, lt=knob.lt, le=knob.le)
    annotation: Any = Annotated[float, bounds, BeforeValidator(no_bool)]
    if knob.choices:
        annotation = _one_of(knob.choices)
    elif isinstance(knob.default, bool):
        annotation = bool
    if knob.per_teacher:
        annotation = dict[str, annotation]
    if knob.default is None:
        annotation = annotation | None
    return annotation, Field(knob.default, description=knob.doc)


def _one_of(texts: tuple[str, ...]) -> Any:
    literal: Any = Literal
    return literal[texts]


def _made(base: type[_Base], title: str, name: str, row: LossRow | WeightingRow) -> type[_Base]:
    """The settings class of one row; a name of this module too, under which pickle finds it."""
    fields: dict[str, Any] = {knob: _field(about) for knob, about in row.knobs.items()}
    fields = {"type": (_one_of((name,)), name), **fields}
    made = create_model(title, __base__=base, __module__=__name__, __doc__=row.about, **fields)
    made.added_later = frozenset(name for name, knob in row.knobs.items() if knob.later)
    globals()[title] = made
    return made


def _title(name: str) -> str:
    if name == "mse":
        return "LogitMse"  # `MseLoss` is that of the labels
    return "".join(part.capitalize() for part in name.split("_"))


LOSSES: dict[str, Callable[..., LossSettings]] = {
    name: _made(LossSettings, f"{_title(name)}Loss", name, row) for name, row in LOSS_ROWS.items()
}
WEIGHTINGS: dict[str, Callable[..., WeightingSettings]] = {
    name: _made(WeightingSettings, f"{_title(name)}Weighting", name, row)
    for name, row in WEIGHTING_ROWS.items()
}


def _union(members: Iterable[Any]) -> Any:
    return Annotated[reduce(operator.or_, members), Field(discriminator="type")]


if TYPE_CHECKING:
    LabelLoss = LossSettings
    SoftLoss = LossSettings
    FeatureLoss = LossSettings
    Weighting = WeightingSettings
else:
    LabelLoss = _union([MseLoss, LOSSES["huber"]])
    SoftLoss = _union(LOSSES[name] for name in soft_losses())
    FeatureLoss = _union(LOSSES[name] for name in feature_losses())
    Weighting = _union(WEIGHTINGS.values())


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
