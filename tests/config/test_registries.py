"""A literal registry has one entry for each member of its union, and the config stays light."""

from __future__ import annotations

import subprocess
import sys
from pkgutil import resolve_name
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
import torch

from raykd.config.base import Settings
from raykd.config.data import ViewStep
from raykd.config.methods import FeatureLoss, Weighting
from raykd.config.models import OF_TEXTS, OF_TOKENS, DetectorModel, Model
from raykd.config.objective import SoftTargets
from raykd.config.root import Config
from raykd.config.sources import Source
from raykd.config.training import Optimizer, Schedule
from raykd.data import Dataset
from raykd.data.sources import SOURCES
from raykd.ensemble import WEIGHTINGS
from raykd.losses import LOSSES
from raykd.models import MODELS, build_model
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.detector import detector_layout


def members(annotation: Any) -> list[type[Settings]]:
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if isinstance(annotation, type):
        return [annotation]
    return [member for arg in get_args(annotation) for member in members(arg)]


def tags(annotation: Any) -> set[str]:
    return {member.model_fields["type"].default for member in members(annotation)}


def test_sources():
    assert set(SOURCES) == tags(Source)


@pytest.mark.parametrize("source", members(Source))
def test_the_loader_of_a_source_takes_its_settings(source):
    load = resolve_name(SOURCES[source.model_fields["type"].default])
    hints = get_type_hints(load)
    assert issubclass(source, hints.pop("source"))
    assert hints == {"task": str, "return": Dataset}


def test_losses_and_weightings_of_the_recipe_exist():
    assert tags(FeatureLoss) | tags(SoftTargets.model_fields["loss"].annotation) <= set(LOSSES)
    assert tags(Weighting) <= set(WEIGHTINGS)


ZOO = [m for m in members(Model) if not any(f.is_required() for f in m.model_fields.values())]


def test_models():
    assert set(MODELS) == tags(Model)


@pytest.mark.parametrize("spec", members(Model))
def test_the_builder_of_a_model_takes_its_settings(spec):
    hints = get_type_hints(resolve_name(MODELS[spec.model_fields["type"].default]))
    assert issubclass(spec, hints.pop("spec"))
    assert issubclass(hints.pop("return"), torch.nn.Module)
    assert hints == {"context": BuildContext}


@pytest.mark.parametrize("spec", ZOO)
def test_every_zoo_model_builds_with_its_defaults(spec):
    shape = TokenShape(16, 50, "hashed") if spec in OF_TEXTS else (1, 16, 16)
    if spec in OF_TOKENS:
        shape = TokenShape(16, 3, "tokens")
    classes = detector_layout(3, 16, 16).width if spec is DetectorModel else 3
    model = build_model(spec(), input_shape=shape, classes=classes, key="model")
    assert sum(p.numel() for p in model.parameters()) > 0 or spec.made_of == "examples"


@pytest.mark.parametrize("union", [Source, ViewStep, Model, Optimizer, Schedule, Weighting])
def test_tags_are_unique_and_equal_to_the_default(union):
    found = [member.model_fields["type"].default for member in members(union)]
    assert len(set(found)) == len(found)
    for member in members(union):
        assert get_args(member.model_fields["type"].annotation) == (
            member.model_fields["type"].default,
        )


def every_settings(annotation: Any, seen: set[type]) -> None:
    if get_origin(annotation) in (Annotated, Union, tuple) or get_args(annotation):
        for arg in get_args(annotation):
            every_settings(arg, seen)
    elif (
        isinstance(annotation, type) and issubclass(annotation, Settings) and annotation not in seen
    ):
        seen.add(annotation)
        for field in annotation.model_fields.values():
            every_settings(field.annotation, seen)


def test_every_field_is_documented_and_every_class_forbids_unknown_keys():
    seen: set[type] = set()
    every_settings(Config, seen)
    assert len(seen) > 30
    for cls in seen:
        assert cls.model_config["extra"] == "forbid"
        assert cls.model_config["frozen"]
        bare = [n for n, f in cls.model_fields.items() if n != "type" and not f.description]
        assert not bare, f"{cls.__name__}: {bare}"


def test_importing_the_config_loads_nothing_heavy():
    code = "import sys, raykd.config; print([m for m in ('torch', 'ray', 'wandb', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
