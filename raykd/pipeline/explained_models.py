"""The models of a finished run as they are asked about made-up inputs, in this process: student, teachers, controls.

Shapes: N samples, B copies of them, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from raykd.config.models import brings_weights
from raykd.errors import InputError
from raykd.evaluate.occlusion import Ask, scores
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.fits import known_weights
from raykd.pipeline.preparation import Prepared
from raykd.seeding import derive
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers import Spec
from raykd.teachers.model import TeacherModel

Answers = dict[str, Tensor]
CONTROLS = 5
"""Networks with fresh weights that a student is held against."""


@dataclass(frozen=True, eq=False)
class ExplainedModels:
    """What is asked, each behind its own preprocessing.

    Attributes:
        task: what they answer.
        input: name of the only input.
        student: the run's.
        controls: its architecture with fresh weights.
        teachers: name -> teacher.
        device: where student and controls are.
    """

    task: str
    input: str
    student: nn.Module
    controls: Sequence[nn.Module]
    teachers: Mapping[str, TeacherModel]
    device: torch.device

    def ask(self, chosen_N: Tensor) -> Ask:
        """Scores of all: `student`, `ensemble` (the mean of the teachers here), `teacher/NAME`, `control/I`."""
        return partial(self._scores, self._all, chosen_N)

    def ask_student(self, chosen_N: Tensor) -> Ask:
        """Scores of the student alone, as `student`."""
        return partial(self._scores, self._own, chosen_N)

    def _scores(
        self,
        answers_of: Callable[[Tensor], Answers],
        chosen_N: Tensor,
        copies: Tensor,
        row_B: Tensor,
    ) -> Answers:
        kind, chosen_B = find_task(self.task).metrics.kind, chosen_N[row_B]
        return {name: scores(kind, one, chosen_B) for name, one in answers_of(copies).items()}

    def _own(self, copies: Tensor) -> Answers:
        return {"student": self._of_network(self.student, copies)}

    def _all(self, copies: Tensor) -> Answers:
        metrics, given = find_task(self.task).metrics, {self.input: copies.numpy()}
        outputs = {
            name: decode(teacher.score_inputs(given)).values_NC.double()
            for name, teacher in self.teachers.items()
        }
        return {
            **self._own(copies),
            "ensemble": metrics.ensemble(list(outputs.values())),
            **{f"teacher/{name}": metrics.answer(one_BC) for name, one_BC in outputs.items()},
            **{
                f"control/{number}": self._of_network(network, copies)
                for number, network in enumerate(self.controls)
            },
        }

    @torch.inference_mode()
    def _of_network(self, network: nn.Module, copies: Tensor) -> Tensor:
        outputs_BC = network({self.input: copies.to(self.device)}).double().cpu()
        return find_task(self.task).metrics.answer(outputs_BC)


def explained_models(
    prepared: Prepared, student: nn.Module
) -> tuple[ExplainedModels, dict[str, str]]:
    """All models that can be asked here, on the GPU where there is one; and why other teachers cannot.

    Raises:
        InputError: no teacher can be asked.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teachers, left_out = _teachers(prepared, device)
    if not teachers:
        why = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise InputError.at("RUN", f"none of its teachers can be asked about new inputs: {why}")
    (name,) = prepared.samples.inputs
    controls = [_fresh(prepared, number).to(device) for number in range(CONTROLS)]
    task = prepared.samples.task
    models = ExplainedModels(task, name, student.to(device), controls, teachers, device)
    return models, left_out


def _teachers(
    prepared: Prepared, device: torch.device
) -> tuple[dict[str, TeacherModel], dict[str, str]]:
    weights, teachers, left_out = known_weights(prepared), {}, {}
    for name, resolved in prepared.teachers.items():
        if name not in weights:
            left_out[name] = "was fitted, but its weights are not in $RAYKD_HOME/teachers"
            continue
        spec = resolved.spec(weights[name], prepared.samples, prepared.config.cluster.hosting)
        if isinstance(spec, Spec):
            teachers[name] = TeacherModel(replace(spec, taps=()), device)
        else:
            left_out[name] = (
                "has recorded outputs and no model" if resolved.engine is None else "is an engine"
            )
    return teachers, left_out


def _fresh(prepared: Prepared, number: int) -> nn.Module:
    """The student's architecture with weights that have learnt nothing, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(prepared.config.seed, "explain", number))
        network = student_network(prepared)
        if brings_weights(prepared.config.student.model):
            for module in network.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
    return network
