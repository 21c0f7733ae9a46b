"""What is known of the teachers once they have answered for the validation samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raykd.ensemble import labels_of_known
from raykd.evaluate import SplitOutputs, TaskMetrics
from raykd.types import Scale


@dataclass(frozen=True, eq=False)
class TeacherValidation:
    """Answers of the teachers on validation, and how wrong they are.

    Attributes:
        task: what the answers are for.
        validation: their answers.
        scale: the unit of a regression, None in other tasks.
    """

    task: TaskMetrics
    validation: SplitOutputs
    scale: Scale | None

    @property
    def errors(self) -> dict[str, float]:
        """Teacher -> its error: mean squared in regression (squared original units), else the NLL.

        Of a teacher that knows only some classes: on the samples of those.
        """
        return {name: self.task.error(numbers) for name, numbers in self._numbers.items()}

    @property
    def accuracies(self) -> dict[str, float]:
        """Teacher -> its accuracy, on the samples of classes that it knows; in multilabel of single labels."""
        return {name: numbers["accuracy"] for name, numbers in self._numbers.items()}

    @property
    def _numbers(self) -> dict[str, dict[str, float]]:
        return {
            name: self.task.numbers(answers, self._of_known(answers))
            for name, answers in self.validation.teachers.items()
        }

    def _of_known(self, answers: Tensor) -> Tensor:
        """The labels, those of classes that a teacher does not know taken for unlabelled."""
        labels_N = self.validation.labels_N
        if self.task.kind != "logits":
            return labels_N
        return labels_of_known(answers, labels_N)
