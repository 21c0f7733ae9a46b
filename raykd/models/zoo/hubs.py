"""Models of torchvision, timm and transformers; none of them is needed by anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from raykd.errors import InputError, Problem
from raykd.importing import load_package
from raykd.models.names import nearest

_VISION = "raykd[vision]"
_HF_CLASSES = {
    "image_classification": "AutoModelForImageClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
}


def build_torchvision(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    name: str,
    pretrained: str | None,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """`torchvision.models.get_model`.

    Args:
        input_shape: not passed on; these models take three channels.
        classes: outputs of the model, where they are not those of pretrained weights.
        key: dotted key of the model in the recipe, for errors.
        name: as torchvision calls it.
        pretrained: weights of its hub, such as DEFAULT; None = fresh ones.
        kwargs: more arguments.

    Raises:
        InputError: torchvision is not installed, has no such model, or its hub cannot be reached.
    """
    del input_shape
    models = load_package("torchvision.models", install=_VISION, key=key)
    _check_name(name, models.list_models(), key)
    given = {**({} if pretrained else {"num_classes": classes}), **kwargs}
    return _made(lambda: models.get_model(name, weights=pretrained, **given), key, bool(pretrained))


def build_timm(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    name: str,
    pretrained: bool,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """`timm.create_model`, with as many input channels as the preprocessed samples have.

    Args:
        input_shape: of one preprocessed sample.
        classes: outputs of the model, where they are not those of pretrained weights.
        key: dotted key of the model in the recipe, for errors.
        name: as timm calls it.
        pretrained: whether with the weights of its hub.
        kwargs: more arguments.

    Raises:
        InputError: timm is not installed, has no such model, or its hub cannot be reached.
    """
    timm = load_package("timm", install=_VISION, key=key)
    if ":" not in name:
        _check_name(name.partition(".")[0], timm.list_models(), key)
    given = {**({} if pretrained else {"num_classes": classes}), **kwargs}
    make = timm.create_model
    channels = input_shape[0]
    return _made(
        lambda: make(name, pretrained=pretrained, in_chans=channels, **given), key, pretrained
    )


def build_hf(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    key: str,
    name: str,
    task: str,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """A pretrained model of transformers; code of a hub's repository is never run.

    Args:
        input_shape: not looked at; a probe checks that the model runs on the data.
        classes: not looked at either.
        key: dotted key of the model in the recipe, for errors.
        name: a folder with `config.json` and `model.safetensors`, or a repository of the hub.
        task: what it is for.
        kwargs: more arguments of `from_pretrained`.

    Raises:
        InputError: transformers is not installed, there is no such folder and the hub cannot be reached.
    """
    del input_shape, classes
    transformers = load_package("transformers", install="raykd[hf]", key=key)
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    try:
        chosen = getattr(transformers, _HF_CLASSES[task])
        model: nn.Module = chosen.from_pretrained(source, trust_remote_code=False, **kwargs)
    except Exception as error:
        raise InputError(
            Problem(
                f"{key}.name",
                f"{name!r} cannot be loaded ({_short(error)}); where the hub cannot be reached give the path "
                "of a folder with config.json and model.safetensors",
            )
        ) from error
    return model


def _check_name(name: str, known: list[str], key: str) -> None:
    if name not in known:
        raise InputError(
            Problem(f"{key}.name", f"found {name!r}; nearest: {', '.join(nearest(name, known))}")
        )


def _made(make: Callable[[], Any], key: str, pretrained: bool) -> nn.Module:
    try:
        model: nn.Module = make()
    except Exception as error:
        if not pretrained:
            raise InputError(
                Problem(f"{key}.kwargs", f"the library refuses them ({_short(error)})")
            ) from error
        raise InputError(
            Problem(
                f"{key}.pretrained",
                f"these weights cannot be had ({_short(error)}); where the hub cannot be reached leave it out "
                "and give a local file as `weights` beside `model`",
            )
        ) from error
    return model


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
