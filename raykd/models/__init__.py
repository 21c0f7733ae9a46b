"""Models: the zoo, preprocessing, taps, projectors, weights and freezing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn

from raykd.config.models import Model
from raykd.models.shapes import BuildContext

# A new kind is its settings, in the union `Model` of raykd/config/models.py, a function from these settings and a
# `BuildContext` to a module, in a file of its own, and a row here.
MODELS = {
    "mlp": "raykd.models.zoo.mlp:build_mlp",
    "cnn": "raykd.models.zoo.cnn:build_cnn",
    "resnet": "raykd.models.zoo.resnet:build_resnet",
    "wrn": "raykd.models.zoo.resnet:build_wrn",
    "vit": "raykd.models.zoo.vit:build_vit",
    "detector": "raykd.models.zoo.detector:build_detector",
    "bag": "raykd.models.zoo.texts:build_bag",
    "text_cnn": "raykd.models.zoo.texts:build_text_cnn",
    "text_transformer": "raykd.models.zoo.texts:build_text_transformer",
    "gru_lm": "raykd.models.zoo.causal:build_gru_lm",
    "transformer_lm": "raykd.models.zoo.causal:build_transformer_lm",
    "ngram": "raykd.models.zoo.ngram:build_ngram",
    "factory": "raykd.models.zoo.foreign:build_factory",
    "rule": "raykd.models.zoo.policies:build_rule",
    "privileged": "raykd.models.zoo.policies:refuse_privileged",
    "sb3": "raykd.models.zoo.sb3:build_sb3",
    "onnx": "raykd.models.zoo.onnx_graph:build_onnx",
    "torchscript": "raykd.models.zoo.exported:build_torchscript",
    "pt2": "raykd.models.zoo.exported:build_pt2",
    "sklearn": "raykd.models.zoo.estimator:build_estimator",
    "torchvision": "raykd.models.zoo.hubs:build_torchvision",
    "timm": "raykd.models.zoo.hubs:build_timm",
    "hf": "raykd.models.zoo.hubs:build_hf",
    "engine": "raykd.models.zoo.foreign:refuse_engine",
    "object": "raykd.models.zoo.objects:build_object",
}
"""`type` -> `module:function`, which is imported when it is asked for."""


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
        spec: the settings of a model.
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
    build: Callable[[Any, BuildContext], nn.Module] = resolve_name(MODELS[spec.type])
    context = BuildContext(input_shape, classes, key, weights)
    if context.gives_texts and not spec.may_take_texts:
        raise context.error(
            f"{spec.type} takes no texts; leave preprocess.tokenizer out, or name another tokenizer than none"
        )
    return build(spec, context)


__all__ = ["MODELS", "build_model"]
