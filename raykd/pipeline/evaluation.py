"""The stage that scores validation and test, once, and sums up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.data import Samples
from raykd.evaluate import Evaluation, SplitOutputs, choose_examples
from raykd.evaluate.costs import cost, one_thread
from raykd.evaluate.outputs import Split
from raykd.folders import RunFolder
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import apply_weights
from raykd.pipeline.external_baselines import external_baseline_answers
from raykd.pipeline.preparation import Prepared, student_outputs
from raykd.pipeline.serving import Specs
from raykd.targets import TargetStore
from raykd.tasks import find_task
from raykd.teachers.model import Spec, TeacherModel
from raykd.train.checkpoint import FitFolder
from raykd.train.validation import predict
from raykd.types import ORIGINAL_VIEW, TeacherOutputs

_EXAMPLES = 24
_COST_ROWS = 16


def student_network(prepared: Prepared, weights: Mapping[str, Tensor]) -> Network:
    """The student with given weights, in evaluation mode."""
    shape = prepared.preprocessing.output_shape(prepared.samples.input_shape)
    model = build_model(
        prepared.config.student.model,
        input_shape=shape,
        classes=student_outputs(prepared.config, prepared.samples),
        key="student.model",
    )
    apply_weights(model, weights, key="student.model")
    return Network(model, prepared.preprocessing, prepared.samples.scale).eval()


def split_outputs(
    samples: Samples,
    split: Split,
    outputs: TeacherOutputs,
    students: Mapping[str, Tensor],
    students_last: Mapping[str, Tensor],
    external_baselines: Mapping[str, Tensor] | None = None,
) -> SplitOutputs:
    """The answers of all models; the ensemble says the plain mean of its teachers' (probabilities, values)."""
    rows, task = samples.splits[split], find_task(samples.task).metrics
    return SplitOutputs(
        labels_N=torch.from_numpy(samples.labels[rows].copy()),
        ids_N=torch.from_numpy(samples.ids[rows].copy()),
        teachers={name: task.answer(output.values_NC) for name, output in outputs.items()},
        ensemble=task.ensemble([output.values_NC for output in outputs.values()]),
        students=students,
        students_last=students_last,
        rivals=external_baselines or {},
        task=samples.task,
    )


def evaluate(
    prepared: Prepared,
    store: TargetStore,
    run: RunFolder,
    students: Mapping[str, Prepared],
    external_baselines: Specs | None = None,
) -> Evaluation:
    """Outputs of every teacher, the ensemble, every replica of each role of the student, and other models.

    Args:
        prepared: the recipe, with the data and teachers of all.
        store: the teachers' answers.
        run: where the weights are.
        students: role (`student`, a control, a method) -> the recipe that it was trained by.
        external_baselines: models that the student is held against.
    """
    samples = prepared.samples
    splits: dict[Split, SplitOutputs] = {}
    names: tuple[Split, Split] = ("validation", "test")
    for split in names:
        rows = samples.splits[split]
        outputs = store.gather(rows, ORIGINAL_VIEW)
        splits[split] = split_outputs(
            samples,
            split,
            {name: outputs[name] for name in prepared.teachers},
            {role: _answers(recipe, run, role, rows, "best") for role, recipe in students.items()},
            {role: _answers(recipe, run, role, rows, "last") for role, recipe in students.items()},
            {
                name: external_baseline_answers(spec, samples, rows)
                for name, spec in (external_baselines or {}).items()
            },
        )
    rows_E, inputs = _examples(samples, splits["test"])
    return Evaluation(
        splits=splits,
        task=samples.task,
        classes=samples.classes,
        examples_rows=rows_E,
        examples_inputs=inputs,
    )


def _examples(samples: Samples, test: SplitOutputs) -> tuple[Tensor | None, Tensor | None]:
    """Images on which student and baseline differ: positions in test and pixels; None where there are none."""
    if len(samples.input_shape) != 3 or "student" not in test.students:
        return None, None
    rows_E = choose_examples(test, _EXAMPLES, samples.task)
    if not len(rows_E):
        return None, None
    inputs = samples.batch(samples.splits["test"][rows_E.numpy()], ORIGINAL_VIEW).inputs
    return rows_E, next(iter(inputs.values()))


def _answers(prepared: Prepared, run: RunFolder, role: str, rows: np.ndarray, which: str) -> Tensor:
    """What every replica of a role says of some rows [R, N, C]."""
    replicas = []
    for replica in range(prepared.config.seeds):
        folder = FitFolder(run.checkpoints(f"{role}/replica{replica}"))
        network = student_network(prepared, folder.read_weights(which))
        network.remembers = True
        replicas.append(predict(network, prepared.samples, rows, torch.device("cpu")))
    return torch.stack(replicas)


def costs(prepared: Prepared, specs: Specs, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Parameters, FLOPs, bytes and latency of the student and each teacher, on one CPU thread."""
    inputs = _cost_inputs(prepared.samples)
    folder = FitFolder(run.checkpoints("student/replica0"))
    weights = folder.read_weights("best")
    found = {"student": cost(student_network(prepared, weights), inputs)}
    for name, spec in specs.items():
        if isinstance(spec, Spec):
            with one_thread():  # another runtime takes its threads when it is opened
                network = TeacherModel(spec).network
            found[name] = cost(network, inputs)
    return found


def _cost_inputs(samples: Samples) -> Mapping[str, Tensor]:
    rows = samples.splits["train"][:_COST_ROWS]
    return samples.batch(rows, ORIGINAL_VIEW).inputs


def labels_used(prepared: Prepared) -> dict[str, Any]:
    """How many labels teachers, student and validation used; each counted once."""
    samples = prepared.samples
    train, validation = (len(samples.labelled_rows(s)) for s in ("train", "validation"))
    teachers = {
        name: len(samples.labelled_rows("train", c.settings.labels)) if c.settings.learns else 0
        for name, c in prepared.teachers.items()
    }
    most = max([train, *teachers.values()])
    return {
        "student": train,
        "teachers": teachers,
        "validation": validation,
        "total": most + validation,
    }
