"""The folder that `from_pretrained` of transformers reads, of students whose architecture is theirs."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from raykd.config.models import HfModel
from raykd.export.description import Description
from raykd.export.student import Runner, Student, run_module
from raykd.importing import load_package
from raykd.models.network import core

FOLDER = "transformers"
PRETRAINED = (f"{FOLDER}/config.json", f"{FOLDER}/model.safetensors")


def is_pretrained(about: Description) -> bool:
    """Whether the student's network is one of transformers' own."""
    return isinstance(about.model, HfModel)


def write_pretrained(student: Student, folder: Path) -> None:
    """Write configuration and weights, without what raykd adds: preprocessing, pooling, tokens that are left out."""
    _pretrained(student).save_pretrained(folder / FOLDER)


def open_pretrained(student: Student, folder: Path) -> Runner:
    """The written weights, as transformers reads them, in a copy of the student."""
    read = type(_pretrained(student)).from_pretrained(folder / FOLDER)
    copied = replace(student, network=copy.deepcopy(student.network))
    _pretrained(copied).load_state_dict(read.state_dict())
    return run_module(copied.answers())


def _pretrained(student: Student) -> Any:
    transformers = load_package("transformers", install="raykd[hf]", key="--format")
    parts = core(student.network).modules()
    return next(part for part in parts if isinstance(part, transformers.PreTrainedModel))
