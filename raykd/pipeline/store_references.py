"""Which entries of the target store a recipe, or a run that was made, reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from raykd.config import Config
from raykd.config.variants import fold_recipes
from raykd.errors import InputError, Problem
from raykd.folders import home, read_json
from raykd.models.weights import load_weights
from raykd.pipeline.candidates import ResolvedTeacher
from raykd.pipeline.fits import teacher_fit
from raykd.pipeline.preparation import Prepared, prepare
from raykd.pipeline.serving import make_specs, store_keys


def used_entries(config: Config) -> tuple[set[str], list[str]]:
    """Folders in the store that a recipe reads, and its teachers that were not fitted yet: they have none.

    Raises:
        InputError: the recipe does not fit its data and models.
    """
    if config.folds is not None:
        found = [used_entries(recipe) for recipe in fold_recipes(config)]
        unfitted = dict.fromkeys(name for _, names in found for name in names)
        return set().union(*(folders for folders, _ in found)), list(unfitted)
    prepared = prepare(config)
    weights = known_weights(prepared)
    ready = {name: prepared.teachers[name] for name in weights}
    specs = make_specs(replace(prepared, teachers=ready), weights)
    keys = store_keys(specs, prepared.samples)
    folders = {key.folder for one in keys.values() for key in (*one.augmented, one.originals)}
    return folders, [name for name in prepared.teachers if name not in ready]


def known_weights(prepared: Prepared) -> dict[str, Mapping[str, Tensor]]:
    """Weights of the teachers that are not to be fitted, or were before; none where outputs are recorded."""
    found = {name: _weights(prepared, one) for name, one in prepared.teachers.items()}
    return {
        name: weights or {}
        for name, weights in found.items()
        if weights is not None or prepared.teachers[name].recorded_NC is not None
    }


def _weights(prepared: Prepared, candidate: ResolvedTeacher) -> Mapping[str, Tensor] | None:
    """Of a fitted teacher those that are kept."""
    if candidate.settings.fit is None:
        return candidate.weights
    kept = home() / "teachers" / teacher_fit(prepared, candidate.settings).identity
    if not (kept / "card.json").is_file():
        return None
    return load_weights(kept / "weights.safetensors", key=f"teachers.{candidate.settings.name}")


def referenced_teachers(folder: Path) -> tuple[set[str], int]:
    """Fingerprints of all teachers of the runs in a folder, and how many runs these are.

    Raises:
        InputError: there is no run.
    """
    runs = (
        [path.parent for path in sorted(folder.glob("**/config.json"))] if folder.is_dir() else []
    )
    if not runs:
        raise InputError(
            Problem("--unused", f"found no run in {folder}; name the folder that holds your runs, or name the "
                    "recipes whose targets are to stay")
        )  # fmt: skip
    cards = [card for run in runs for card in sorted((run / "teachers").glob("*.json"))]
    return {str(read_json(card).get("fingerprint")) for card in cards}, len(runs)
