"""Checkpoints of one fit: weights as safetensors, the state for resuming beside them.

    <fit>/last.safetensors  best.safetensors   weights of the model alone (no projectors)
    <fit>/state.pt                             all that a bit-identical continuation needs
    <fit>/result.json                          written when the fit is finished

The state file is self-contained and replaced by renaming, so a kill at any point leaves the previous
one. It is read with `weights_only=True`.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raykd.errors import CheckpointError
from raykd.folders import read_json, write_json
from raykd.models.weights import save_weights

State = dict[str, Any]


@dataclass(frozen=True)
class FitFolder:
    """The checkpoints of one fit."""

    path: Path

    def result(self) -> dict[str, Any] | None:
        """The finished fit's result, or None while it is not finished."""
        path = self.path / "result.json"
        return read_json(path) if path.is_file() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the fit as finished; its state for resuming is no longer needed."""
        write_json(self.path / "result.json", result)
        (self.path / "state.pt").unlink(missing_ok=True)

    def weights(self, which: str) -> Path:
        """File of the `best` or `last` weights."""
        return self.path / f"{which}.safetensors"

    def save(
        self, state: State, last: dict[str, torch.Tensor], best: dict[str, torch.Tensor]
    ) -> None:
        """Write weights, then the state that makes them count."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_weights(last, self.weights("last"), durable=False)
        save_weights(best, self.weights("best"), durable=False)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        temporary = self.path / f".state.{os.getpid()}"
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(self.path / "state.pt")

    def load(self, identity: str) -> State | None:
        """The state to continue from, or None when there is none.

        Raises:
            CheckpointError: the state is damaged or belongs to another fit.
        """
        path = self.path / "state.pt"
        if not path.is_file():
            return None
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged ({type(error).__name__}); delete {self.path} to train this fit anew"
            ) from error
        if state.get("identity") != identity:
            raise CheckpointError(
                f"{path} belongs to another fit (other recipe or data); delete it"
            )
        return state
