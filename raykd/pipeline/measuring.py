"""What the models of a finished run cost, measured again: nothing is trained or scored."""

from __future__ import annotations

from pathlib import Path

from raykd.config import load_config
from raykd.errors import CheckpointError, InputError, Problem
from raykd.evaluate.cost_numbers import with_costs
from raykd.evaluate.summary import json_safe
from raykd.folders import RunFolder, read_object, reading, refuse_links, write_json
from raykd.pipeline.evaluation import costs, external_baseline_specs, timed_students
from raykd.pipeline.fits import known_weights
from raykd.pipeline.preparation import prepare, with_external_baselines


def measure_again(path: Path, *, trust: bool = False) -> None:
    """Measure size and latency of all models of a run, and put them into its `summary.json`.

    Args:
        path: a finished run's folder.
        trust: run the code that its recipe names, whoever wrote the folder.

    Raises:
        InputError: it is no finished run of one recipe, or its data or weights of a model are not there any more.
    """
    folder = RunFolder(path)
    refuse_links(path)
    summary = read_object(folder.summary) if folder.summary.is_file() else {}
    if summary.get("kind") or not summary.get("student"):
        found = summary.get("kind") or "no result"
        raise InputError.at(
            "--measure",
            f"{path} holds {found}; give the folder of a finished `raykd run`, of a cross-validation one in its folds/",
        )
    prepared = with_external_baselines(prepare(load_config(folder.config, trust=trust)))
    weights = known_weights(prepared)
    if lacking := [name for name in prepared.teachers if name not in weights]:
        raise InputError(
            Problem("--measure", f"the weights of {', '.join(lacking)}, which were fitted for the run, are not kept any "
                    f"more; make them again with `raykd evaluate {path}`")
        )  # fmt: skip
    specs = {**prepared.specs(weights), **external_baseline_specs(prepared)}
    try:
        measured, conditions = costs(prepared.samples, timed_students(prepared, folder), specs)
    except CheckpointError as error:
        raise InputError.at("--measure", str(error)) from error
    with reading(folder.summary):
        again = {**with_costs(summary, measured), "latency": conditions.to_json()}
    write_json(folder.summary, json_safe(again))
