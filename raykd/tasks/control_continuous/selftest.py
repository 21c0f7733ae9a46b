"""What a teacher of continuous control must show: actions nearer to those that were taken than their mean is."""

from __future__ import annotations

from torch import Tensor

from raykd.config.roles import Expect
from raykd.errors import TeacherError
from raykd.tasks.control_continuous.metrics import action_metrics


def check_actions(
    name: str,
    outputs_NC: Tensor,
    labels_N: Tensor,
    expect: Expect,
    own_map: tuple[int | None, ...] | None = None,  # noqa: ARG001 - one signature for all tasks
) -> float:
    """RMSE of the means against the actions that were taken; as `raykd.teachers.selftest.SelfTest`.

    Raises:
        TeacherError: more than expected, or no less than the spread of the actions.
    """
    rmse = action_metrics(outputs_NC, labels_N)["rmse"]
    if expect.rmse is not None and rmse > expect.rmse:
        raise TeacherError(
            f"teacher {name!r} has RMSE {rmse:.4g} on the recorded actions of validation, more than "
            f"teachers.{name}.expect.rmse={expect.rmse:g}; check what it is given, or raise the expectation"
        )
    spread = float(labels_N.double().std(dim=0, correction=0).square().mean().sqrt())
    if expect.rmse is None and not rmse < spread:
        raise TeacherError(
            f"teacher {name!r} has RMSE {rmse:.4g} on the recorded actions of validation, no better than always taking "
            f"their mean ({spread:.4g}); check what it is given and the unit of its actions, or set "
            f"teachers.{name}.expect.rmse=1e9 to use it all the same"
        )
    return rmse
