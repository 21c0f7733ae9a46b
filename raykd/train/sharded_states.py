"""Checkpoints of a fit that several workers hold together: each writes its part, while training goes on.

    <fit>/sharded/000000120/            after so many updates, by torch.distributed.checkpoint
        __0_0.distcp  __1_0.distcp      each worker's part of all tensors
        .metadata                       which tensor is where
        notes.pt                        all else: schedule, best epoch, random numbers; read with `weights_only=True`
        whole.json                      identity of the fit, and a checksum of each file; it comes last

One that has no `whole.json`, or another checksum, counts for nothing. Two that are whole are kept. They can be read by another
number of workers. Whole weights are written at the end (`raykd.train.checkpoint`).
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from raykd.disks import new_file
from raykd.errors import CheckpointError
from raykd.folders import read_json, write_json
from raykd.train.checkpoint import PARTED, STATES, State
from raykd.train.sharding import Sharing

_KEPT = 2
_NOTES, _WHOLE = "notes.pt", "whole.json"
_CHUNK = 2**24


class ShardedStates:
    """The checkpoints of one fit.

    Args:
        folder: of the fit.
        sharing: the workers.
    """

    def __init__(self, folder: Path, sharing: Sharing) -> None:
        self._fit, self._folder, self._sharing = folder, folder / PARTED, sharing
        self._written = -1

    def save(
        self, step: int, identity: str, tensors: Mapping[str, Tensor], notes: State, *, wait: bool
    ) -> None:
        """Begin to write a checkpoint, once the one before it is written; every worker takes part.

        Args:
            step: updates so far.
            identity: of the fit.
            tensors: by name; those that not every worker has are the first one's.
            notes: everything else, the first worker's.
            wait: whether to return only when it is written.

        Raises:
            OSError: this one or the one before could not be written; the others that were there are.
        """
        self._sharing.wait()
        if step != self._written:
            self._written = step
            place = self._folder / f"{step:09d}"
            if not self._sharing.rank:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                buffer = io.BytesIO()
                torch.save(notes, buffer)
                with new_file(place / _NOTES, buffer.tell()) as temporary:
                    temporary.write_bytes(buffer.getvalue())
            dist.barrier(self._sharing.group)  # nobody writes before there is a folder
            self._sharing.pending = self._sealed(self._begun(place, tensors), place, identity)
        if wait:
            self._sharing.wait()

    def _begun(self, place: Path, tensors: Mapping[str, Tensor]) -> Future[Any]:
        """Have copies of the tensors, as they are now, written in a thread."""
        begun = async_save(
            dict(tensors),
            storage_writer=FileSystemWriter(place),
            planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),
            process_group=self._sharing.group,
        )
        assert isinstance(begun, Future), "torch gives something else for processes alone"
        return begun

    def _sealed(self, written: Future[Any], place: Path, identity: str) -> Future[None]:
        """The end of writing: the first worker says that the checkpoint is whole, and forgets older ones."""
        sealed: Future[None] = Future()

        def seal(done: Future[Any]) -> None:
            try:
                done.result()
                if not self._sharing.rank:
                    files = {path.name: _digest(path) for path in _files(place)}
                    write_json(place / _WHOLE, {"identity": identity, "files": files})
                    for old in self._places()[_KEPT:]:
                        shutil.rmtree(old, ignore_errors=True)
            except CheckpointException as error:
                causes = [one[0] for one in error.failures.values()]
                disk = next((one for one in causes if isinstance(one, OSError)), None)
                sealed.set_exception(disk or error)
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                sealed.set_exception(error)
            else:
                sealed.set_result(None)

        written.add_done_callback(seal)
        return sealed

    def _places(self) -> list[Path]:
        """The checkpoints that were written to their end, newest first."""
        found = self._folder.glob(f"*/{_WHOLE}")
        return sorted((path.parent for path in found), reverse=True)

    def restore(self, identities: Sequence[str]) -> tuple[Path, str | None] | None:
        """The newest checkpoint that is whole, and what is wrong with one after it; None where there is none.

        Every worker takes part; the first one looks, and removes what is not whole.

        Raises:
            CheckpointError: none that is there is whole and of this fit.
        """
        told: list[Any] = [None]
        if not self._sharing.rank:
            try:
                told = [self._newest(identities)]
            except CheckpointError as error:
                told = [error]
        dist.broadcast_object_list(told, src=0, group=self._sharing.group)
        (found,) = told
        if isinstance(found, CheckpointError):
            raise found
        if found is None:
            return None
        place, problem = found
        self._written = int(place.name)
        return place, problem

    def _newest(self, identities: Sequence[str]) -> tuple[Path, str | None] | None:
        problem: str | None = None
        places = self._places()
        if not places and any((self._fit / name).is_file() for name in STATES):
            raise CheckpointError(
                f"{self._fit / STATES[0]} was written with cluster.student.strategy: ddp, which fsdp does not read; set it to ddp "
                f"to go on, or delete {self._fit} to train this fit anew"
            )
        for place in places:
            why = _wrong(place, identities)
            if why is None:
                self._remove_but(place)
                return place, problem
            problem = problem or why
        if problem is not None:
            raise CheckpointError(f"{problem}; delete {self._fit} to train this fit anew")
        self._remove_but(None)
        return None

    def _remove_but(self, place: Path | None) -> None:
        """Remove what was begun, and never got whole, or was damaged since; and keep those that are older than `place`."""
        whole = [] if place is None else [one for one in self._places() if one <= place]
        for other in self._folder.glob("*"):
            if other not in whole:
                shutil.rmtree(other, ignore_errors=True)

    @staticmethod
    def notes(place: Path) -> State:
        """All of a checkpoint that is no tensor."""
        state: State = torch.load(place / _NOTES, map_location="cpu", weights_only=True)
        return state

    @staticmethod
    def shapes(place: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Name -> shape and type of each tensor of a checkpoint, whole."""
        kept = FileSystemReader(place).read_metadata().state_dict_metadata
        return {
            name: (one.size, one.properties.dtype)
            for name, one in kept.items()
            if isinstance(one, TensorStorageMetadata)
        }

    def load(self, place: Path, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors of a checkpoint; every worker takes part, with those that it wants."""
        load(
            dict(tensors),
            storage_reader=FileSystemReader(place),
            process_group=self._sharing.group,
        )

    def forget(self) -> None:
        """Delete all of them: the fit is finished."""
        self._sharing.wait()
        if not self._sharing.rank:
            shutil.rmtree(self._folder, ignore_errors=True)


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_file() and path.name != _WHOLE)


def _digest(path: Path) -> str:
    """Checksum of a file."""
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _wrong(place: Path, identities: Sequence[str]) -> str | None:
    """What is wrong with a checkpoint; None where it is whole and of this fit."""
    try:
        seal = read_json(place / _WHOLE)
        files = {path.name: _digest(path) for path in _files(place)}
    except (OSError, ValueError) as error:
        return f"{place} is damaged ({type(error).__name__})"
    if seal.get("identity") not in identities:
        return f"{place} belongs to another fit (other recipe or data)"
    if files != seal.get("files"):
        kept = seal.get("files", {})
        odd = sorted(name for name in {*files, *kept} if files.get(name) != kept.get(name))
        return f"{place} is damaged ({', '.join(odd)})"
    return None
