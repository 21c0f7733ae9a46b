"""The data of a recipe, decoded where that is still to be done, and what tells it from other data."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from raykd.config import Config
from raykd.config.models import DetectorModel
from raykd.config.places import cache_root
from raykd.config.sources import FilesSource, GymnasiumSource
from raykd.data import Samples, build_samples
from raykd.data.decoding import Mark, Part, Target, in_process
from raykd.data.transfer_parts import without_transfer
from raykd.errors import InputError
from raykd.evaluate.outputs import Split, SplitOutputs
from raykd.pipeline.rolled import rolled_samples
from raykd.runtime import check_shared, connect
from raykd.tracking import Event, events

Listen = Callable[[Event], None]


def load_samples(
    config: Config, *, address: str | None = None, listen: Listen | None = None
) -> Samples:
    """Load the samples; a cluster is needed only where several parts are still to be decoded.

    Args:
        config: the recipe.
        address: of a Ray cluster; None = the one at hand, or a local one for as long as it takes.
        listen: is told how far decoding is.

    Raises:
        InputError: anything about the data, or the nodes do not share `data.cache`.
        DataError: samples cannot be read or written.
    """
    bins = config.student.model.bins if isinstance(config.student.model, DetectorModel) else None
    samples = _loaded(config, address, listen)
    return samples if bins is None else replace(samples, bins=bins)


def _loaded(config: Config, address: str | None, listen: Listen | None) -> Samples:
    columns = [one.column for one in config.evaluate.slices if one.column is not None]
    if isinstance(config.data.source, GymnasiumSource):
        return rolled_samples(config, config.data.source, columns, address=address)
    if not isinstance(config.data.source, FilesSource):
        return build_samples(config.data, seed=config.seed, task=config.task, columns=columns)
    progress = _Progress(listen) if listen is not None else None
    samples = build_samples(
        config.data,
        seed=config.seed,
        task=config.task,
        decode=partial(_decoded, config, address),
        tell=progress,
        columns=columns,
    )
    if progress is not None:
        progress.end()
    return samples


def refuse_changed(answered: SplitOutputs, samples: Samples, split: Split) -> None:
    """Go on only with the samples that a run was evaluated on.

    Args:
        answered: of the run's evaluation.
        samples: its recipe's, loaded again.
        split: which of their splits.

    Raises:
        InputError: they are others, or in another order.
    """
    if not np.array_equal(answered.ids_N.numpy(), samples.ids[samples.splits[split]]):
        raise InputError.at(
            "RUN",
            f"its data has changed: the samples of {split} are not those that it was evaluated on",
        )


def _decoded(
    config: Config, address: str | None, target: Target, parts: Sequence[Part]
) -> Iterator[Mark]:
    """On the cluster; a single part in this process, unless it is to be done elsewhere."""
    if address is None and len(parts) == 1:
        yield from in_process(target, parts)
        return
    from raykd.runtime.decoding import decode_parts  # ray.data takes a while to import

    with connect(address):
        if address is not None:
            check_shared({"data.cache": cache_root(config.data)})
        yield from decode_parts(target, parts)


class _Progress:
    """Turns counts into events of the stage `data`."""

    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self._begun: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
            self._listen(events.stage("data", state="started", fits=total))
        seconds, new = now - self._begun[0], done - self._begun[1]
        rate = new / seconds if new else None
        event = events.progress("data", done=done, total=total, unit="samples", rate_per_s=rate)
        self._listen(event)

    def end(self) -> None:
        """All is there."""
        if self._begun is not None:
            seconds = time.monotonic() - self._begun[0]
            self._listen(events.stage("data", state="finished", seconds=seconds))


def fingerprints(samples: Samples) -> tuple[str, str]:
    """Of all samples, and of those without transfer sets."""
    whole = _fingerprint(samples)
    own = _fingerprint(without_transfer(samples)) if samples.transfer else whole
    return whole, own


def _fingerprint(samples: Samples) -> str:
    digest = hashlib.sha256(samples.view_key.encode())
    arrays = [samples.ids, samples.content_hashes, samples.labels, samples.all_labels]
    if samples.weights is not None:
        arrays.append(samples.weights)
    for array in [*arrays, *(samples.splits[name] for name in sorted(samples.splits))]:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]
