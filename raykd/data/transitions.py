"""Recorded episodes as samples: a state is a sample, the action that was taken there its label.

Shapes: N states, O numbers of an observation, A numbers of a continuous action.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from raykd.config.sources import GymnasiumSource, TransitionsSource
from raykd.data.arrays import refuse_bomb
from raykd.data.dataset import PARTS, Dataset
from raykd.data.domains import SIMULATOR
from raykd.errors import InputError, Problem, refuse
from raykd.tasks import find_task

EPISODE = "episode"
"""Column by which states that belong together stay in one part."""
ANSWERS = "answers/"
"""In names of arrays: what a privileged teacher said of each state follows."""
_KEY = "data.source.path"
_NAMES = (
    "observations",
    "actions",
    "episode",
    "splits",
    "ids",
    "names",
    "step",
    "rewards",
    "terminated",
    "truncated",
    "replica",
    SIMULATOR,
)


def load_transitions(source: TransitionsSource, task: str) -> Dataset:
    """The states of a file.

    Raises:
        InputError: it is missing or damaged, or holds something else.
    """
    return dataset_of(read_transitions(Path(source.path).expanduser(), key=_KEY), task, key=_KEY)


def refuse_unrolled(source: GymnasiumSource, task: str) -> Dataset:  # noqa: ARG001 - as any source
    """Only who has the teachers can roll them: `raykd.pipeline.loading`.

    Raises:
        InputError: always.
    """
    raise InputError.at("data.source", "gymnasium is what a recipe's own teachers visit, and cannot stand where there are none")  # fmt: skip


def read_transitions(path: Path, *, key: str) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        InputError: it is missing or damaged, or arrays are missing, unknown or of other lengths.
    """
    if not path.is_file():
        raise InputError.at(key, f"there is no file {path} (in {Path.cwd()})")
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_bomb(archive, path, key=key)
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError.at(key, f"{path} is no .npz of plain arrays ({error}); objects (pickles) are refused") from error  # fmt: skip
    refuse(_problems(arrays, path, key))
    return arrays


def _problems(arrays: Mapping[str, np.ndarray], path: Path, key: str) -> Iterator[Problem]:
    lacking = [name for name in ("observations", "actions", "episode") if name not in arrays]
    if lacking:
        yield Problem(key, f"{path} has no array {lacking[0]!r}; it has {', '.join(arrays) or 'none'}")  # fmt: skip
        return
    count = len(arrays["observations"])
    for name, array in arrays.items():
        if name not in _NAMES and not name.startswith(ANSWERS):
            yield Problem(key, f"{path} has an array {name!r}; known are {', '.join(_NAMES)}")
        elif name != "names" and len(array) != count:
            yield Problem(key, f"{path} has {len(array):,} {name} of {count:,} observations")
    if arrays["observations"].ndim != 2:
        yield Problem(key, f"{path} has observations of the shape {list(arrays['observations'].shape)}; [N, O] is needed")  # fmt: skip


def dataset_of(arrays: Mapping[str, np.ndarray], task: str, *, key: str) -> Dataset:
    """The states as samples.

    Args:
        arrays: as of `read_transitions`.
        task: what their labels are for.
        key: dotted key of the recipe that holds them, for errors.

    Raises:
        InputError: the task is none of control, or of the other kind of actions.
    """
    if not find_task(task).settings.acts:
        raise InputError.at("task", f"is {task}, but states and actions are for control or control_continuous")  # fmt: skip
    actions, discrete = arrays["actions"], arrays["actions"].dtype.kind in "iu"
    if discrete != find_task(task).settings.class_logits:
        kind, right = ("discrete", "control") if discrete else ("continuous", "control_continuous")
        raise InputError.at("task", f"is {task}, but the actions are {kind}: set `task: {right}`")
    names = tuple(str(name) for name in arrays["names"]) if "names" in arrays else None
    if names is None and not discrete:
        names = outputs_of(actions.reshape(len(actions), -1).shape[1])
    return Dataset(
        inputs=arrays["observations"].astype(np.float32),
        labels=actions if discrete else actions.reshape(len(actions), -1),
        ids=arrays.get("ids"),
        splits=_parts(arrays["splits"], key) if "splits" in arrays else None,
        classes=names,
        task=task,
        columns={name: arrays[name] for name in (EPISODE, SIMULATOR) if name in arrays},
    )


def outputs_of(actions: int) -> tuple[str, ...]:
    """Names of what a policy of continuous actions puts out: means, then logarithms of standard deviations."""
    means = [f"mean_{index}" for index in range(actions)]
    return (*means, *(f"log_std_{index}" for index in range(actions)))


def _parts(names: np.ndarray, key: str) -> dict[str, np.ndarray]:
    unknown = sorted({str(name) for name in np.unique(names)} - {*PARTS})
    if unknown:
        raise InputError.at(key, f"has the splits {unknown[:5]}; allowed are {', '.join(PARTS)}")
    found = {part: np.flatnonzero(names == part) for part in PARTS}
    return {part: rows for part, rows in found.items() if len(rows)}
