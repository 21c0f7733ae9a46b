"""What is fitted once and used again: teachers, kept in raykd's home for every job, and fits of the same job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
    """Keep the best weights of a teacher that was fitted in a run.

    Raises:
        DiskError: there is no room for them; the run still has them, and keeps them when it is resumed.
    """
    folder = kept_folder(fit)
    best = FitFolder(run.checkpoints(fit.fit_id)).weights("best")
    write_whole(folder / WEIGHTS, read_pieces(best))  # another run may read what it replaces
    model = fit.model.model_dump(mode="json")
    write_json(folder / CARD, {"name": name, "model": model, **result})


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
