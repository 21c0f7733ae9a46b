"""The student in 8 bits held against the one of float32, both in onnxruntime, on all samples of test.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raykd.data import Samples
from raykd.data.steps import as_shown
from raykd.evaluate.summary import numbers_on
from raykd.export import FORMATS
from raykd.export.graph_model import as_network
from raykd.export.int8_format import INT8_GRAPH, Quantization, read_quantization
from raykd.export.student import Runner, Student
from raykd.export.writing import Written
from raykd.tasks import find_task
from raykd.train.validation import predict
from raykd.types import CHUNKS

CALIBRATED_ON = 256
"""Training samples, at most, that the ranges of inputs are taken from."""
_ENSEMBLE, _FLOAT = "ensemble", "float"
FLOAT, INT8 = "onnx", "int8"
"""The two formats that are held against each other."""


@dataclass(frozen=True)
class Comparison:
    """The two models on test.

    Attributes:
        quantization: how the integers were made.
        samples: of test.
        metric: the task's own, which comes first of those that are shown.
        ties: the second one.
        numbers: format -> the task's metrics on test; empty where test has no labels.
        closeness: how closely int8 follows float32, labels aside, by the task's own measures: `agreement_float`,
            `kl_float_nats`; `rmse_float`, `correlation_float`; `spearman_float`, `overlap_float`.
        largest_difference: output -> largest absolute difference between the two.
    """

    quantization: Quantization
    samples: int
    metric: str
    ties: str
    numbers: Mapping[str, Mapping[str, float]]
    closeness: Mapping[str, float]
    largest_difference: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """For `export.json`."""
        return asdict(self)

    def rows(self, written: Mapping[str, Written]) -> list[dict[str, str]]:
        """The table: a row for each of the two, cells by column."""
        first = next(iter(self.closeness))
        found = []
        for name in (FLOAT, INT8):
            time, own = written[name].latency_ms["1"], self.numbers[name]
            apart = {first: f"{self.closeness[first]:.4g}"}
            apart |= {f"difference, {o}": f"{v:.2g}" for o, v in self.largest_difference.items()}
            found.append(
                {
                    "format": name,
                    **{key: f"{own[key]:.4g}" for key in (self.metric, self.ties) if key in own},
                    **(apart if name == INT8 else dict.fromkeys(apart, "–")),
                    "bytes": f"{written[name].bytes:,}",
                    "ms, batch 1 (p95, p99)": f"{time.p50:.3g} ({time.p95:.3g}, {time.p99:.3g})",
                }
            )
        return found

    @property
    def sentences(self) -> list[str]:
        """How the table came about."""
        how = self.quantization
        nodes = ", ".join(f"{count} {name}" for name, count in how.operators.items())
        ranges = f"ranges of inputs from {how.samples:,} training samples (static, QDQ)"
        if how.method == "dynamic":
            ranges = "ranges of inputs are taken at each call (dynamic)"
        left = f"; weights of {', '.join(how.left)} stay float32" if how.left else ""
        return [
            f"Both in onnxruntime, on the {self.samples:,} samples of test; the run's count of how often test was scored "
            "leaves this out.",
            f"Int8: {nodes}, {100 * how.weights:.3g} % of the weights; {ranges}{left}.",
        ]


def calibration_inputs(student: Student, samples: Samples) -> np.ndarray:
    """Untransformed training samples as the exported graph takes them, evenly spaced over all of them."""
    (name,) = samples.inputs
    shown = as_shown({name: samples.training_rows(CALIBRATED_ON)})[name]
    inputs = torch.from_numpy(shown[:, 0] if name == CHUNKS else shown)
    if student.about.preprocessing.tokens is not None:
        inputs = student.about.preprocessing(inputs)
    found: np.ndarray = np.ascontiguousarray(inputs.numpy())
    return found


def compare_with_float(student: Student, samples: Samples, folder: Path) -> Comparison:
    """Score both graphs on test.

    Args:
        student: the student.
        samples: the run's.
        folder: where both graphs were written.
    """
    task, rows = find_task(samples.task).metrics, samples.splits["test"]
    runs = {name: FORMATS[name].open(student, folder) for name in (FLOAT, INT8)}
    largest = dict.fromkeys(student.outputs, 0.0)
    beside = {FLOAT: runs[FLOAT], INT8: _watched(runs[INT8], runs[FLOAT], largest)}
    answers = {
        name: predict(as_network(student.about, run), samples, rows, torch.device("cpu"))
        for name, run in beside.items()
    }
    labels_N = torch.from_numpy(samples.unit_labels(rows))
    numbers = {name: numbers_on(task, one, labels_N) or {} for name, one in answers.items()}
    followed = task.fidelity(answers[INT8], answers[FLOAT], {})
    return Comparison(
        quantization=read_quantization(folder / INT8_GRAPH),
        samples=len(rows),
        metric=task.metric,
        ties=task.ties,
        numbers=numbers,
        closeness={
            key.replace(_ENSEMBLE, _FLOAT): value
            for key, value in followed.items()
            if _ENSEMBLE in key
        },
        largest_difference=largest,
    )


def _watched(run: Runner, reference: Runner, largest: dict[str, float]) -> Runner:
    """A graph whose largest difference from another one is kept, output by output."""

    def both(inputs: np.ndarray) -> list[np.ndarray]:
        found = run(inputs)
        for name, one, other in zip(largest, found, reference(inputs), strict=True):
            difference = float(np.abs(one.astype(np.float64) - other).max())
            largest[name] = max(largest[name], difference)
        return found

    return both
