"""The stage that scores validation and test, once, and sums up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd.data import Samples
from raykd.evaluate import TASKS, Evaluation, SplitOutputs, choose_examples
from raykd.evaluate.costs import cost
from raykd.evaluate.outputs import Split
from raykd.folders import RunFolder
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import apply_weights, load_weights
from raykd.pipeline.fits import roles
from raykd.pipeline.preparation import Prepared
from raykd.pipeline.serving import Specs
from raykd.targets import TargetStore
from raykd.teachers.model import Spec, TeacherModel
from raykd.train.checkpoint import FitFolder
from raykd.train.validation import predict
from raykd.types import ORIGINAL_VIEW, TeacherOutputs, is_labelled

_EXAMPLES = 24
_COST_ROWS = 16


def student_network(prepared: Prepared, weights: Mapping[str, Tensor]) -> Network:
    """The student with given weights, in evaluation mode."""
    shape = prepared.preprocessing.output_shape(prepared.samples.input_shape)
    model = build_model(
        prepared.config.student.model,
        input_shape=shape,
        classes=prepared.samples.class_count,
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
) -> SplitOutputs:
    """The answers of all models; the ensemble says the plain mean of its teachers' (probabilities, values)."""
    rows, task = samples.splits[split], TASKS[samples.task]
    return SplitOutputs(
        labels_N=torch.from_numpy(samples.labels[rows].copy()),
        ids_N=torch.from_numpy(samples.ids[rows].copy()),
        teachers={name: task.answer(output.values_NC) for name, output in outputs.items()},
        ensemble=task.ensemble(torch.stack([output.values_NC for output in outputs.values()])),
        students=students,
        students_last=students_last,
    )


def evaluate(prepared: Prepared, store: TargetStore, run: RunFolder) -> Evaluation:
    """Outputs of every teacher, the ensemble, and every replica of student and controls."""
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
            _students(prepared, run, rows, "best"),
            _students(prepared, run, rows, "last"),
        )
    shown = choose_examples(splits["test"], _EXAMPLES, samples.task)
    chosen = samples.splits["test"][shown.numpy()]
    images = next(iter(samples.batch(chosen, ORIGINAL_VIEW).inputs.values()))
    keep = len(samples.input_shape) == 3 and len(chosen) > 0
    return Evaluation(
        splits=splits,
        task=samples.task,
        classes=samples.classes,
        examples_rows=shown if keep else None,
        examples_inputs=images if keep else None,
    )


def _students(
    prepared: Prepared, run: RunFolder, rows: np.ndarray, which: str
) -> dict[str, Tensor]:
    config = prepared.config
    found = {}
    for role in roles(config):
        replicas = []
        for replica in range(config.seeds):
            folder = FitFolder(run.checkpoints(f"{role}/replica{replica}"))
            weights = load_weights(folder.weights(which), key="checkpoints")
            network = student_network(prepared, weights)
            replicas.append(predict(network, prepared.samples, rows, torch.device("cpu")))
        found[role] = torch.stack(replicas)
    return found


def costs(prepared: Prepared, specs: Specs, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Parameters, FLOPs, bytes and latency of the student and each teacher, on one CPU thread."""
    inputs = _cost_inputs(prepared.samples)
    folder = FitFolder(run.checkpoints("student/replica0"))
    weights = load_weights(folder.weights("best"), key="checkpoints")
    found = {"student": cost(student_network(prepared, weights), inputs)}
    for name, spec in specs.items():
        if isinstance(spec, Spec):
            found[name] = cost(TeacherModel(spec).network, inputs)
    return found


def _cost_inputs(samples: Samples) -> Mapping[str, Tensor]:
    rows = samples.splits["train"][:_COST_ROWS]
    return samples.batch(rows, ORIGINAL_VIEW).inputs


def labels_used(prepared: Prepared) -> dict[str, Any]:
    """How many labels teachers, student and validation used; each counted once."""
    samples = prepared.samples
    train, validation = (len(samples.labelled_rows(s)) for s in ("train", "validation"))
    every = int(is_labelled(samples.all_labels[samples.splits["train"]]).sum())
    teachers = {
        name: (every if c.settings.labels == "all" else train) if c.settings.fit is not None else 0
        for name, c in prepared.teachers.items()
    }
    most = max([train, *teachers.values()])
    return {
        "student": train,
        "teachers": teachers,
        "validation": validation,
        "total": most + validation,
    }
