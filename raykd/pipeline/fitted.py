"""What is fitted once and used again: teachers, kept in raykd's home for every job, and fits of the same job."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from raykd.disks import copy_folder, read_pieces, write_whole
from raykd.folders import RunFolder, lock_file, write_json
from raykd.pipeline.fits import kept_folder
from raykd.train import Fit
from raykd.train.checkpoint import FitFolder

CARD = "card.json"
WEIGHTS = "weights.safetensors"


def card_of(fit: Fit) -> Path:
    """What is known of a kept teacher; written last, so that one that has it is whole."""
    return kept_folder(fit) / CARD


def keep_teacher(run: RunFolder, name: str, fit: Fit, result: Mapping[str, Any]) -> None:
    """Keep the weights of a teacher that was fitted in a run: of the best epoch, or of where its fit ends before the end.

    Raises:
        DiskError: there is no room for them; the run still has them, and keeps them when it is resumed.
    """
    ended = {} if fit.stop is None else _ended(result["epochs"], result["last"])
    weights = FitFolder(run.checkpoints(fit.fit_id)).weights(fit.kept)
    _keep(name, fit, weights, {**result, **ended})


def keep_snapshot(run: RunFolder, name: str, fit: Fit, longer: Fit) -> dict[str, float] | None:
    """Keep the weights that a longer fit had where this one ends.

    Args:
        run: the folder of the run.
        name: of the teacher.
        fit: how it would be trained by itself.
        longer: the fit that was trained.

    Returns:
        What they reach on validation; None where the longer fit has no such snapshot, since it was stopped early.

    Raises:
        DiskError: as of `keep_teacher`.
    """
    assert fit.stop is not None, "`share_fits` has put it there"
    folder = FitFolder(run.checkpoints(longer.fit_id))
    metrics = folder.snapshot(fit.stop)
    if metrics is not None:
        ended = {"identity": fit.identity, **_ended(fit.stop, metrics), "last": metrics}
        _keep(name, fit, folder.weights(f"epoch{fit.stop}"), ended)
    return metrics


def _ended(epochs: int, metrics: Mapping[str, float]) -> dict[str, Any]:
    """What a card says of weights that are the last ones."""
    return {"epochs": epochs, "best_epoch": epochs - 1, "best": metrics}


def _keep(name: str, fit: Fit, weights: Path, known: Mapping[str, Any]) -> None:
    folder = kept_folder(fit)
    write_whole(folder / WEIGHTS, read_pieces(weights))  # another run may read what it replaces
    model = fit.model.model_dump(mode="json")
    write_json(folder / CARD, {"name": name, "model": model, **known})


def share_fits(fits: Mapping[str, Fit]) -> tuple[dict[str, Fit], dict[str, str]]:
    """Which fits to train for all of them: of those that differ in where they end alone, the longest.

    Args:
        fits: teacher -> how it is trained.

    Returns:
        Teacher -> its fit, with the snapshots that it is to keep for others; teacher -> the one whose snapshot it is.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, fit in fits.items():
        groups[replace(fit, stop=None).identity].append(name)
    trained: dict[str, Fit] = {}
    made_by: dict[str, str] = {}
    for names in groups.values():
        longest = max(names, key=lambda name: (fits[name].stop is None, fits[name].epochs))
        ends = {stop for name in names if (stop := fits[name].stop) is not None}
        stops = ends - {fits[longest].stop}
        trained[longest] = replace(fits[longest], snapshots=tuple(sorted(stops)))
        made_by |= {name: longest for name in names if fits[name].stop in stops}
        trained |= {n: fits[n] for n in names if n != longest and n not in made_by}
    return trained, made_by


@contextmanager
def alone(fits: Iterable[Fit], waiting: Callable[[str], None]) -> Iterator[None]:
    """For the length of a block no other job with this home fits the same teachers.

    In a fixed order, so that two jobs which fit some of the same never wait for each other. Where the file system
    has no locks both fit, and what is kept is the same.

    Args:
        fits: those that are not kept yet.
        waiting: is told, once for each, of a teacher that another job is fitting.
    """
    with ExitStack() as stack:
        for fit in sorted(fits, key=kept_folder):
            told: list[str] = []

            def busy(fit: Fit = fit, told: list[str] = told) -> None:
                if not told:
                    told.append(fit.fit_id)
                    waiting(fit.fit_id)

            folder = kept_folder(fit)
            with suppress(OSError):
                stack.enter_context(lock_file(folder.with_name(f".{folder.name}.lock"), busy))
        yield


def reuse(fit: Fit, folder: RunFolder, known: Mapping[str, Path]) -> None:
    """Take over the checkpoints of a fit that is the same, bit for bit, where there are none of its own.

    Args:
        fit: which is to be trained in the folder.
        folder: of the job.
        known: identity -> checkpoints of a finished fit.
    """
    before = next((known[one] for one in fit.identities if one in known), None)
    own = folder.checkpoints(fit.fit_id)
    if before is not None and not own.exists():
        copy_folder(before, own)
