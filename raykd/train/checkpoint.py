"""Checkpoints of one fit: weights as safetensors, the state for resuming beside them.

    <fit>/last.safetensors  best.safetensors   weights of the model alone (no projectors)
    <fit>/state.pt                             all that a bit-identical continuation needs
    <fit>/state.previous.pt                    the one before, for when that is damaged
    <fit>/epoch30.safetensors  epoch30.json     a snapshot that is wanted of it, and its validation metrics
    <fit>/sharded/                             in place of both where workers hold the model in parts
    <fit>/result.json                          written when the fit is finished
    <fit>/peers/<k>/                           weights and result of the k-th network that learnt beside the student

A state file is self-contained, ends with a checksum of all that is before it, and is put in place by
renaming, so that whatever happens to the last one, or to whoever writes it, one that is whole is left. It is
read with `weights_only=True`.
"""

from __future__ import annotations

import io
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash

from raykd.disks import new_file
from raykd.errors import CheckpointError, InputError
from raykd.folders import RunFolder, read_json, write_json
from raykd.models.weights import fingerprint, load_weights, save_weights
from raykd.targets.written import forget_answers
from raykd.tracking import Event

State = dict[str, Any]
STATES = ("state.pt", "state.previous.pt")
"""The last state, and the one before."""
PARTED = "sharded"
"""Folder of states that workers write in parts, see `raykd.train.sharded_states`."""
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Restored:
    """A state to go on from.

    Attributes:
        state: what was saved.
        instead_of: what is wrong with the one after it, which it stands in for; None = it is the last one.
    """

    state: State
    instead_of: str | None


@dataclass(frozen=True)
class FitFolder:
    """The checkpoints of one fit."""

    path: Path

    def result(self) -> dict[str, Any] | None:
        """The finished fit's result, or None while it is not finished."""
        path = self.path / "result.json"
        return read_json(path) if path.is_file() else None

    def result_of(self, identities: Sequence[str]) -> dict[str, Any] | None:
        """The result, where the finished fit is one of these."""
        result = self.result()
        return result if result is not None and result.get("identity") in identities else None

    def peer(self, index: int) -> FitFolder:
        """Of a network that was trained in the same fit, beside the student."""
        return FitFolder(self.path / "peers" / str(index))

    def keep(
        self,
        result: dict[str, Any],
        last: dict[str, torch.Tensor],
        best: dict[str, torch.Tensor],
    ) -> None:
        """Write weights and result of a fit that has no states of its own."""
        save_weights(last, self.weights("last"), durable=False)
        save_weights(best, self.weights("best"), durable=False)
        write_json(self.path / "result.json", result)

    def finish(self, result: dict[str, Any], *, forgets: bool = True) -> None:
        """Mark the fit as finished; its states for resuming are no longer needed, unless by other fits."""
        write_json(self.path / "result.json", result)
        if forgets:
            self.forget()

    def forget(self) -> None:
        """Delete the states, and what teachers have said of texts of its own: it is not gone on with."""
        for name in reversed(STATES):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / PARTED, ignore_errors=True)
        forget_answers(self.path)

    def weights(self, which: str) -> Path:
        """File of the `best` or `last` weights."""
        return self.path / f"{which}.safetensors"

    def keep_snapshot(
        self, epoch: int, weights: dict[str, torch.Tensor], metrics: dict[str, float]
    ) -> None:
        """Keep the weights after so many epochs, and what they reach on validation."""
        save_weights(weights, self.weights(f"epoch{epoch}"), durable=False)
        write_json(self.path / f"epoch{epoch}.json", metrics)

    def snapshot(self, epoch: int) -> dict[str, float] | None:
        """What the snapshot after so many epochs reaches on validation; None where there is none."""
        path = self.path / f"epoch{epoch}.json"
        return read_json(path) if path.is_file() else None

    def read_weights(self, which: str) -> dict[str, torch.Tensor]:
        """The `best` or `last` weights of a finished fit.

        Raises:
            CheckpointError: they are missing, damaged, or others than the fit ended with.
        """
        path, result = self.weights(which), self.result() or {}
        advice = f"delete {self.path} and resume the run to train this fit anew"
        try:
            weights = load_weights(path, key="checkpoints")
        except InputError as error:
            raise CheckpointError(f"{error}; {advice}") from error
        written = result.get("fingerprints", {}).get(which)
        if written not in (None, fingerprint(weights)):
            raise CheckpointError(
                f"{path} is damaged: it was changed since it was written; {advice}"
            )
        return weights

    def save(
        self, state: State, last: dict[str, torch.Tensor], best: dict[str, torch.Tensor]
    ) -> None:
        """Write weights, then the state that makes them count; the state before it is kept.

        Raises:
            DiskError: the disk is full or cannot be written; the state that was there is.
        """
        save_weights(last, self.weights("last"), durable=False)
        save_weights(best, self.weights("best"), durable=False)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        newest, before = (self.path / name for name in STATES)
        whole = sealed(buffer.getvalue())
        with new_file(newest, len(whole)) as temporary:
            temporary.write_bytes(whole)
            if newest.is_file():
                newest.replace(before)

    def load(self, identities: Sequence[str]) -> Restored | None:
        """The state to continue from, or None when there is none.

        Args:
            identities: of the fit, today's and those of earlier versions.

        Raises:
            CheckpointError: none that is there is whole and of this fit.
        """
        problems: list[str] = []
        for name in STATES:
            path = self.path / name
            if not path.is_file():
                continue
            try:
                state = _read(path, identities)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if name != STATES[0] and not problems:
                problems.append(f"{self.path / STATES[0]} is missing")
            return Restored(state, problems[0] if problems else None)
        if problems:
            raise CheckpointError(f"{problems[0]}; delete {self.path} to train this fit anew")
        return None


class Reporter(Protocol):
    """The loop's only way out; only rank 0 reports."""

    def report(self, event: Event) -> None:
        """Tell of an epoch, or of a fit's start or end."""
        ...

    def flush(self) -> None:
        """Whatever was reported is out of this process."""
        ...

    def folder(self, fit_id: str) -> FitFolder:
        """Where a fit's checkpoints lie."""
        ...


@dataclass
class FolderReporter:
    """Checkpoints in the run folder, events to a callable.

    Attributes:
        run: the run folder.
        emit: takes an event, or several in their order where any wait.
        together_s: seconds for which an epoch may wait for the next one, to be passed on with it.
    """

    run: RunFolder
    emit: Callable[..., None]
    together_s: float = 0.0
    _waiting: list[Event] = field(default_factory=list, init=False)
    _sent_at: float = field(default=-math.inf, init=False)

    def report(self, event: Event) -> None:
        """Pass the event on: at once, or with a later one where it is an epoch soon after another."""
        self._waiting.append(event)
        if event.kind != "epoch" or time.monotonic() - self._sent_at >= self.together_s:
            self.flush()

    def flush(self) -> None:
        """Pass on what waits."""
        events, self._waiting = self._waiting, []
        if events:
            self.emit(*events)
            self._sent_at = time.monotonic()

    def folder(self, fit_id: str) -> FitFolder:
        """`checkpoints/<fit>` of the run."""
        return FitFolder(self.run.checkpoints(fit_id))


def sealed(payload: bytes) -> bytes:
    """A state file: the payload and its checksum."""
    return payload + xxhash.xxh3_128_digest(payload)


def _read(path: Path, identities: Sequence[str]) -> State:
    """The state in a file.

    Raises:
        CheckpointError: it is damaged or of another fit.
    """
    raw = path.read_bytes()
    payload = raw[:-_DIGEST_BYTES]
    if not payload or sealed(payload) != raw:
        raise CheckpointError(f"{path} is damaged (its {len(raw):,} bytes have another checksum)")
    try:
        state: object = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("identity") not in identities:
        raise CheckpointError(f"{path} belongs to another fit (other recipe or data)")
    return state
