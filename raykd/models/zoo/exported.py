"""Programs that torch wrote: TorchScript and `torch.export` files, as teachers.

Both run code that is in the file, or may when they are loaded; `trusted` says that this is wanted.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.models import Pt2Model, TorchscriptModel
from raykd.models.network import first_tensor
from raykd.models.shapes import BuildContext
from raykd.models.weights import DAMAGED
from raykd.models.zoo.foreign import CONTENT, ForeignModel

_DAMAGED = (*DAMAGED, OSError, pickle.UnpicklingError, zipfile.BadZipFile)


def build_torchscript(spec: TorchscriptModel, context: BuildContext) -> nn.Module:
    """What `torch.jit.save` wrote, in evaluation mode; as `build_pt2`."""
    return _build(spec, context, _open_torchscript)


def build_pt2(spec: Pt2Model, context: BuildContext) -> nn.Module:
    """What `torch.export.save` wrote, in the mode that it was exported in.

    Raises:
        InputError: it is not trusted, missing, damaged, or of another kind.
    """
    return _build(spec, context, _open_pt2)


class ExportedModel(ForeignModel):
    """A program of torch, computed on the CPU; the file's content is its only state."""

    def __init__(self, program: Callable[..., Any], content: Tensor) -> None:
        super().__init__()
        self.register_buffer(CONTENT, content)
        # Not a part: an exported program refuses to change modes, and its weights are in the content.
        self._held = (program,)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """The first tensor of what it returns, on the device of the inputs.

        Raises:
            RuntimeError: it was made for another shape.
            TypeError: it returns no tensor.
        """
        device = next(iter((*args, *kwargs.values()))).device
        try:
            found = self._held[0](
                *(x.cpu() for x in args), **{name: x.cpu() for name, x in kwargs.items()}
            )
        except AssertionError as error:
            raise RuntimeError(f"{error} (export it with a dynamic batch)") from error
        tensor = first_tensor(found)
        if tensor is None:
            raise TypeError(f"the program returned {type(found).__name__}; a tensor is needed")
        return tensor.to(device)


def _build(
    spec: TorchscriptModel | Pt2Model,
    context: BuildContext,
    open_program: Callable[[io.BytesIO], Callable[..., Any]],
) -> nn.Module:
    if not spec.trusted:
        raise context.error(
            "code in the file would run: set it to true where you trust its origin", field="trusted"
        )
    if context.weights is not None:
        content = context.weights[CONTENT]
    else:
        file = Path(spec.path).expanduser()
        if not file.is_file():
            raise context.error(f"no file at {file}; check the path", field="path")
        content = torch.frombuffer(bytearray(file.read_bytes() or b"\0"), dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            # Of TorchScript being deprecated, which whoever has such a file cannot change here.
            warnings.simplefilter("ignore")
            program = open_program(io.BytesIO(content.numpy().tobytes()))
    except _DAMAGED as error:
        why = " ".join(str(error).split())[:200]
        raise context.error(
            f"{spec.path} cannot be read ({type(error).__name__}: {why}); it is damaged, of another kind, or of "
            "another version of torch",
            field="path",
        ) from error
    return ExportedModel(program, content)


def _open_torchscript(file: io.BytesIO) -> Callable[..., Any]:
    program = torch.jit.load(file, map_location="cpu")
    program.eval()
    loaded: Callable[..., Any] = program
    return loaded


def _open_pt2(file: io.BytesIO) -> Callable[..., Any]:
    return torch.export.load(file).module()
