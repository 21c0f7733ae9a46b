"""An exported regression: values in the unit of the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from raykd.export.task import Predicted, TaskExport, quoted


def _weak_spots(values_N1: Tensor, labels_N: Tensor, names: Sequence[str]) -> str:
    error_N = (values_N1[:, 0] - labels_N).double().numpy()
    size_N = np.abs(error_N)
    return (
        f"Of {quoted(names[0])}, 95 % of the test samples are missed by at most "
        f"{np.quantile(size_N, 0.95):.4g}, the worst by {size_N.max():.4g}; the mean error is "
        f"{error_N.mean():+.4g}."
    )


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    value_N = outputs_NC[:, 0]
    return Predicted(
        names, tuple(f"{value:.7g}" for value in value_N.tolist()), value_N.numpy(), None
    )


EXPORT = TaskExport(
    outputs={"values": "[batch, 1], in the unit of the target"},
    of_network=lambda values_B1, _: (values_B1,),
    predict=_predict,
    weak_spots=_weak_spots,
    hub_tag=lambda kind: "tabular-regression" if kind == "tabular" else None,
    sized=lambda _: "one value",
)
