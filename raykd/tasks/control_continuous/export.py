"""An exported policy of continuous actions: means and logarithms of standard deviations; it does what its means say."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from raykd.export.task import Predicted, TaskExport
from raykd.tasks.control_continuous.metrics import action_metrics


def _predict(outputs_NC: Tensor, names: tuple[str, ...]) -> Predicted:
    means_NA = outputs_NC.chunk(2, dim=1)[0]
    words = tuple(", ".join(f"{value:.7g}" for value in row) for row in means_NA.tolist())
    return Predicted(names, words, np.arange(len(means_NA)), None, means_NA.numpy())


EXPORT = TaskExport(
    outputs={"gaussians": "[batch, 2 · actions], means, then logarithms of standard deviations"},
    of_network=lambda outputs_BC, _: (outputs_BC,),
    predict=_predict,
    weak_spots=lambda outputs, labels, _: (
        f"The mean error of its actions on test is {action_metrics(outputs, labels)['mae']:.4g}."
    ),
    hub_tag=lambda _: "reinforcement-learning",
    sized=lambda count: f"{count // 2} numbers of an action",
)
