"""Cross-validation: one run for each fold, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from raykd.config import Config
from raykd.config.variants import fold_recipes
from raykd.evaluate.folds import Sizes, over_folds
from raykd.folders import RunFolder, read_json, write_json
from raykd.pipeline.external_baselines import with_external_baselines
from raykd.pipeline.loading import Listen, load_samples
from raykd.pipeline.placement import place
from raykd.pipeline.preparation import prepare
from raykd.pipeline.require_check import check_required_folds
from raykd.pipeline.session import Options, open_folder, run_folder
from raykd.pipeline.storage_estimate import storage_shortage
from raykd.report import write_report
from raykd.runtime import connect, is_connected, machine
from raykd.tracking import Console

RunOnce = Callable[[Config, Options], object]
"""Runs the recipe of one fold."""
_DONE = ("complete", "degraded")


def cross_validate(
    config: Config, options: Options, run_once: RunOnce, console: Console | None = None
) -> tuple[RunFolder, Mapping[str, Any]]:
    """Run every fold in `folds/<i>`, sum up and report; finished folds are not run again.

    All splits, the first fold's models and the machine are checked before anything starts.

    Args:
        config: a recipe with `folds`.
        options: folder, cluster, resume.
        run_once: runs one fold.
        console: who tells a person; None is quiet.

    Returns:
        The folder and its summary, see `raykd.evaluate.folds`; an empty one where `until` ends before it.

    Raises:
        InputError: before anything starts.
        RaykdError: a fold failed; what was finished is kept, and `resume` continues.
    """
    folder, recipes = run_folder(config, options), fold_recipes(config)
    listen = None if console is None else console.on
    sizes = [_sizes(recipe, options, listen) for recipe in recipes]
    first = with_external_baselines(prepare(recipes[0], address=options.address, listen=listen))
    check_required_folds(first, len(recipes), config.evaluate.require)
    if options.address is None and not is_connected():
        place(recipes[0], machine(), storage_shortage(first))
    with connect(options.address) as resources:
        open_folder(folder, config, resources)
        for index, recipe in enumerate(recipes):
            own = RunFolder(folder.path / "folds" / str(index))
            if console is not None:
                console.print(
                    f"fold {index + 1} of {len(recipes)}{'' if _due(own, options) else ': finished before'}"
                )
            if _due(own, options):
                there = own.config.is_file()
                run_once(_grouped(recipe, folder), replace(options, output=own.path, resume=there))
    if options.until not in (None, "evaluate"):
        return folder, {}
    told = [read_json(folder.path / "folds" / str(i) / "summary.json") for i in range(len(recipes))]
    brought = [teacher.name for teacher in config.teachers if not teacher.learns]
    summary = {**over_folds(told, sizes), "brought": brought}
    write_json(folder.summary, summary)
    if options.until is None:
        write_report(folder.path)
    return folder, summary


def _sizes(recipe: Config, options: Options, listen: Listen | None) -> Sizes:
    samples = load_samples(recipe, address=options.address, listen=listen)
    return {name: len(rows) for name, rows in samples.splits.items()}


def _due(fold: RunFolder, options: Options) -> bool:
    """Whether a fold is to be run, or gone on with."""
    if options.until is not None or not fold.summary.is_file():
        return True
    return read_json(fold.summary)["status"] not in _DONE


def _grouped(recipe: Config, folder: RunFolder) -> Config:
    """The recipe with the folds' W&B runs in one group, unless it names another."""
    wandb = recipe.tracking.wandb
    named = wandb.model_copy(update={"group": wandb.group or folder.path.name})
    return recipe.model_copy(
        update={"tracking": recipe.tracking.model_copy(update={"wandb": named})}
    )
