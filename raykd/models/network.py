"""A model together with its own preprocessing: what turns a batch's inputs into outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from raykd.models.causal import CausalModel
from raykd.models.preprocess import IDENTITY, Preprocessing
from raykd.models.units import unit_outputs
from raykd.types import CHUNKS, Headed, Scale

Module = TypeVar("Module", bound=nn.Module)


class Network(nn.Module):
    """Preprocessing, then the model.

    Taps, freezing, learning-rate factors and weights name modules of the *model*: every function of
    `raykd.models` that takes a module takes a Network for its model, so no name starts with `model.`.

    Args:
        model: any module from inputs to one tensor.
        preprocessing: of the only input, or by the name of the input; inputs without one are kept.
        scale: the unit that the model computes in, where its output is to be in original units
            (regression); None leaves the output as it is.

    Attributes:
        remembers: whether the ids of texts are kept for the next time: for whoever shows the same ones
            again and again, and not where a text's own time is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing | Mapping[str, Preprocessing] = IDENTITY,
        scale: Scale | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.scale = scale
        self.remembers = False

    def forward(self, inputs: Mapping[str, Tensor] | Tensor) -> Tensor:
        """The model's output for a batch.

        Args:
            inputs: name -> tensor [B, ...] in source space; of one input the tensor alone will do. One input is passed
                by position, several by keyword. Floating-point inputs are cast to the dtype of the model's parameters.

        Returns:
            The output, or its `logits`, or its first tensor, [B, ...]; with a scale float32 in original
            units. Of chunks of tokens the model is given the ids [B, L] and returns [B, L, V]; the output is then
            that of each unit, [N, V].

        Raises:
            TypeError: the model returns no tensor, or one preprocessing is given for several inputs.
        """
        named = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
        return self.output(self.prepare(named))

    def prepare(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs as the model takes them, each sample by itself: the same bits in any batch."""
        dtype = _dtype(self.model)
        return {name: self._prepare(name, x, inputs, dtype) for name, x in inputs.items()}

    def output(self, prepared: Mapping[str, Tensor]) -> Tensor:
        """The model's output for a batch that is prepared; as `forward`."""
        if CHUNKS in prepared:
            output = self.model(prepared[CHUNKS][:, 0])
        elif len(prepared) == 1:
            output = self.model(*prepared.values())
        else:
            output = self.model(**prepared)
        tensor = first_tensor(output)
        if tensor is None:
            raise TypeError(f"the model returned {type(output).__name__}; a tensor is needed")
        if CHUNKS in prepared:
            return unit_outputs(tensor, prepared[CHUNKS])
        return tensor if self.scale is None else self.scale.restored(tensor)

    def headed(self, prepared: Mapping[str, Tensor]) -> Headed:
        """As `output`, of chunks of tokens and before the last layer; of a `raykd.models.causal.CausalModel`."""
        chunks, model = prepared[CHUNKS], self.model
        assert isinstance(model, CausalModel), "the caller has looked"
        return self.with_head(unit_outputs(model.hidden(chunks[:, 0]), chunks))

    def with_head(self, hidden_ND: Tensor) -> Headed:
        """States at the units, with the last layer that follows them."""
        model = self.model
        assert isinstance(model, CausalModel), "the caller has looked"
        head_VD, bias_V = model.head_weights()
        return Headed(hidden_ND=hidden_ND, head_VD=head_VD, bias_V=bias_V)

    def _prepare(
        self, name: str, x: Tensor, inputs: Mapping[str, Tensor], dtype: torch.dtype
    ) -> Tensor:
        if isinstance(self.preprocessing, Preprocessing):
            if len(inputs) > 1 and not self.preprocessing.changes_nothing:
                raise TypeError(
                    f"one preprocessing for several inputs ({', '.join(inputs)}); give one by name"
                )
            ready = self.preprocessing(x, remember=self.remembers)
        else:
            ready = self.preprocessing.get(name, IDENTITY)(x, remember=self.remembers)
        return ready.to(dtype) if ready.is_floating_point() else ready


def placed(module: Module, device: torch.device, *, tf32: bool) -> Module:
    """A module on a device. On a GPU the weights of convolutions lie channels last, which its tensor cores read as they are.

    Args:
        module: any.
        device: where it is to run.
        tf32: whether a GPU may round the factors of float32 products to 10 bits, in this process from now on: for what
            is trained, not for what is to be repeated.
    """
    if device.type == "cuda":
        set_precision(tf32=tf32)
        channels_last(module)
    return module.to(device)


def set_precision(*, tf32: bool) -> None:
    """Whether GPUs may round the factors of float32 products to 10 bits, in this process from now on."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def channels_last(module: Module) -> Module:
    """The weights of two-dimensional convolutions with their channels last in memory; the numbers are the same."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def _dtype(module: nn.Module) -> torch.dtype:
    floating = (
        parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()
    )
    return next(floating, torch.float32)


def core(module: nn.Module) -> nn.Module:
    """The model of a Network; any other module itself."""
    return module.model if isinstance(module, Network) else module


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module's output stands for, or None.

    A tensor itself; of a mapping its `logits`, else its first tensor; of a tuple or list the first one.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return first_tensor(output["logits"])
        return first_tensor(list(output.values()))
    if isinstance(output, tuple | list):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return None
