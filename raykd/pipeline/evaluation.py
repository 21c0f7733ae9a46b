"""The stage that scores validation and test, once: outputs of all models, costs, slices of test.

Shapes: N samples of the data, M of test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.explanations import nearest
from raykd.config.root import Slice
from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.evaluate import Evaluation, SplitOutputs, choose_examples
from raykd.evaluate import costs as model_costs
from raykd.evaluate.latency import Conditions, one_thread
from raykd.evaluate.outputs import Split
from raykd.evaluate.statistics import spread
from raykd.folders import RunFolder
from raykd.models.network import Network
from raykd.models.weights import apply_weights
from raykd.pipeline.preparation import Listen, Prepared, collect, student_outputs
from raykd.pipeline.teachers import Specs, network_of
from raykd.targets import TargetStore
from raykd.targets.codec import decode
from raykd.tasks import find_task
from raykd.teachers.model import Recorded, Spec, TeacherModel, host
from raykd.tracking import events
from raykd.train.checkpoint import FitFolder
from raykd.train.validation import predict
from raykd.types import ORIGINAL_VIEW, TeacherOutputs

_EXAMPLES = 24
_TRAINED_ROWS = 1000
_COST_ROWS = 16
_MOST_VALUES = 20
Parts = dict[str, np.ndarray]
Tell = Callable[[Callable[[], Tensor]], Tensor]


def student_network(prepared: Prepared, weights: Mapping[str, Tensor] | None = None) -> Network:
    """The student in evaluation mode, with given weights or fresh ones."""
    config, samples, key = prepared.config, prepared.samples, "student.model"
    outputs = student_outputs(config, samples)
    network = network_of(config.student.model, prepared.preprocessing, samples, outputs, key)
    if weights is not None:
        apply_weights(network.model, weights, key=key)
    return network.eval()


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
        user_ids=tuple(samples.named(rows)),
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
    *,
    listen: Listen | None = None,
) -> Evaluation:
    """Outputs of every teacher, the ensemble, every replica of each role of the student, and other models.

    Args:
        prepared: the recipe, with the data and teachers of all.
        store: the teachers' answers.
        run: where the weights are.
        students: role (`student`, a control, a method) -> the recipe that it was trained by.
        external_baselines: models that the student is held against.
        listen: is told how many models are to answer, and how many have.
    """
    samples = prepared.samples
    fits = sum(recipe.config.seeds for recipe in students.values())
    tell = _Told(listen, 2 * (2 * fits + len(external_baselines or {})))
    splits: dict[Split, SplitOutputs] = {}
    names: tuple[Split, Split] = ("validation", "test")
    for split in names:
        rows = samples.splits[split]
        outputs = store.gather(rows, ORIGINAL_VIEW)
        splits[split] = split_outputs(
            samples,
            split,
            {name: outputs[name] for name in prepared.teachers},
            {
                role: _answers(recipe, run, role, rows, "best", tell)
                for role, recipe in students.items()
            },
            {
                role: _answers(recipe, run, role, rows, "last", tell)
                for role, recipe in students.items()
            },
            {
                name: tell(partial(external_baseline_answers, spec, samples, rows))
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


def answers_of(
    prepared: Prepared,
    run: RunFolder,
    fit_ids: Sequence[str],
    rows: np.ndarray,
    which: str = "best",
    tell: Tell = lambda answer: answer(),
) -> Tensor:
    """What the students of some fits answer for some rows [R, N, C].

    Args:
        prepared: the recipe that all of them were trained by.
        run: where their weights are.
        fit_ids: of R fits.
        rows: N samples.
        which: `best` or `last` weights.
        tell: asks each of them in turn.
    """
    replicas = []
    for fit_id in fit_ids:
        weights = FitFolder(run.checkpoints(fit_id)).read_weights(which)
        network = student_network(prepared, weights)
        network.remembers = True
        replicas.append(
            tell(partial(predict, network, prepared.samples, rows, torch.device("cpu")))
        )
    return torch.stack(replicas)


class _Told:
    """Asks models one by one, and tells before each how many have answered.

    Args:
        listen: who hears of it.
        total: how many there are.
    """

    def __init__(self, listen: Listen | None, total: int) -> None:
        self._listen, self._total, self._done = listen, total, 0

    def __call__(self, answer: Callable[[], Tensor]) -> Tensor:
        if self._listen is not None:
            done, total = self._done, self._total
            self._listen(events.progress("evaluate", done=done, total=total, unit="answers"))
        self._done += 1
        return answer()


def _answers(
    prepared: Prepared,
    run: RunFolder,
    role: str,
    rows: np.ndarray,
    which: str,
    tell: Tell = lambda answer: answer(),
) -> Tensor:
    """What every replica of a role answers for some rows [R, N, C]."""
    fit_ids = [f"{role}/replica{replica}" for replica in range(prepared.config.seeds)]
    return answers_of(prepared, run, fit_ids, rows, which, tell)


def training_numbers(prepared: Prepared, run: RunFolder) -> dict[str, Any]:
    """How the student's training ended, replica by replica, and how well it answers what it was trained on.

    Returns:
        `epochs` and `best_epoch` (from 1) of each replica; `train`, the task's metric on labelled training samples,
        at most 1,000, over replicas; None where there are none, or samples are judged by each other.
    """
    samples, task = prepared.samples, find_task(prepared.samples.task).metrics
    results = [
        FitFolder(run.checkpoints(f"student/replica{replica}")).result() or {}
        for replica in range(prepared.config.seeds)
    ]
    rows = samples.labelled_rows("train")[:_TRAINED_ROWS]
    found = None
    if len(rows) and task.tally is not None:
        labels_N = torch.from_numpy(samples.labels[rows].copy())
        answers_RNC = _answers(prepared, run, "student", rows, "best")
        found = spread([task.numbers(one_NC, labels_N)[task.metric] for one_NC in answers_RNC])
    return {
        "epochs": [result.get("epochs") for result in results],
        "best_epoch": [
            None if (best := result.get("best_epoch")) is None else best + 1 for result in results
        ],
        "train": found,
    }


def costs(
    prepared: Prepared, specs: Specs, run: RunFolder
) -> tuple[dict[str, dict[str, Any]], Conditions]:
    """Parameters, FLOPs, bytes and latency of the student and each teacher, and what disturbed the latter.

    All are in memory at once, since they are timed in turns.
    """
    weights = FitFolder(run.checkpoints("student/replica0")).read_weights("best")
    networks: dict[str, nn.Module] = {"student": student_network(prepared, weights)}
    with one_thread():  # another runtime takes its threads when it is opened
        networks |= {
            name: TeacherModel(spec).network
            for name, spec in specs.items()
            if isinstance(spec, Spec)
        }
    return model_costs.costs(networks, _cost_inputs(prepared.samples))


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


def external_baseline_specs(prepared: Prepared) -> Specs:
    """What it takes to ask each model of `evaluate.compare`."""
    cluster = prepared.config.cluster.teachers
    return {
        name: one.spec(one.weights or {}, prepared.samples, cluster)
        for name, one in prepared.external_baselines.items()
    }


def external_baseline_answers(spec: Spec | Recorded, samples: Samples, rows: np.ndarray) -> Tensor:
    """What a model says of untransformed samples [N, C], as evaluation keeps it."""
    with one_thread():  # another runtime takes its threads when it is opened
        scorer = host(spec)
    arrays = scorer.score(samples, rows, np.full(len(rows), ORIGINAL_VIEW))
    return find_task(samples.task).metrics.answer(decode(arrays).values_NC)


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
    return {name: torch.from_numpy(inside_N[rows]) for name, inside_N in found.items()}


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
