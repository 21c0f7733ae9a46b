"""The other students of a run: a folder each, which holds what a run's folder holds of its student.

    RUN/students/<name>/    config.json (the recipe as if it were alone), student/, evaluation, predictions, summary.json

So whatever takes a finished run's folder takes one of these: `export`, `predict`, `report`, `load_student`. Checkpoints
and events are the run's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raykd.config.trusting import remember
from raykd.evaluate import Evaluation
from raykd.evaluate.outputs import SplitOutputs
from raykd.evaluate.summary import json_safe, replica_gain, student_temperatures, summarise
from raykd.export.predictions import evaluation_table, write_table
from raykd.folders import read_json, write_json
from raykd.pipeline.evaluation import training_numbers
from raykd.pipeline.job import Job
from raykd.pipeline.student import save_student

_OF_EACH = ("fidelity", "kept", "training")


def apart(whole: Evaluation, names: Sequence[str]) -> tuple[Evaluation, dict[str, Evaluation]]:
    """The answers of the first student and its controls, and those of each other student as if it were alone.

    Args:
        whole: of all of them.
        names: of the other students.
    """
    if not names:
        return whole, {}
    first = {split: _without(outputs, names) for split, outputs in whole.splits.items()}
    others = {
        name: replace(
            whole,
            splits={split: _only(outputs, name) for split, outputs in whole.splits.items()},
            examples_rows=None,
            examples_inputs=None,
        )
        for name in names
    }
    return replace(whole, splits=first), others


def _without(outputs: SplitOutputs, names: Sequence[str]) -> SplitOutputs:
    groups = (outputs.students, outputs.students_last)
    kept, last = ({n: one for n, one in group.items() if n not in names} for group in groups)
    return replace(outputs, students=kept, students_last=last)


def _only(outputs: SplitOutputs, name: str) -> SplitOutputs:
    groups = (outputs.students, outputs.students_last)
    own, last = ({"student": group[name]} if name in group else {} for group in groups)
    return replace(outputs, students=own, students_last=last, rivals={})


def conclude_students(
    job: Job,
    whole: Evaluation,
    others: Mapping[str, Evaluation],
    costs: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the folder of each other student; what the run's summary has of them, by name.

    Each has the numbers of a student, `fidelity`, `kept` and `training`, and `gain`: by how much it is better than the
    first student, replica by replica (None without labels).

    Args:
        job: the run.
        whole: the answers of all models.
        others: of `apart`.
        costs: name of each model -> what it costs.
        common: what `summarise` takes besides, the same for all.
    """
    found = {}
    for name, evaluation in others.items():
        summary = _conclude(job, name, evaluation, {**costs, "student": costs[name]}, common)
        gain = json_safe(replica_gain(whole, "test", name, "student"))
        found[name] = {
            **summary["student"],
            **{key: summary[key] for key in _OF_EACH},
            "gain": gain,
        }
    return found


def _conclude(
    job: Job,
    name: str,
    evaluation: Evaluation,
    costs: Mapping[str, Mapping[str, Any]],
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """The folder of one of them; its summary."""
    prepared, folder = job.prepared.students[name], job.folder.of_student(name)
    cards = folder.card("x").parent
    for card in job.folder.card("x").parent.glob("*.json"):
        write_json(cards / card.name, read_json(card))
    written = prepared.config.model_dump(mode="json")
    write_json(folder.config, written)
    remember(folder.config, written)
    temperatures = student_temperatures(evaluation, "student")
    temperature = temperatures[0] if temperatures else None
    save_student(prepared, folder, temperature, name=name, run=job.folder)
    evaluation.save(folder.evaluation)
    write_table(folder.predictions, evaluation_table(evaluation, temperature))
    summary = {
        **summarise(evaluation, costs, **common),
        "training": training_numbers(prepared, job.folder, job.ask, name),
        "student_of": job.folder.path.name,
    }
    clean: dict[str, Any] = json_safe(summary)
    write_json(folder.summary, clean)
    return clean
