"""What every job begins and ends with: its folder, its cluster, its trackers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from raykd.config import Config
from raykd.config.engines import without_places
from raykd.config.load import recipe_as_data
from raykd.config.optimizers import choosing_samples_as_in, optimizers_as_in
from raykd.config.places import RUNS, cache_root, check_places, store_name
from raykd.config.resolving import resolutions
from raykd.config.sources import FilesSource
from raykd.config.trusting import remember
from raykd.errors import DiskError, InputError, Problem, RaykdError
from raykd.folders import RunFolder, claim, claim_new, is_taken, refuse_links, release, write_json
from raykd.pipeline.job import Job, times_tested
from raykd.pipeline.placement import make_placement
from raykd.pipeline.preparation import Prepared, with_cpus_of
from raykd.pipeline.recipe_store import RecipeStore, refuse_unreachable
from raykd.runtime import (
    Resources,
    check_machine,
    check_shared,
    connect,
    engine,
    is_connected,
    keep_logs,
    machine,
)
from raykd.tasks import find_task
from raykd.tracking import Console, Listener

_PACKAGES = ("raykd", "ray", "torch", "numpy", "scikit-learn", "pydantic", "wandb")


@dataclass(frozen=True)
class Options:
    """How a job is run, as against what it does.

    Attributes:
        output: the run folder; None makes `runs/<name>-<UTC time>`.
        name: of the recipe, for the folder.
        address: of a Ray cluster; None = a local one.
        resume: continue in a folder that exists.
        until: stop after this stage (`teachers`, `targets`, `distill`, `evaluate`); None runs all.
    """

    output: Path | None = None
    name: str = "run"
    address: str | None = None
    resume: bool = False
    until: str | None = None


def options_of(
    options: Options | None, output: str | os.PathLike[str] | None, resume: bool | None
) -> Options:
    """The options, with a folder and whether to resume where these are given by themselves."""
    options = options or Options()
    path = options.output if output is None else Path(output)
    return replace(options, output=path, resume=options.resume if resume is None else resume)


@contextmanager
def opened(
    prepared: Prepared,
    folder: RunFolder,
    options: Options,
    console: Console | None = None,
    *,
    kind: str | None = "run",
    listeners: Sequence[Listener] = (),
) -> Iterator[Job]:
    """A job with its folder made and a cluster at hand; ends both trackers and cluster.

    Args:
        prepared: the recipe.
        folder: where it goes.
        options: how it is run.
        console: who tells a person; None is quiet.
        kind: W&B's type of job; None = a listener keeps the runs there itself.
        listeners: who else hears of everything.

    Raises:
        InputError: the cluster lacks what the recipe asks for, its nodes share no such folders, or the bucket
            of the target store cannot be listed or written.
    """
    config = prepared.config
    console = console or Console(quiet=True, stream=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    refuse_unreachable(prepared)
    stored = RecipeStore(prepared)
    refuse_links(stored.root)
    if stored.bucket is not None:
        stored.bucket.check()
    if options.address is None and not is_connected():
        make_placement(config, machine(), stored.shortage())
    with (
        engine(options.address, config, resume=True) as crew,
        connect(options.address) as resources,
    ):
        placement = make_placement(config, resources, stored.shortage())
        if options.address is not None:
            store = {} if stored.bucket is not None else {store_name(config): stored.root}
            files = isinstance(config.data.source, FilesSource)
            cache = {"data.cache": cache_root(config.data)} if files else {}
            check_shared({"--output": folder.path, **store, **cache})
        open_folder(folder, config, resources)
        job = Job(prepared, placement, folder, console, kind, listeners, crew=crew)
        try:
            yield job
        except RaykdError as error:
            failed = {"schema": 1, "status": "failed", "error": str(error)}
            with suppress(DiskError):  # what went wrong may be just that
                write_json(folder.summary, {**failed, "test_scored_times": times_tested(folder)})
            _note_logs(error, folder)
            raise
        except Exception as error:
            _note_logs(error, folder)
            raise
        finally:
            job.close()


def _note_logs(error: Exception, folder: RunFolder) -> None:
    """Keep the logs of the job's own cluster, which is about to end, and say where they are."""
    with suppress(OSError):  # a full disk may be what went wrong
        if not isinstance(error, InputError) and keep_logs(folder.logs):
            error.add_note(f"logs of its processes: {folder.logs}")


def new_run_folder(name: str) -> Path:
    """Claims `runs/<name>-<UTC time>`, with a number behind it where another job began in that second."""
    return claim_new(RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")


@contextmanager
def own_folder(options: Options) -> Iterator[Options]:
    """The options with the job's folder, which is this process's alone as long as the block lasts.

    A folder into which nothing was written by then is removed again.

    Raises:
        InputError: another process works in it, or it exists and is not to be resumed, or holds something else.
    """
    path = options.output or new_run_folder(options.name)
    fresh = options.output is None
    try:
        _check_output(path, options)
        fresh |= claim(path)
        _check_output(path, options)  # another job may have ended there meanwhile
        yield replace(options, output=path)
    finally:
        if fresh:
            release(path)


def _check_output(path: Path, options: Options) -> None:
    refuse_links(path)
    if not is_taken(path):
        return
    if not options.resume:
        raise InputError.at(
            "--output", f"{path} exists; add --resume to continue it, or name another folder"
        )
    if not path.is_dir() or (not RunFolder(path).recipe.is_file() and any(path.iterdir())):
        raise InputError.at(
            "--output", f"{path} is no run's folder: it has no config.json; name another one"
        )


def run_folder(config: Config, options: Options) -> RunFolder:
    """The folder that a run would use; makes nothing, and tries each place that the run will write into.

    Raises:
        InputError: it exists and is not to be resumed, or holds something else; a place cannot be written.
    """
    path = options.output
    assert path is not None, "`own_folder`, or the command line, has chosen one"
    _check_output(path, options)
    check_places(config, path)
    if options.address is None:
        check_machine()
    folder = RunFolder(path.absolute())
    if folder.config.is_file() and folder.stages.is_file() != bool(config.stages):
        raise InputError.at(
            "--resume", f"{path} was started with {'' if folder.stages.is_file() else 'no '}stages; resume with the same "
            f"recipe ({folder.recipe}), or name another --output"
        )  # fmt: skip
    if folder.stages.is_file():
        began = recipe_as_data(folder.stages)
        _check_same(began.model_dump(mode="json"), config.model_dump(mode="json"), path)
    elif folder.config.is_file():
        # Keys that are newer than the folder have their defaults.
        began, config = recipe_as_data(folder.config), as_begun(config, folder)
        _check_same(began.model_dump(mode="json"), config.model_dump(mode="json"), path)
    return folder


def as_begun(config: Config, folder: RunFolder) -> Config:
    """The recipe, with what it leaves open, to the data or the kind of model, as it was when the folder's job began.

    An earlier version may have decided otherwise; what it trained is gone on with.
    """
    if not folder.config.is_file():
        return config
    began, classes = recipe_as_data(folder.config), find_task(config.task).settings.class_logits
    config = choosing_samples_as_in(optimizers_as_in(config, began), began)
    config = with_cpus_of(config, began)
    possible = resolutions(config.objective, classes=classes)
    if any(one in possible for one in resolutions(began.objective, classes=classes)):
        return config.model_copy(update={"objective": began.objective})
    return config


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    if others := list(_other_objects(old, new)):
        raise InputError(others)
    free = {"tracking", "cluster", "evaluate"}
    old, new = without_places(old), without_places(new)  # an engine may have moved
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if wrong := [key for key in differing if key not in free]:
        raise InputError(
            Problem("--resume", f"{path} was started with another recipe: {', '.join(wrong)} differ; resume with "
                    f"the same one ({path / 'config.json'}), or name another --output")
        )  # fmt: skip


def _other_objects(old: Any, new: Any, key: str = "") -> Iterator[Problem]:
    """Where an object stands whose fingerprint is not what it was."""
    if isinstance(old, list) and isinstance(new, list):
        named = [one.get("name", at) if isinstance(one, dict) else at for at, one in enumerate(old)]
        old, new = dict(zip(named, old, strict=False)), dict(zip(named, new, strict=False))
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    prints = old.get("fingerprint"), new.get("fingerprint")
    if old.get("type") == new.get("type") == "object" and prints[0] != prints[1]:
        yield Problem(key, f"is another object than the run began with: {new['describes']}, fingerprint {prints[1]}; it "
                      f"was {old['describes']}, fingerprint {prints[0]}: give the same one, or name another output")  # fmt: skip
        return
    for name in old.keys() & new.keys():
        yield from _other_objects(old[name], new[name], f"{key}.{name}".lstrip("."))


def open_folder(
    folder: RunFolder, config: Config, resources: Resources, whole: Config | None = None
) -> None:
    """Make a job's folder, and write down what it runs and where; of a chain also the whole recipe."""
    recipes = (
        {folder.config: config} if whole is None else {folder.stages: whole, folder.config: config}
    )
    for file, recipe in recipes.items():
        written = recipe.model_dump(mode="json")
        write_json(file, written)
        remember(file, written)
    write_json(folder.environment, environment(config, resources))


def grouped(recipe: Config, folder: RunFolder) -> Config:
    """The recipe with the W&B runs of its folds, or stages, in one group, unless it names another."""
    wandb = recipe.tracking.wandb
    named = wandb.model_copy(update={"group": wandb.group or folder.path.name})
    return recipe.model_copy(
        update={"tracking": recipe.tracking.model_copy(update={"wandb": named})}
    )


def environment(config: Config, resources: Resources) -> dict[str, Any]:
    """Plain values for `environment.json`; no host names, no environment variables."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "command": ["raykd", *sys.argv[1:]],
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git": _git_commit(),
        "seed": config.seed,
        "seeds": config.seeds,
    }


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True  # noqa: S607
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
