"""The Ray actor that hosts one teacher: a shell that unpacks, asks the plain object, and returns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import ray
import torch
from ray import cloudpickle

from raykd.data import Samples
from raykd.errors import TeacherError
from raykd.targets import EntryKey, codec
from raykd.targets.ragged import samples_in
from raykd.targets.remote import Remote
from raykd.targets.shards import Shard, in_shards, write_shard
from raykd.teachers.engines.teacher import EngineSpec
from raykd.teachers.model import AnySpec, Inputs, Recorded, Spec, TeacherModel, count, host
from raykd.teachers.published import publish
from raykd.teachers.stages import in_turn
from raykd.teachers.utilization import WorkTime

_LOAD_TIMEOUT_S = 600.0
_Method = TypeVar("_Method", bound=Callable[..., Any])
_BATCHES = 8
"""Batches after which a long call shows progress in `statistics`."""
_AHEAD = 2
"""Pieces of a long call under way, so that the steps of the next one begin while those of the last one end."""
SCORE = "score"
"""Concurrency group of requests: of as many of them as there are steps each is at another, and the rest wait to be joined."""
CONTROL = "control"
"""Concurrency group whose calls are answered while the model is at work."""


class Answer(NamedTuple):
    """What an actor answers.

    Attributes:
        arrays: encoded.
        seconds: that it took here, see `WorkTime`.
        places: of the batches that were run, padding among them.
    """

    arrays: codec.Arrays
    seconds: float
    places: int


def _method(**options: Any) -> Callable[[_Method], _Method]:
    """`ray.method`, which is not typed."""
    decorate: Callable[[_Method], _Method] = ray.method(**options)
    return decorate


def device_of(spec: AnySpec, gpus: int) -> torch.device:
    """Where a teacher runs: on what its fingerprint says, unless somebody hides all GPUs from it.

    `CUDA_VISIBLE_DEVICES=""` is how clusters are tried out whose GPUs are logical, as cluster/local has them.

    Args:
        spec: the teacher's.
        gpus: how many this process was given.

    Raises:
        TeacherError: it is to run on a GPU, and there is none here.
    """
    if isinstance(spec, Recorded) or spec.device == "cpu":
        return torch.device("cpu")
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":  # hidden on purpose: the GPUs are logical
        return torch.device("cpu")
    if not gpus or not torch.cuda.is_available():
        raise TeacherError(
            f"teacher {spec.name!r} is placed on a GPU, but its process was given {gpus} and CUDA is "
            f"{'there' if torch.cuda.is_available() else 'missing'}: give it one with cluster.teachers.gpus, or set "
            "that to 0 to run it on CPUs"
        )
    return torch.device("cuda")


def held_here(
    reference: Any, names: Sequence[str]
) -> tuple[dict[str, AnySpec], dict[str, torch.device]]:
    """What a student's process hosts itself: specs and devices by the teacher's name.

    Args:
        reference: of all specs, by name.
        names: those that are asked.

    Raises:
        TeacherError: a teacher is to run on a GPU, and this process has none.
    """
    specs: dict[str, AnySpec] = ray.get(reference, timeout=_LOAD_TIMEOUT_S)
    own, gpus = {name: specs[name] for name in names}, len(ray.get_gpu_ids())
    devices = {name: device_of(spec, gpus) for name, spec in own.items()}
    for name, device in devices.items():
        if device.type == "cuda":  # threads begin with the first one; this is that of the student
            devices[name] = torch.device("cuda", torch.cuda.current_device())
    return own, devices


class TeacherActor:
    """Hosts one teacher; holds the data, so that it is asked by (rows, view) alone.

    A call that was under way when the process died is not repeated by Ray: whoever made it decides. One
    that is made while the process starts again waits for it.
    """

    def __init__(self, references: bytes, threads: int) -> None:
        """Takes pickled references to (spec, samples), which a restarted actor fetches anew."""
        spec: AnySpec
        samples: Samples
        spec, samples = ray.get(cloudpickle.loads(references), timeout=_LOAD_TIMEOUT_S)
        self._threads, self._name = threads, spec.name
        torch.set_num_threads(threads)
        self._samples = samples
        self._scorer = host(spec, device_of(spec, len(ray.get_gpu_ids())))
        self._piece = _BATCHES * (spec.batch_size if isinstance(spec, Spec) else 1)
        if isinstance(spec, EngineSpec):  # a batch of it may take long
            self._piece = spec.batch_size
        self._work = WorkTime()
        self._scored = 0
        self._uploaded = 0
        self._counting = Lock()
        self._alone = nullcontext() if isinstance(self._scorer, TeacherModel) else Lock()

    def ready(self) -> int:
        """Answers once the model is loaded; the process id, for tests that kill it."""
        return os.getpid()

    @_method(concurrency_group=CONTROL)
    def alive(self) -> int:
        """The process id, at once, also while the model is at work: what does not answer is hung."""
        return os.getpid()

    @_method(concurrency_group=SCORE, max_task_retries=0)
    def score(self, rows: np.ndarray, view: np.ndarray) -> Answer:
        """The encoded answer for rows [B] in views [B]."""
        return self._timed(len(rows), lambda: self._scorer.score(self._samples, rows, view))

    @_method(concurrency_group=SCORE, max_task_retries=0)
    def score_inputs(self, inputs: Inputs, whole: bool = True) -> Answer:
        """The encoded answer for samples of no data set: name -> [B, ...]; see `Scorer`."""
        return self._timed(count(inputs), lambda: self._scorer.score_inputs(inputs, whole=whole))

    def _timed(self, samples: int, score: Callable[[], codec.Arrays]) -> Answer:
        """An answer and its seconds, see `WorkTime`."""
        torch.set_num_threads(self._threads)  # of this thread, which Ray chose
        begun = time.perf_counter()
        with self._alone:
            arrays = score()
        with self._counting:
            seconds = self._work.done(begun, time.perf_counter())
            self._scored += samples
        scorer = self._scorer
        places = scorer.taken_places() if isinstance(scorer, TeacherModel) else samples
        publish(self._name, samples=samples, places=places, busy_s=seconds)
        return Answer(arrays, seconds, places)

    @_method(max_task_retries=0)
    def fill(
        self,
        root: Path,
        rows: np.ndarray,
        view: int,
        lacking: Sequence[EntryKey],
        remote: Remote | None = None,
    ) -> list[list[Shard]]:
        """Score rows in one view and write them, shard by shard, for each entry; the tensors never leave this node.

        Where the store is in a bucket, this node's mirror has them first, and they are uploaded from here.

        Returns:
            Of each group of rows that is written together (`in_shards`) a shard for each entry.
        """
        pieces = (rows[i : i + self._piece] for i in range(0, len(rows), self._piece))

        def score(piece: np.ndarray) -> codec.Arrays:
            return self.score(piece, np.full(len(piece), view, np.int64)).arrays

        parts = in_turn(score, pieces, _AHEAD)
        written: list[list[Shard]] = []
        begin = 0
        for arrays in in_shards(parts):
            own = rows[begin : begin + samples_in(arrays)]
            written.append(self._write(root, own, view, lacking, arrays))
            begin += len(own)
        if remote is not None:
            for shards in written:
                for key, shard in zip(lacking, shards, strict=True):
                    remote.keep(key, [shard], self._count_uploaded)
        return written

    def _write(
        self,
        root: Path,
        rows: np.ndarray,
        view: int,
        lacking: Sequence[EntryKey],
        arrays: codec.Arrays,
    ) -> list[Shard]:
        """A shard of these rows for each entry."""
        keys = {"ids": self._samples.ids[rows], "hashes": self._samples.content_hash(rows)}
        return [
            write_shard(root / key.folder, view, {**keys, **key.of(arrays)}, key.to_json())
            for key in lacking
        ]

    @_method(concurrency_group=CONTROL)
    def statistics(self) -> dict[str, Any]:
        """Samples scored, seconds busy and bytes uploaded since the start."""
        counted = {"samples_scored": self._scored, "busy_s": self._work.total_s}
        return {**counted, "uploaded_bytes": self._uploaded}

    def _count_uploaded(self, size: int) -> None:
        self._uploaded += size
