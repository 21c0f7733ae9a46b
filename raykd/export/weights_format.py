"""safetensors and `model.json`: the student's own artefact, for `raykd.load_student`."""

from __future__ import annotations

import copy
from pathlib import Path

from raykd.export.student import Runner, Student, run_module
from raykd.folders import write_json
from raykd.models.network import core
from raykd.models.weights import apply_weights, fingerprint, load_weights, save_weights

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def write_weights(student: Student, folder: Path) -> None:
    """Write `model.safetensors` and `model.json`, which names the weights by their fingerprint."""
    state = core(student.network).state_dict()
    about = student.about.model_copy(update={"fingerprint": fingerprint(state)})
    save_weights(state, folder / WEIGHTS)
    write_json(folder / DESCRIPTION, about.to_json())


def open_weights(student: Student, folder: Path) -> Runner:
    """The written weights in a copy of the network."""
    network = copy.deepcopy(student.network)
    apply_weights(network, load_weights(folder / WEIGHTS, key=WEIGHTS), key=WEIGHTS)
    return run_module(Student(network, student.about).answers())
