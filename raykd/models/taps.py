"""Features of a model by dotted module path, through forward hooks; probing and listing of modules.

A path names a module as `named_modules()` of the model does (`layer2`, `blocks.0`); shapes are those of
one sample, without the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import InputError, Problem, RaykdError, refuse
from raykd.models.names import unknown
from raykd.models.network import Network, core, first_tensor
from raykd.models.preprocess import Preprocessing
from raykd.models.units import predicted
from raykd.models.weights import count_parameters
from raykd.types import CHUNKS

Shape = tuple[int, ...]


class _Hook:
    """A hook that does not follow copies: a copied or unpickled module must not feed these taps."""

    def __init__(self, act: Callable[..., None]) -> None:
        self._act = act

    def __call__(self, *args: Any) -> None:
        self._act(*args)

    def __reduce__(self) -> tuple[type[_Hook], tuple[Callable[..., None]]]:
        return (_Hook, (_nothing,))


def _nothing(*args: Any) -> None:
    """What a copied hook does."""
    del args


class Taps:
    """Keeps what the modules at `paths` put out, from one forward pass to the next.

    Hooks are attached at once and stay until `detach()` or the end of the `with` block. Features carry
    gradients as in the pass itself. They are dropped when the next pass starts, when `take()` hands them
    over, and on `detach()`. Only passes through the whole model count, so activation checkpointing, which
    runs blocks again during backward, leaves nothing behind. A module that runs several times in a pass
    gives its last output; one that puts out a tuple its first tensor.

        with Taps(network, ["layer2"]) as taps:
            logits = network(inputs)
            feature = taps.features["layer2"]

    Args:
        module: the model, or a Network for its model.
        paths: dotted module paths; repeated ones count once.
        key: dotted key of the recipe that names them, for errors.
        watch: notice what is overwritten in place, see `overwritten`. A hook that asks a tensor for its version
            breaks the graph of a compiled model.

    Raises:
        InputError: paths that the model does not have, all at once, with the nearest names.
    """

    def __init__(
        self, module: nn.Module, paths: Iterable[str], *, key: str = "taps", watch: bool = False
    ) -> None:
        root = core(module)
        self.paths = tuple(dict.fromkeys(paths))
        self._features: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._watch = watch
        self._other: dict[str, str] = {}
        self._running = False
        known = dict(root.named_modules(remove_duplicate=False))
        known.pop("", None)
        refuse(Problem(key, unknown(path, known)) for path in self.paths if path not in known)
        self._handles = [
            root.register_forward_pre_hook(_Hook(self._start)),
            root.register_forward_hook(_Hook(self._stop), always_call=True),
        ]
        for path in self.paths:
            hook = _Hook(functools.partial(self._keep, path))
            self._handles.append(known[path].register_forward_hook(hook))

    def _start(self, *args: Any) -> None:
        del args
        self.clear()
        self._running = True

    def _stop(self, *args: Any) -> None:
        del args
        self._running = False

    def _keep(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        if not self._running:
            return
        tensor = first_tensor(output)
        if tensor is None:
            self._other[path] = type(output).__name__
            return
        self._features[path] = tensor
        if self._watch and not tensor.is_inference():
            self._versions[path] = tensor._version

    @property
    def features(self) -> Mapping[str, Tensor]:
        """Path -> tensor [B, ...] of the latest pass."""
        return self._features

    @property
    def missing(self) -> dict[str, str]:
        """Why each path without a tensor has none."""
        return {
            path: f"puts out {self._other[path]}, no tensor"
            if path in self._other
            else "is not run in the forward pass"
            for path in self.paths
            if path not in self._features
        }

    @property
    def overwritten(self) -> list[str]:
        """Paths whose tensor a later operation has changed in place; unknown unless watched, or in inference mode."""
        return [
            path
            for path, version in self._versions.items()
            if self._features[path]._version != version
        ]

    def take(self) -> dict[str, Tensor]:
        """Hand over the features of the latest pass and keep nothing.

        Raises:
            RaykdError: a path has no feature, because no pass was made or its module was not run.
        """
        missing = self.missing
        if missing:
            found = "; ".join(f"{path!r} {reason}" for path, reason in missing.items())
            raise RaykdError(f"no feature of the latest pass: {found}; tap another module")
        features = dict(self._features)
        self.clear()
        return features

    def clear(self) -> None:
        """Drop the features."""
        self._features.clear()
        self._versions.clear()
        self._other.clear()

    def detach(self) -> None:
        """Remove the hooks and drop the features; harmless when done twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes, buffers and generators are as before."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    parameters = module.parameters()
    devices = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
    module.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for part, name, buffer, before in buffers:
                part._buffers[name] = buffer.copy_(before)
        for part, training in modes:
            part.training = training


def run_model(network: nn.Module, inputs: Mapping[str, Tensor], *, key: str) -> Tensor:
    """One pass.

    Args:
        network: a Network, or a model without preprocessing.
        inputs: name -> tensor [B, ...].
        key: dotted key of the recipe that names it, for errors.

    Raises:
        InputError: the model raises whatever it is, which may be anything.
    """
    whole = network if isinstance(network, Network) else Network(network)
    try:
        output: Tensor = whole(inputs)
    except RaykdError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
        raise InputError.at(
            key,
            f"the model does not run on {shapes}: {type(error).__name__}: {error}{_hint(whole)}",
        ) from error
    return output


def _hint(network: Network) -> str:
    """What a model of texts may have wanted instead of ids."""
    preprocessing = network.preprocessing
    tokens = preprocessing.tokens if isinstance(preprocessing, Preprocessing) else None
    if tokens is None or tokens.type == "none":
        return ""
    return (
        f" (it was given ids of the tokenizer {tokens.type}; a teacher that wants the texts themselves: preprocess: "
        "{tokenizer: none})"
    )


def _sample_shape(tensor: Tensor, inputs: Mapping[str, Tensor], what: str, key: str) -> Shape:
    size = len(next(iter(inputs.values())))
    if CHUNKS in inputs:
        size = int(predicted(inputs[CHUNKS]).sum())
    if tensor.dim() == 0 or len(tensor) != size:
        raise InputError.at(
            key,
            f"{what} is {list(tensor.shape)} for a batch of {size}; its first dimension must be "
            "the batch",
        )
    return tuple(tensor.shape[1:])


def probe(
    network: nn.Module, inputs: Mapping[str, Tensor], taps: Iterable[str], *, key: str
) -> dict[str, Shape]:
    """The shapes of features, found by one pass in evaluation mode that leaves no trace.

    Args:
        network: a Network, or a model without preprocessing.
        inputs: name -> tensor [B, ...]; two samples are enough.
        taps: dotted module paths.
        key: dotted key of the recipe that names them, for errors.

    Returns:
        tap -> shape of one sample's feature, in the order of `taps`.

    Raises:
        InputError: the model does not run on the inputs; a module is unknown (with the nearest names),
            not run, puts out no tensor or one whose first dimension is not the batch; or its output is
            overwritten by a later in-place operation, so that the feature would not be its output.
    """
    root = core(network)
    with Taps(root, taps, key=key, watch=True) as kept, _untouched(root):
        run_model(network, inputs, key=key)
        problems = [
            Problem(key, f"module {path!r} {reason}; tap another one")
            for path, reason in kept.missing.items()
        ]
        problems += [
            Problem(
                key,
                f"the output of {path!r} is overwritten by a later in-place operation; tap the module "
                "after it, or build the model with inplace=False",
            )
            for path in kept.overwritten
        ]
        refuse(problems)
        return {
            path: _sample_shape(kept.features[path], inputs, f"the output of {path!r}", key)
            for path in kept.paths
        }


def probe_output(network: nn.Module, inputs: Mapping[str, Tensor], *, key: str) -> Shape:
    """The shape of one sample's output (`(10,)` for ten classes), found as `probe` does.

    Raises:
        InputError: the model does not run on the inputs, or its output's first dimension is not the batch.
    """
    with _untouched(core(network)):
        return _sample_shape(run_model(network, inputs, key=key), inputs, "the output", key)


def probe_answer(network: nn.Module, inputs: Mapping[str, Tensor], *, key: str) -> Tensor:
    """What the model says of some samples, [B, ...], found as `probe` does.

    Raises:
        InputError: the model does not run on the inputs.
    """
    with _untouched(core(network)):
        return run_model(network, inputs, key=key)


@dataclass(frozen=True)
class Row:
    """One module of a model.

    Attributes:
        path: dotted path, as taps name it; empty for the whole model.
        kind: class name.
        shape: of one sample's output; None where the module is not run or puts out no tensor.
        parameters: of the module and everything below it.
    """

    path: str
    kind: str
    shape: Shape | None
    parameters: int


def describe(model: nn.Module, inputs: Mapping[str, Tensor], *, key: str = "model") -> list[Row]:
    """Every module of a model, the whole one first, in the order of definition.

    Args:
        model: a Network, or a model without preprocessing.
        inputs: name -> tensor [B, ...].
        key: dotted key of the model, for errors.

    Raises:
        InputError: the model does not run on the inputs.
    """
    root = core(model)
    modules = dict(root.named_modules(remove_duplicate=False))
    with Taps(root, [path for path in modules if path]) as kept, _untouched(root):
        output = run_model(model, inputs, key=key)
        shapes = {path: tuple(tensor.shape[1:]) for path, tensor in kept.features.items()}
    shapes[""] = tuple(output.shape[1:])
    return [
        Row(path, type(part).__name__, shapes.get(path), count_parameters(part))
        for path, part in modules.items()
    ]


def render_table(rows: Iterable[Row]) -> str:
    """Rows as an aligned text table, one line per module."""
    cells = [("path", "class", "output", "parameters")]
    cells += [
        (
            row.path or "(model)",
            row.kind,
            "-" if row.shape is None else "×".join(str(side) for side in row.shape) or "scalar",
            f"{row.parameters:,}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        f"{path:<{widths[0]}}  {kind:<{widths[1]}}  {shape:<{widths[2]}}  {count:>{widths[3]}}"
        for path, kind, shape, count in cells
    )
