"""The stage that scores validation and test, once, and sums up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.data import Samples
from raykd.ensemble import mean_probabilities
from raykd.ensemble.given import uniform
from raykd.evaluate import Evaluation, SplitOutputs, choose_examples
from raykd.evaluate.cost import cost
from raykd.evaluate.outputs import Split
from raykd.folders import RunFolder
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.weights import apply_weights, load_weights
from raykd.pipeline.fits import roles
from raykd.pipeline.prepare import Prepared
from raykd.pipeline.serving import Specs
from raykd.targets import TargetStore
from raykd.teachers.model import Spec, TeacherModel
from raykd.train.checkpoint import FitFolder
from raykd.train.validate import predict
from raykd.types import ORIGINAL_VIEW, TeacherOutputs

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
    return Network(model, prepared.preprocessing).eval()


def ensemble_log_probs(outputs: TeacherOutputs, names: Sequence[str]) -> Tensor:
    """The ensemble's log-probabilities [N, C]: the plain mean of its teachers' probabilities."""
    logits_TNC = torch.stack([outputs[name].values_NC for name in names])
    weights_TN = uniform(logits_TNC, None)
    return mean_probabilities(logits_TNC, weights_TN)


def evaluate(prepared: Prepared, store: TargetStore, run: RunFolder) -> Evaluation:
    """Outputs of every teacher, the ensemble, and every replica of student and controls."""
    samples = prepared.samples
    splits: dict[Split, SplitOutputs] = {}
    names: tuple[Split, Split] = ("validation", "test")
    for split in names:
        rows = samples.splits[split]
        outputs = store.gather(rows, ORIGINAL_VIEW)
        splits[split] = SplitOutputs(
            labels_N=torch.from_numpy(samples.labels[rows].copy()),
            ids_N=torch.from_numpy(samples.ids[rows].copy()),
            teachers={name: F.log_softmax(o.values_NC, dim=1) for name, o in outputs.items()},
            ensemble=ensemble_log_probs(outputs, list(prepared.teachers)),
            students=_students(prepared, run, rows, "best"),
            students_last=_students(prepared, run, rows, "last"),
        )
    shown = choose_examples(splits["test"], _EXAMPLES)
    chosen = samples.splits["test"][shown.numpy()]
    images = next(iter(samples.batch(chosen, ORIGINAL_VIEW).inputs.values()))
    keep = len(samples.input_shape) == 3 and len(chosen) > 0
    return Evaluation(
        splits=splits,
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
    every = int((samples.all_labels[samples.splits["train"]] >= 0).sum())
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
