"""The Ray actor that hosts one teacher: a shell that unpacks, asks the plain object, and returns."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle

from raykd.data import Samples
from raykd.targets import codec
from raykd.targets.shards import Shard, write_shard
from raykd.teachers.model import Recorded, Spec, host

_LOAD_TIMEOUT_S = 600.0


class TeacherActor:
    """Hosts one teacher; holds the data, so that it is asked by (rows, view) alone."""

    def __init__(self, references: bytes, threads: int) -> None:
        """Takes pickled references to (spec, samples), which a restarted actor fetches anew."""
        spec: Spec | Recorded
        samples: Samples
        spec, samples = ray.get(cloudpickle.loads(references), timeout=_LOAD_TIMEOUT_S)
        torch.set_num_threads(threads)
        gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
        self._samples = samples
        self._scorer = host(spec, torch.device("cuda" if gpu else "cpu"))
        self._busy_s = 0.0
        self._scored = 0

    def ready(self) -> int:
        """Answers once the model is loaded; the process id, for tests that kill it."""
        return os.getpid()

    def score(self, rows: np.ndarray, view: np.ndarray) -> codec.Arrays:
        """The encoded answer for rows [B] in views [B]."""
        begun = time.perf_counter()
        arrays = self._scorer.score(self._samples, rows, view)
        self._busy_s += time.perf_counter() - begun
        self._scored += len(rows)
        return arrays

    def fill(self, folder: Path, rows: np.ndarray, view: int) -> Shard:
        """Score rows in one view and write them as one shard; the tensors never leave this node."""
        arrays = self.score(rows, np.full(len(rows), view, np.int64))
        keys = {"ids": self._samples.ids[rows], "hashes": self._samples.content_hash(rows)}
        return write_shard(folder, view, {**keys, **arrays})

    def statistics(self) -> dict[str, Any]:
        """Samples scored and seconds busy since the start."""
        return {"samples_scored": self._scored, "busy_s": self._busy_s}
