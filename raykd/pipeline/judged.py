"""What is known of the teachers once they have answered for the validation samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from raykd.evaluate import SplitOutputs, Task
from raykd.evaluate.values import squared_errors
from raykd.types import Scale


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers of the teachers on validation, and how wrong they are.

    Attributes:
        task: what the answers are for.
        validation: their answers.
        scale: the unit of a regression, None in other tasks.
    """

    task: Task
    validation: SplitOutputs
    scale: Scale | None

    @property
    def errors(self) -> dict[str, float]:
        """Teacher -> its error: mean squared in regression (squared original units), else the NLL."""
        labels_N = self.validation.labels_N
        return {
            name: self.task.error(self.task.numbers(answers, labels_N))
            for name, answers in self.validation.teachers.items()
        }

    @property
    def accuracies(self) -> dict[str, float]:
        """Teacher -> its accuracy; in multilabel of single labels."""
        labels_N = self.validation.labels_N
        return {
            name: self.task.numbers(answers, labels_N)["accuracy"]
            for name, answers in self.validation.teachers.items()
        }

    def error_range(self, names: Sequence[str]) -> float:
        """η of attentive imitation: largest less smallest squared error of the mean of these teachers.

        In squared standard deviations. The paper takes training samples; the teachers here are fitted
        on those and err little there, so that the range would tell nothing of new samples.
        """
        assert self.scale is not None, "only values have squared errors"
        answers = torch.stack([self.validation.teachers[name] for name in names]).mean(dim=0)
        errors = squared_errors(answers, self.validation.labels_N) / self.scale.std**2
        return max(float(errors.max() - errors.min()), torch.finfo(torch.float32).eps)
