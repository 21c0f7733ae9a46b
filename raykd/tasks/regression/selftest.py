"""What a teacher must show in a regression: values better than their mean, in the data's unit."""

from __future__ import annotations

from torch import Tensor

from raykd.config.roles import Expect
from raykd.errors import TeacherError
from raykd.tasks.regression.metrics import value_metrics

_MARGIN = 0.2
_LEAST_R2 = 1e-3


def check_values(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """RMSE on labelled validation samples against `expect` and against always saying their mean.

    Args:
        name: the teacher's name.
        outputs_NC: its answers in original units.
        labels_N: float, all known.
        expect: what it has to reach.
        own_map: a regression has none.

    Raises:
        TeacherError: worse than expected, or no better than the mean; with a hint when its values look
            to be in another unit.
    """
    numbers = value_metrics(outputs_NC, labels_N)
    rmse, r2 = numbers["rmse"], numbers["r2"]
    found = (
        f"teacher {name!r} has RMSE {rmse:.4g} and R² {r2:.3f} on {labels_N.numel()} labelled "
        "validation samples"
    )
    if expect.rmse is not None and rmse > expect.rmse:
        raise TeacherError(
            f"{found}, more than teachers.{name}.expect.rmse={expect.rmse:g}; fit it longer, check its "
            "preprocessing and unit, or raise the expectation"
        )
    if expect.r2 is not None and r2 < expect.r2:
        raise TeacherError(
            f"{found}, less than teachers.{name}.expect.r2={expect.r2:g}; fit it longer, check its "
            "preprocessing and unit, or lower the expectation"
        )
    if expect.r2 is None and expect.rmse is None and not r2 > _LEAST_R2:
        raise TeacherError(
            f"{found}, no better than always saying their mean{_unit_hint(outputs_NC[:, 0], labels_N)}; "
            f"check its weights, preprocessing and unit, or set teachers.{name}.expect.r2=-1e9 to use "
            "it all the same"
        )
    return rmse


def _unit_hint(values_N: Tensor, labels_N: Tensor) -> str:
    """What a straight line through answers and truth says, where they follow each other well."""
    values, labels = values_N.double(), labels_N.double()
    spread = values - values.mean()
    if not spread.square().sum() > 0:
        return ""
    slope = float(spread @ (labels - labels.mean()) / spread.square().sum())
    offset = float(labels.mean() - slope * values.mean())
    explained = value_metrics((slope * values + offset)[:, None], labels)["r2"]
    if explained < _MARGIN:
        return ""
    return (
        f", but R² would be {explained:.3f} for {slope:.4g} · answer + {offset:.4g}: its values look to "
        "be in another unit"
    )
