"""The stage that scores validation and test, once: outputs of all models, costs, slices of test.

Shapes: N samples of the data, M of test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.explanations import nearest
from raykd.config.models import Model
from raykd.config.root import Slice
from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.evaluate import Evaluation, SplitOutputs, choose_examples
from raykd.evaluate import costs as model_costs
from raykd.evaluate.latency import Conditions, one_thread
from raykd.evaluate.outputs import Split
from raykd.evaluate.statistics import spread
from raykd.folders import RunFolder
from raykd.models.network import Network, placed
from raykd.models.preprocess import Preprocessing
from raykd.models.weights import apply_weights
from raykd.pipeline.kept_answers import (
    StoredAnswers,
    keep_stored,
    kept_in,
    kept_outputs,
    teachers_beside,
)
from raykd.pipeline.preparation import Prepared, collect, student_outputs
from raykd.pipeline.taught import labelled_student_rows
from raykd.pipeline.teachers import Specs, network_of
from raykd.pipeline.texts import teacher_rows
from raykd.targets import TargetStore
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers.model import AnySpec, Spec, TeacherModel, host
from raykd.train.checkpoint import FitFolder
from raykd.train.lanes import worker_device
from raykd.train.validation import few_at_a_time, predict
from raykd.types import ORIGINAL_VIEW

_EXAMPLES = 24
_TRAINED_ROWS = 1000
_COST_ROWS = 16
_MOST_VALUES = 20
Parts = dict[str, np.ndarray]
Result = TypeVar("Result")
Rows = Mapping[str, np.ndarray]


class Ask(Protocol):
    """How pieces of an evaluation are done: one after the other here, or side by side in processes of the crew."""

    def __call__(
        self, work: Callable[..., Result], given: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        """What `work(samples, *arguments)` gives for each of the given arguments, in their order."""
        ...


@dataclass(frozen=True)
class StudentSpec:
    """All that it takes to build the student of a recipe anywhere: model, preprocessing, number of outputs."""

    model: Model
    preprocessing: Preprocessing
    outputs: int

    @classmethod
    def of(cls, prepared: Prepared) -> StudentSpec:
        """That of a recipe."""
        outputs = student_outputs(prepared.config, prepared.samples)
        return cls(prepared.config.student.model, prepared.preprocessing, outputs)

    def network(self, samples: Samples, weights: Mapping[str, Tensor] | None) -> Network:
        """The student in evaluation mode, with given weights or fresh ones."""
        key = "student.model"
        network = network_of(self.model, self.preprocessing, samples, self.outputs, key)
        if weights is not None:
            apply_weights(network.model, weights, key=key)
        return network.eval()


def student_network(prepared: Prepared, weights: Mapping[str, Tensor] | None = None) -> Network:
    """The student in evaluation mode, with given weights or fresh ones."""
    return StudentSpec.of(prepared).network(prepared.samples, weights)


def predict_student(
    samples: Samples,
    spec: StudentSpec,
    folder: FitFolder,
    which: Sequence[str],
    rows: Rows,
    held_against: StoredAnswers | None = None,
) -> dict[tuple[str, str], Tensor]:
    """What a student answers, on this process's device: (`best` or `last`, name of the rows) -> [N, C].

    Where columns are kept, those of its best weights on test also tell how far it is from `held_against`.
    """
    device, found = worker_device(), {}
    for weights in which:
        network = spec.network(samples, folder.read_weights(weights))
        network.remembers = True
        network = placed(network, device, tf32=False)
        for name, rows_N in rows.items():
            beside = None
            if held_against is not None and (weights, name) == ("best", "test"):
                beside = teachers_beside(samples, held_against)
            found[weights, name] = predict(network, samples, rows_N, device, beside)
    return found


def evaluate(
    prepared: Prepared,
    store: TargetStore,
    run: RunFolder,
    students: Mapping[str, Prepared],
    ask: Ask,
    external_baselines: Specs | None = None,
) -> Evaluation:
    """Outputs of every teacher, the ensemble, every replica of each role of the student, and other models.

    Args:
        prepared: the recipe, with the data and teachers of all.
        store: the teachers' answers.
        run: where the weights are.
        students: role (`student`, a control, another student, a method) -> the recipe that it was trained by.
        ask: does the pieces.
        external_baselines: models that the student is held against.
    """
    samples = prepared.samples
    rows = {name: samples.splits[name] for name in ("validation", "test")}
    of_roles = {role: fit_ids(recipe, role) for role, recipe in students.items()}
    columns, teachers = find_task(samples.task).metrics.columns is not None, list(prepared.teachers)
    stored = StoredAnswers.of(store, prepared.config, teachers) if columns else None
    found = dict(
        zip(
            (fit_id for ids in of_roles.values() for fit_id in ids),
            ask(
                predict_student,
                [
                    (StudentSpec.of(students[role]), FitFolder(run.checkpoints(one)), ("best", "last"), rows,
                     stored if role in ("student", *prepared.students) else None)
                    for role, ids in of_roles.items() for one in ids
                ],
            ),
            strict=True,
        )
    )  # fmt: skip
    baselines = external_baselines or {}
    compared = dict(
        zip(baselines, ask(predict_baseline, [(spec, rows) for spec in baselines.values()]), strict=True)
    )  # fmt: skip

    def answers(which: str, split: str) -> dict[str, Tensor]:
        return {
            role: torch.stack([found[one][which, split] for one in ids])
            for role, ids in of_roles.items()
        }

    splits: dict[Split, SplitOutputs] = {}
    names: tuple[Split, Split] = ("validation", "test")
    if stored is None:
        kept = [kept_in(samples, store, rows[split], teachers) for split in names]
    else:
        kept = ask(keep_stored, [(stored, rows[split]) for split in names])
    for split, kept_of_split in zip(names, kept, strict=True):
        splits[split] = kept_outputs(
            samples,
            split,
            kept_of_split,
            answers("best", split),
            answers("last", split),
            {name: by_split[split] for name, by_split in compared.items()},
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


def best_answers(
    prepared: Prepared, run: RunFolder, fit_ids: Sequence[str], rows: np.ndarray, ask: Ask
) -> Tensor:
    """What the students of some fits answer for some rows, at their best epochs [R, N, C].

    Args:
        prepared: the recipe that all of them were trained by.
        run: where their weights are.
        fit_ids: of R fits.
        rows: N samples.
        ask: does the pieces.
    """
    spec = StudentSpec.of(prepared)
    given = [(spec, FitFolder(run.checkpoints(one)), ("best",), {"rows": rows}) for one in fit_ids]
    return torch.stack([found["best", "rows"] for found in ask(predict_student, given)])


def fit_ids(prepared: Prepared, role: str) -> list[str]:
    """Of all replicas of a role."""
    return [f"{role}/replica{replica}" for replica in range(prepared.config.seeds)]


def training_numbers(
    prepared: Prepared, run: RunFolder, ask: Ask, name: str = "student"
) -> dict[str, Any]:
    """How a student's training ended, replica by replica, and how well it answers what it was trained on.

    Returns:
        `epochs` and `best_epoch` (from 1) of each replica; `train`, the task's metric on labelled training samples,
        at most 1,000, over replicas; None where there are none, or samples are judged by each other.
    """
    samples, task = prepared.samples, find_task(prepared.samples.task).metrics
    results = [
        FitFolder(run.checkpoints(f"{name}/replica{replica}")).result() or {}
        for replica in range(prepared.config.seeds)
    ]
    rows = labelled_student_rows(prepared.config, samples)[:_TRAINED_ROWS]
    found = None
    if len(rows) and task.tally is not None:
        labels_N = torch.from_numpy(samples.unit_labels(rows))
        answers_RNC = best_answers(prepared, run, fit_ids(prepared, name), rows, ask)
        found = spread([task.numbers(one_NC, labels_N)[task.metric] for one_NC in answers_RNC])
    return {
        "epochs": [result.get("epochs") for result in results],
        "best_epoch": [
            None if (best := result.get("best_epoch")) is None else best + 1 for result in results
        ],
        "train": found,
    }


def timed_students(prepared: Prepared, run: RunFolder) -> dict[str, tuple[StudentSpec, FitFolder]]:
    """What is timed of the students of a run: of each the first replica, and where its weights are."""
    every = {"student": prepared, **prepared.students}
    return {
        name: (StudentSpec.of(one), FitFolder(run.checkpoints(fit_ids(one, name)[0])))
        for name, one in every.items()
    }


def costs(
    samples: Samples, students: Mapping[str, tuple[StudentSpec, FitFolder]], specs: Specs
) -> tuple[dict[str, dict[str, Any]], Conditions]:
    """Parameters, FLOPs, bytes and latency of each student and each teacher, and what disturbed the latter.

    All are in memory at once, since they are timed in turns.

    Args:
        samples: the data.
        students: of `timed_students`.
        specs: the teachers.
    """
    networks: dict[str, nn.Module] = {
        name: spec.network(samples, folder.read_weights("best"))
        for name, (spec, folder) in students.items()
    }
    with one_thread():  # another runtime takes its threads when it is opened
        networks |= {
            name: TeacherModel(one).network for name, one in specs.items() if isinstance(one, Spec)
        }
    return model_costs.costs(networks, _cost_inputs(samples))


def _cost_inputs(samples: Samples) -> Mapping[str, Tensor]:
    rows = samples.splits["train"][:_COST_ROWS]
    return samples.batch(rows, ORIGINAL_VIEW).inputs


def labels_used(prepared: Prepared) -> dict[str, Any]:
    """How many labels teachers, student and validation used; each counted once."""
    samples = prepared.samples
    train = len(labelled_student_rows(prepared.config, samples))
    validation = len(samples.labelled_rows("validation"))
    teachers = {
        name: len(teacher_rows(samples, c.settings)) if c.settings.is_ours else 0
        for name, c in prepared.teachers.items()
    }
    most = max([train, *teachers.values()])
    return {
        "student": train,
        "teachers": teachers,
        "validation": validation,
        "total": most + validation,
    }


def external_baseline_specs(prepared: Prepared) -> Specs:
    """What it takes to ask each model of `evaluate.compare`."""
    cluster = prepared.config.cluster.hosting
    return {
        name: one.spec(one.weights or {}, prepared.samples, cluster)
        for name, one in prepared.external_baselines.items()
    }


def predict_baseline(samples: Samples, spec: AnySpec, rows: Rows) -> dict[str, Tensor]:
    """What a model says of untransformed samples, as evaluation keeps it: name of the rows -> [N, C]."""
    with one_thread():  # another runtime takes its threads when it is opened
        scorer = host(spec, worker_device())
    task, found = find_task(samples.task).metrics, {}
    for name, rows_N in rows.items():
        parts = [rows_N] if task.columns is None else list(few_at_a_time(samples, rows_N))
        kept = []
        for part in parts:
            arrays = scorer.score(samples, part, np.full(len(part), ORIGINAL_VIEW))
            labels = torch.from_numpy(samples.unit_labels(part))
            kept.append(task.kept(task.answer(decode(arrays).values_NC), labels))
        found[name] = torch.cat(kept) if len(kept) > 1 else kept[0]
    return found


def slices_of_test(slices: tuple[Slice, ...], samples: Samples) -> dict[str, torch.Tensor]:
    """Name of each slice, such as `sex=f`, `age 18 to 65` or `class cat` -> its test samples, bool [M].

    Raises:
        InputError: a class or value that the data does not have, ranges of what are no numbers, more than 20 values, or
            two slices of one name; every one of them.
    """
    problems: list[Problem] = []
    found: Parts = {}
    for index, entry in enumerate(slices):
        key = f"evaluate.slices.{index}"
        slice_of = _of_class if entry.column is None else _of_column
        made = collect(problems, partial(slice_of, entry, samples, key)) or {}
        problems += [
            Problem(f"{key}.name", f"makes a second slice {name!r}; give another name")
            for name in made.keys() & found.keys()
        ]
        found |= made
    if problems:
        raise InputError(problems)
    rows = samples.splits["test"]
    return {
        name: torch.from_numpy(samples.per_unit(rows, inside_N[rows]))
        for name, inside_N in found.items()
    }


def _of_class(entry: Slice, samples: Samples, key: str) -> Parts:
    classes = samples.classes
    assert entry.of_class is not None, "cross_check demands a column or a class"
    if entry.of_class not in classes:
        near = nearest(entry.of_class, classes)
        raise InputError.at(
            f"{key}.class",
            f"found {entry.of_class!r}, no class of the data{near}; there are {', '.join(classes[:_MOST_VALUES])}",
        )
    index, labels = classes.index(entry.of_class), samples.all_labels
    inside_N = labels[:, index] == 1 if labels.ndim > 1 else labels == index
    return {entry.name or f"class {entry.of_class}": inside_N}


def _of_column(entry: Slice, samples: Samples, key: str) -> Parts:
    assert entry.column is not None, "the caller has looked"
    column, name = samples.columns[entry.column], entry.name or entry.column
    if entry.bins is not None:
        return dict(_ranges(entry.bins, column, name, f"{key}.bins"))
    there = np.unique(column)
    if entry.values is None:
        if len(there) > _MOST_VALUES:
            raise InputError(
                Problem(key, f"column {entry.column!r} has {len(there)} values; name those that are wanted as `values` "
                        f"(at most {_MOST_VALUES} are taken unasked), or give `bins`")
            )  # fmt: skip
        return {f"{name}={_text(value)}": column == value for value in there.tolist()}
    texts = {_text(value): value for value in there.tolist()}
    lacking = [_text(value) for value in entry.values if _text(value) not in texts]
    if lacking:
        raise InputError(
            Problem(f"{key}.values", f"found {lacking[0]!r}, which column {entry.column!r} does not have"
                    f"{nearest(lacking[0], texts)}; it has {', '.join(list(texts)[:_MOST_VALUES])}")
        )  # fmt: skip
    return {f"{name}={_text(v)}": column == texts[_text(v)] for v in entry.values}


def _text(value: Any) -> str:
    """A value as it is named: 1.0 and 1 are the same one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _ranges(
    bins: int | tuple[float, ...], column: np.ndarray, name: str, key: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Lower bounds are inside, upper ones outside."""
    if column.dtype.kind not in "iuf":
        raise InputError.at(key, f"column {name!r} holds {column.dtype}; ranges need numbers")
    bounds = list(bins) if isinstance(bins, tuple) else _equal(bins, column)
    for low, high in zip([None, *bounds], [*bounds, None], strict=True):
        inside_N = np.ones(len(column), bool)
        if low is not None:
            inside_N &= column >= low
        if high is not None:
            inside_N &= column < high
        match low, high:
            case None, None:
                yield name, inside_N
            case None, _:
                yield f"{name} below {high:g}", inside_N
            case _, None:
                yield f"{name} from {low:g}", inside_N
            case _:
                yield f"{name} {low:g} to {high:g}", inside_N


def _equal(count: int, column: np.ndarray) -> list[float]:
    """Bounds between ranges with equally many samples; fewer where many values are the same."""
    inner = np.linspace(0, 1, count + 1)[1:-1]
    cuts = np.unique(np.quantile(column, inner, method="higher"))
    return [float(cut) for cut in cuts if cut > column.min()]
