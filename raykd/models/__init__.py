"""Models: the zoo, preprocessing, taps, projectors, weights and freezing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from raykd.config.models import Model
from raykd.models.zoo.bag import build_bag
from raykd.models.zoo.cnn import build_cnn
from raykd.models.zoo.estimator import build_estimator
from raykd.models.zoo.exported import build_pt2, build_torchscript
from raykd.models.zoo.factory import build_factory
from raykd.models.zoo.foreign import CONTENT
from raykd.models.zoo.hubs import build_hf, build_timm, build_torchvision
from raykd.models.zoo.mlp import build_mlp
from raykd.models.zoo.onnx_graph import build_onnx
from raykd.models.zoo.resnet import build_resnet
from raykd.models.zoo.text_cnn import build_text_cnn
from raykd.models.zoo.text_transformer import build_text_transformer
from raykd.models.zoo.vit import build_vit
from raykd.models.zoo.wrn import build_wrn

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": build_mlp,
    "cnn": build_cnn,
    "resnet": build_resnet,
    "wrn": build_wrn,
    "vit": build_vit,
    "bag": build_bag,
    "text_cnn": build_text_cnn,
    "text_transformer": build_text_transformer,
    "factory": build_factory,
    "onnx": build_onnx,
    "torchscript": build_torchscript,
    "pt2": build_pt2,
    "sklearn": build_estimator,
    "torchvision": build_torchvision,
    "timm": build_timm,
    "hf": build_hf,
}
FILES = frozenset({"onnx", "torchscript", "pt2"})
"""Models that are a file, whose content is what they have of weights."""


def build_model(
    spec: Model,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    weights: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """The model that `spec` describes, with initial weights from torch's global generator.

    Args:
        spec: the settings of a model; each of its fields is an argument of the builder.
        input_shape: of one preprocessed sample, without the batch.
        classes: outputs of the model.
        key: dotted key of the model in the recipe (`student.model`), for errors.
        weights: its weights, where they are known: a model that is a file is made of them, so that the
            file need not be on every node, and no hub is asked; an estimator is fitted on them. They are not
            copied into others.

    Returns:
        A module on the CPU, in training mode.

    Raises:
        InputError: the settings and the input do not go together; the problem names the key.
    """
    knobs = {name: getattr(spec, name) for name in type(spec).model_fields if name != "type"}
    if weights is not None and spec.type in FILES:
        knobs["content"] = weights[CONTENT]
    if weights is not None and spec.type == "sklearn":
        knobs["examples"] = weights
    if weights is not None and "pretrained" in knobs:
        knobs["pretrained"] = type(spec).model_fields["pretrained"].default
    return MODELS[spec.type](input_shape=input_shape, classes=classes, key=key, **knobs)


__all__ = ["FILES", "MODELS", "build_model"]
