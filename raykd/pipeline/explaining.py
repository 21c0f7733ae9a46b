"""`raykd explain`: occlusion maps of a finished run's student and teachers, on the samples where they part.

Shapes: N samples, K hidden parts, U units that are removed as one, F steps, C outputs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raykd.config.trusting import refuse_code
from raykd.data import Samples
from raykd.errors import InputError
from raykd.evaluate.explanation import Deletion, Explanation, Maps
from raykd.evaluate.occlusion import (
    Occlusion,
    Tell,
    chosen_outputs,
    deletion_counts,
    deletion_scores,
    hidden_scores,
    importance,
    ranks_of,
    whole_scores,
)
from raykd.evaluate.outputs import SplitOutputs
from raykd.folders import RunFolder, reading
from raykd.pipeline.evaluation import student_network
from raykd.pipeline.explained_models import CONTROLS, ExplainedModels, explained_models
from raykd.pipeline.loading import Listen, refuse_changed
from raykd.pipeline.occluding import ExplainOptions, check_options, occlusion_of
from raykd.pipeline.preparation import prepare
from raykd.pipeline.student import finished_run, load_student, student_of
from raykd.report.folder import RunData
from raykd.seeding import derive
from raykd.tasks import Task, find_task
from raykd.tracking import events
from raykd.types import ORIGINAL_VIEW, OutputKind, is_labelled


def explain(
    run: Path,
    options: ExplainOptions | None = None,
    *,
    listen: Listen | None = None,
    trust: bool = False,
) -> Explanation:
    """Occlusion maps on samples where student and ensemble part, the largest divergence first.

    The student is replica 0 at its best epoch. All models run in this process, each behind its own preprocessing;
    what is hidden is hidden in source space. Teachers that cannot be asked about new inputs are left out, also of the
    ensemble that has a map; which samples part, and which output is explained, is what the run's evaluation says.

    Args:
        run: a finished run's folder; its recipe is loaded, and the code that it names.
        options: which samples, and what is hidden.
        listen: hears how far it is.
        trust: run that code, whoever wrote the folder.

    Raises:
        InputError: no finished run, samples that are neither images nor tables, a task without classes, labels or
            values, data that is not the run's any more, no teacher to ask, no sample on which they part, options that
            do not fit.
        TeacherError: a teacher answered NaN.
    """
    options = options or ExplainOptions()
    folder = RunFolder(run)
    data, config = finished_run(folder)
    refuse_code(folder.config, config.model_dump(mode="json"), trust=trust)
    if find_task(config.task).settings.chunks:
        raise InputError.at(
            "RUN",
            f"{run} is of the task {config.task}, whose samples are neither images nor tables: nothing can be hidden from "
            "them one by one; its report shows the pieces of text on which student and ensemble part",
        )
    check_options(student_of(folder, config), options)
    prepared = prepare(config, listen=listen)
    samples, task = prepared.samples, find_task(config.task)
    with reading(folder.evaluation):
        answered, places_N = _parted(data, samples, options)
    student = load_student(folder.student, model=student_network(prepared).model)
    models, left_out = explained_models(prepared, student)
    answers = {
        "student": answered.students["student"][0],
        "ensemble": answered.ensemble,
        **{f"teacher/{name}": answered.teachers[name] for name in models.teachers},
    }
    answers = {name: answers_NC[places_N] for name, answers_NC in answers.items()}
    chosen_N = chosen_outputs(task.metrics.kind, answers["student"], answers["ensemble"])
    rows = samples.splits[options.split][places_N.numpy()]
    (inputs,) = samples.batch(rows, ORIGINAL_VIEW).inputs.values()
    occlusion, settings = occlusion_of(samples, options)
    seed = derive(config.seed, "explain")
    asked = _Asked(models, task.metrics.kind, inputs, chosen_N, occlusion, seed)
    tell = _Progress(listen, asked.copies)
    maps = asked.maps(tell)
    return Explanation(
        run=data.name,
        task=config.task,
        split=options.split,
        parted=int(_telling(answered).isfinite().sum()),
        occlusion=occlusion,
        settings=settings,
        inputs=inputs,
        ids=tuple(samples.named(rows)),
        outputs=tuple(samples.classes[output] for output in chosen_N.tolist()),
        truth=_truth(samples, task, rows),
        answers={
            name: task.export.predict(answers_NC, samples.classes).words
            for name, answers_NC in answers.items()
        },
        maps=maps,
        deletion=asked.deletion(maps.student_NK, tell),
        left_out=left_out,
    )


def _parted(
    data: RunData, samples: Samples, options: ExplainOptions
) -> tuple[SplitOutputs, Tensor]:
    """A split's answers, and the places in it where student and ensemble part, the largest divergence first.

    Raises:
        InputError: the run was evaluated on other samples, or not at all, or they part nowhere.
    """
    if data.evaluation is None:
        raise InputError.at("RUN", "has no evaluation.safetensors; run it anew")
    answered, split = data.evaluation.splits[options.split], options.split
    refuse_changed(answered, samples, split)
    telling_N = _telling(answered)
    parted = int(telling_N.isfinite().sum())
    if not parted:
        other = "validation" if split == "test" else "test"
        raise InputError.at(
            "--split", f"student and ensemble answer alike on all of {split}; try --split {other}"
        )
    order_N = telling_N.argsort(descending=True, stable=True)
    return answered, order_N[: min(options.samples, parted)]


def _telling(answered: SplitOutputs) -> Tensor:
    """How far student and ensemble part on each sample; −∞ where they do not."""
    difference = find_task(answered.task).metrics.difference
    return difference(answered.students["student"][0], answered.ensemble)


@dataclass(frozen=True, eq=False)
class _Asked:
    """The models and what they are asked about."""

    models: ExplainedModels
    kind: OutputKind
    inputs: Tensor
    chosen_N: Tensor
    occlusion: Occlusion
    seed: int

    @property
    def copies(self) -> int:
        """Copies of samples that are scored in all."""
        hidden, removed = len(self.occlusion.hidden_KP), 2 * len(deletion_counts(self.occlusion))
        return len(self.inputs) * (hidden + removed)

    def maps(self, tell: Tell) -> Maps:
        """The map of every model."""
        ask = self.models.ask(self.chosen_N)
        whole = whole_scores(ask, self.inputs)
        hidden = hidden_scores(ask, self.inputs, self.occlusion, tell)
        found = {name: importance(self.kind, whole[name], hidden[name]) for name in whole}
        return Maps(
            student_NK=found["student"],
            ensemble_NK=found["ensemble"],
            teachers={name: found[f"teacher/{name}"] for name in self.models.teachers},
            controls_RNK=torch.stack([found[f"control/{i}"] for i in range(CONTROLS)]),
        )

    def deletion(self, student_NK: Tensor, tell: Tell) -> Deletion:
        """What the student answers as a sample is removed in the order of its own map, and in a random one."""
        ask = self.models.ask_student(self.chosen_N)
        whole_N = whole_scores(ask, self.inputs)["student"]
        value_NU = self.occlusion.by_unit(student_NK)
        generator = torch.Generator().manual_seed(self.seed)
        random_NU = torch.rand(value_NU.shape, generator=generator)
        own_NF, random_NF = (
            importance(
                self.kind,
                whole_N,
                deletion_scores(ask, self.inputs, self.occlusion, ranks_of(order_NU), tell)[
                    "student"
                ],
            )
            for order_NU in (value_NU, random_NU)
        )
        return Deletion(deletion_counts(self.occlusion), own_NF, random_NF)


class _Progress:
    """Turns counts of copies into events of the stage `explain`."""

    def __init__(self, listen: Listen | None, total: int) -> None:
        self._listen, self._total, self._done = listen, total, 0
        self._began = time.monotonic()

    def __call__(self, count: int) -> None:
        self._done += count
        if self._listen is not None:
            seconds = time.monotonic() - self._began
            rate = self._done / seconds if seconds > 0 else None
            self._listen(
                events.progress(
                    "explain", done=self._done, total=self._total, unit="copies", rate_per_s=rate
                )
            )


def _truth(samples: Samples, task: Task, rows: np.ndarray) -> tuple[str, ...]:
    """What samples are, in words; empty where they have no label."""
    labels = torch.from_numpy(samples.all_labels[rows])
    known_N = is_labelled(labels)
    match task.metrics.kind:
        case "value":
            outputs = labels[:, None]
        case "label_logits":
            outputs = 2.0 * labels - 1
        case _:
            outputs = F.one_hot(labels.clamp(min=0), samples.class_count).float()
    words = task.export.predict(outputs, samples.classes).words
    return tuple(word if known else "" for word, known in zip(words, known_N.tolist(), strict=True))
