"""Where a recipe's job will write, tried before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from raykd.config.data import Data
from raykd.config.root import Config
from raykd.config.sources import FilesSource
from raykd.disks import why_unwritable
from raykd.errors import Problem, refuse
from raykd.folders import home

HOME = "$RAYKD_HOME"
RUNS = Path("runs")
"""Where jobs without a folder of their own make one."""


def cache_root(data: Data) -> Path:
    """Folder of decoded samples."""
    return Path(data.cache).expanduser().absolute() if data.cache else home() / "decoded"


def mirrors_root() -> Path:
    """Where this node's mirrors of target stores in buckets lie."""
    return home() / "targets-of"


def store_root(config: Config) -> Path:
    """The folder of the target store; of one in a bucket, where its mirror lies."""
    store = config.targets.store
    if store is not None and "://" in store:
        return mirrors_root()
    return Path(store).absolute() if store else home() / "targets"


def store_name(config: Config) -> str:
    """What names the folder of the target store."""
    store = config.targets.store
    return "targets.store" if store and "://" not in store else HOME


def check_places(config: Config, output: Path | None = None) -> None:
    """Try every folder that a job of this recipe writes into; leaves nothing there.

    Args:
        config: the recipe.
        output: the job's folder; None where there is none.

    Raises:
        InputError: with every place that cannot be written.
    """
    refuse(
        [*_problems({} if output is None else {"--output": [output]}), *_problems(_kept(config))]
    )


def _kept(config: Config) -> dict[str, list[Path]]:
    """Key or variable -> the folders it decides that outlive a job, the outermost first."""
    places: dict[str, list[Path]] = {store_name(config): [store_root(config)]}
    if any(teacher.fit is not None for teacher in config.teachers):
        places.setdefault(HOME, []).append(home() / "teachers")
    cache = cache_root(config.data)
    if isinstance(config.data.source, FilesSource) and not cache.is_dir():
        places.setdefault("data.cache" if config.data.cache else HOME, []).append(cache)
    if HOME in places:
        places[HOME].insert(0, home())
    return places


def _problems(places: Mapping[str, list[Path]]) -> Iterator[Problem]:
    """The first folder of each key that cannot be written."""
    for key, folders in places.items():
        found = ((folder, why) for folder in folders if (why := why_unwritable(folder)))
        if (first := next(found, None)) is not None:
            folder, why = first
            advice = "name a folder that can be made and written"
            yield Problem(key, f"{folder.absolute()} cannot be written: {why}; {advice}")
