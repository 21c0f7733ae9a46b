"""An ONNX graph as a teacher; onnxruntime computes it, on the CPU."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raykd.config.models import OnnxModel
from raykd.errors import InputError, Problem, refuse
from raykd.importing import load_package
from raykd.models.names import nearest, some
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.foreign import CONTENT, ForeignModel

_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
_FAILURES = (
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NotImplemented",
    "RuntimeException",
)


def build_onnx(spec: OnnxModel, context: BuildContext) -> nn.Module:
    """The graph in a file.

    Returns:
        A model with the file's content as its only state, whose modules are the graph's float outputs,
        by their names.

    Raises:
        InputError: onnxruntime is not installed; the file is missing, damaged, or not for this version of
            onnxruntime; it takes another shape; it has no such output.
    """
    for package in ("onnx", "onnxruntime"):
        load_package(package, install="raykd[export]", key=context.key)
    if context.weights is not None:
        content = context.weights[CONTENT]
    else:
        content = torch.frombuffer(
            bytearray(_read(spec.path, f"{context.key}.path")), dtype=torch.uint8
        )
    session = _open(content.numpy().tobytes(), spec.path, f"{context.key}.path")
    outputs = {one.name: one.type for one in session.get_outputs() if one.type in _TYPES}
    floats = [name for name, kind in outputs.items() if kind in _FLOATS]
    refuse(
        [
            *_input_problems(session, spec.path, context),
            *_output_problems(spec, outputs, floats, context),
        ]
    )
    answer = spec.output or ("logits" if "logits" in floats else floats[0])
    of_texts = isinstance(context.input_shape, TokenShape) and context.input_shape.kind == "hf"
    names = list(dict.fromkeys([*floats, answer]))
    return OnnxGraph(session, content, names, answer, of_texts=of_texts)


class OnnxGraph(ForeignModel):
    """A graph that onnxruntime runs.

    A graph made for batches of one size is run on pieces of that size, the last one padded with its first
    row. Each float output passes through a module of its own name, so that it can be tapped. One of texts gets
    its ids as transformers names them.
    """

    def __init__(
        self,
        session: Any,
        content: Tensor,
        outputs: list[str],
        answer: str,
        *,
        of_texts: bool = False,
    ) -> None:
        super().__init__()
        self._of_texts = of_texts
        self.register_buffer(CONTENT, content)
        self._session = session
        self._inputs = {one.name: _TYPES[one.type] for one in session.get_inputs()}
        self._outputs, self._answer = outputs, answer
        sizes = [one.shape[0] for one in session.get_inputs() if one.shape]
        self._size = next((size for size in sizes if isinstance(size, int)), None)
        self._taps = {name: tap for name in outputs if (tap := _tap_module(self, name)) is not None}

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """The answer [B, ...], on the device of the inputs.

        Raises:
            TypeError: inputs that the graph does not have, or fractions where it takes whole numbers.
            RuntimeError: onnxruntime refuses the inputs.
        """
        if self._of_texts:
            kwargs, args = token_inputs(args[0], self._inputs), ()
        given = dict(zip(self._inputs, args, strict=True)) if args else kwargs
        if set(given) != set(self._inputs):
            raise TypeError(
                f"the graph takes {', '.join(self._inputs)}; it is given {', '.join(given)}"
            )
        device = next(iter(given.values())).device
        arrays = {name: _as(x, self._inputs[name], name) for name, x in given.items()}
        outputs = {name: torch.from_numpy(a).to(device) for name, a in self._run(arrays).items()}
        for name, tap in self._taps.items():
            if name in outputs:
                outputs[name] = tap(outputs[name])
        return outputs[self._answer]

    def _run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Name -> float32 [B, ...] of the outputs that have a row for each sample."""
        count = len(next(iter(arrays.values())))
        parts = [
            self._piece({name: array[rows] for name, array in arrays.items()})
            for rows in _pieces(count, self._size or count)
        ]
        return {
            name: np.concatenate([part[name] for part in parts])[:count].astype(np.float32)
            for name in parts[0]
        }

    def _piece(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            found = self._session.run(self._outputs, dict(arrays))
        except onnxruntime_errors() as error:
            raise RuntimeError(f"onnxruntime: {error}") from error
        rows = len(next(iter(arrays.values())))
        pairs = zip(self._outputs, found, strict=True)
        return {name: a for name, a in pairs if name == self._answer or a.shape[:1] == (rows,)}


def token_inputs(ids_BL: Tensor, names: Container[str]) -> dict[str, Tensor]:
    """What a graph of transformers takes, of what it has: ids, which of them are there, and one segment.

    Args:
        ids_BL: int64, ids + 1 with 0 as padding.
        names: of the graph's inputs.
    """
    there_BL = (ids_BL != 0).long()
    every = {
        "input_ids": (ids_BL - 1).clamp(min=0),
        "attention_mask": there_BL,
        "token_type_ids": torch.zeros_like(ids_BL),
    }
    return {name: ids for name, ids in every.items() if name in names}


def _read(path: str, key: str) -> bytes:
    """The graph with all that it keeps in other files."""
    import onnx
    from google.protobuf.message import DecodeError, EncodeError
    from onnx.external_data_helper import uses_external_data

    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError.at(key, f"no file at {file}; check the path")
    try:
        graph = onnx.load(file, load_external_data=False)
        if any(uses_external_data(tensor) for tensor in graph.graph.initializer):
            graph = onnx.load(file)
        content: bytes = graph.SerializeToString()
    except (DecodeError, EncodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise InputError.at(
            key, f"{file} cannot be read as ONNX ({error}); export or copy it again"
        ) from error
    if not graph.graph.node:
        raise InputError.at(key, f"{file} holds no graph; export or copy it again")
    return content


def _open(content: bytes, path: str, key: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # the error says it
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except onnxruntime_errors() as error:
        why = " ".join(str(error).split())[:300]
        raise InputError.at(
            key,
            f"onnxruntime {onnxruntime.__version__} does not open {path}: {why}; export it again, "
            "with an opset that this version knows",
        ) from error


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises of a graph that it cannot open or run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(getattr(state, name) for name in _FAILURES)


def _input_problems(session: Any, path: str, context: BuildContext) -> Iterator[Problem]:
    inputs, key = session.get_inputs(), f"{context.key}.path"
    for one in inputs:
        if one.type not in _TYPES:
            found = f"{path} takes {one.type} as {one.name!r}"
            yield Problem(key, f"{found}; dense numbers are needed")
    if len(inputs) != 1 or not inputs[0].shape:
        return
    required, given = inputs[0].shape[1:], context.input_shape
    fits = len(required) == len(given) and all(
        not isinstance(side, int) or side == found
        for side, found in zip(required, given, strict=True)
    )
    if not fits:
        shape = ", ".join(str(side) if isinstance(side, int) else "?" for side in required)
        yield Problem(
            key,
            f"{path} takes [{shape}] per sample, it would be given {list(given)}; set its "
            "preprocess (size, crop, channels), or export it for this shape",
        )


def _output_problems(
    spec: OnnxModel, outputs: Mapping[str, str], floats: list[str], context: BuildContext
) -> Iterator[Problem]:
    if spec.output is None and not floats:
        yield Problem(
            f"{context.key}.path",
            f"{spec.path} has no output of floats (of scikit-learn: export it with zipmap=False), only "
            f"{some(outputs) or '-'}; name one as `output` where it is the class (`kind: top1`)",
        )
    elif spec.output is not None and spec.output not in outputs:
        near = ", ".join(nearest(spec.output, outputs, count=1))
        found = f"found {spec.output!r}; the outputs are {some(outputs)}; nearest: {near}"
        yield Problem(f"{context.key}.output", found)


def _tap_module(root: nn.Module, name: str) -> nn.Module | None:
    """A module at the dotted path of an output; None where torch takes no module of that name."""
    *parents, last = name.split(".")
    node = root
    for part in parents:
        if part not in dict(node.named_children()) and not _add(node, part):
            return None
        node = node.get_submodule(part)
    return node.get_submodule(last) if _add(node, last) else None


def _add(node: nn.Module, name: str) -> bool:
    known = dict(node.named_children())
    if name in known:
        return True
    if not name or hasattr(node, name):
        return False
    node.add_module(name, nn.Identity())
    return True


def _as(x: Tensor, kind: Any, name: str) -> np.ndarray:
    if x.is_floating_point() and not np.issubdtype(kind, np.floating):
        raise TypeError(f"the graph takes {np.dtype(kind)} as {name!r}; it is given {x.dtype}")
    return np.ascontiguousarray(x.cpu().numpy().astype(kind, copy=False))


def _pieces(count: int, size: int) -> Iterator[np.ndarray]:
    """Positions of pieces of one size; the last one begins anew where it lacks rows."""
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        yield np.where(rows < count, rows, start)
