"""Actors of made-up teachers, asked for answers or to fill a store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.synthetic import Bench
from raykd.models import build_model
from raykd.pipeline.recipe_store import store_keys
from raykd.runtime import put
from raykd.teachers import ActorFleet
from raykd.teachers.client import Client
from raykd.teachers.filling import fill, missing_parts
from raykd.teachers.model import AnySpec
from raykd.teachers.pool import TeacherResources
from raykd.tracking import Event

CLASSES = 100


@contextmanager
def fleet_of(
    bench: Bench, cpus: float = 0.1, specs: Mapping[str, AnySpec] | None = None
) -> Iterator[ActorFleet]:
    """One actor for each teacher of a recipe, with untrained weights where it names none.

    A teacher's speed does not depend on what it has learnt.

    Args:
        bench: the recipe.
        cpus: of each actor; whole ones are its threads.
        specs: what is hosted; None takes the recipe's teachers.
    """
    weights = {n: c.weights or fresh(bench, n) for n, c in bench.prepared.teachers.items()}
    hosted = bench.prepared.specs(weights) if specs is None else specs
    places = {name: TeacherResources(replicas=1, cpus=cpus, gpus=0.0) for name in hosted}
    settings = bench.prepared.config.cluster.teachers
    with ActorFleet(hosted, places, put(bench.samples), settings, silent) as fleet:
        yield fleet


def client_of(fleet: ActorFleet, names: Sequence[str]) -> Client:
    """What asks some teachers of a fleet."""
    return Client({name: fleet.actors[name] for name in names}, fleet.settings, silent)


def fill_s(root: Path, bench: Bench, fleet: ActorFleet, rows: np.ndarray, views: int = 1) -> float:
    """Seconds in which a fleet fills an empty store with what it says of some rows."""
    begun = time.perf_counter()
    keys = {name: one.augmented for name, one in store_keys(fleet.specs, bench.samples).items()}
    parts = list(missing_parts(root, keys, bench.samples, rows, list(range(views))))
    fill(root, parts, fleet, silent)
    return time.perf_counter() - begun


def silent(event: Event) -> None:
    """Nobody listens to a benchmark."""


def fresh(bench: Bench, name: str) -> Any:
    """Untrained weights of a recipe's teacher."""
    settings, classes = bench.prepared.teachers[name].settings, bench.samples.class_count
    assert settings.model is not None, "made-up teachers have a model"
    shape = bench.samples.input_shape
    model = build_model(settings.model, input_shape=shape, classes=classes, key=name)
    return dict(model.state_dict())
