"""Models of torchvision, timm and transformers; none of them is needed by anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.errors import InputError
from raykd.importing import load_package
from raykd.models.names import nearest
from raykd.models.shapes import TokenShape
from raykd.models.zoo.parts import refuse_texts

_VISION = "raykd[vision]"
_HF = "raykd[hf]"
_HF_CLASSES = {
    "image_classification": "AutoModelForImageClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
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
        input_shape: not passed on; these models take images of three channels.
        classes: outputs of the model, where they are not those of pretrained weights.
        key: dotted key of the model in the recipe, for errors.
        name: as torchvision calls it.
        pretrained: weights of its hub, such as DEFAULT; None = fresh ones.
        kwargs: more arguments.

    Raises:
        InputError: torchvision is not installed, has no such model, or its hub cannot be reached.
    """
    refuse_texts(input_shape, model="torchvision", key=key)
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
    refuse_texts(input_shape, model="timm", key=key)
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
    pooling: str,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """A pretrained model of transformers; code of a hub's repository is never run.

    Args:
        input_shape: of the ids of a text that the model's own tokenizer makes; else not looked at, and a probe
            checks that the model runs on the data.
        classes: not looked at either.
        key: dotted key of the model in the recipe, for errors.
        name: a folder with `config.json` and `model.safetensors`, or a repository of the hub.
        task: what it is for.
        pooling: of an encoder, `mean` or `first`.
        kwargs: more arguments of `from_pretrained`.

    Raises:
        InputError: transformers is not installed, there is no such folder and the hub cannot be reached;
            texts have another tokenizer.
    """
    del classes
    _check_tokens(input_shape, key)
    transformers = load_package("transformers", install=_HF, key=key)
    folder = Path(name).expanduser()
    source = str(folder) if folder.is_dir() else name
    transformers.utils.logging.disable_progress_bar()  # of reading a file, in every process that hosts it
    try:
        chosen = getattr(transformers, _HF_CLASSES[task])
        model: nn.Module = chosen.from_pretrained(source, trust_remote_code=False, **kwargs)
    except Exception as error:
        raise InputError.at(
            f"{key}.name",
            f"{name!r} cannot be loaded ({_short(error)}); where the hub cannot be reached give the path "
            "of a folder with config.json and model.safetensors",
        ) from error
    if isinstance(input_shape, TokenShape):
        known = getattr(model.config, "vocab_size", None)
        if known is not None and input_shape.vocabulary - 1 > known:
            raise InputError.at(
                f"{key}.name", f"has embeddings of {known:,} tokens, its tokenizer knows {input_shape.vocabulary - 1:,}; "
                "give the folder of the model's own as preprocess.tokenizer.path"
            )  # fmt: skip
        filler = getattr(model.config, "pad_token_id", None)
        model.register_forward_pre_hook(Unpadded(filler or 0), with_kwargs=True)
    if task != "encoder":
        return model
    if not isinstance(input_shape, TokenShape):
        raise InputError.at(
            f"{key}.task", f"is encoder, which takes texts; a sample here is {list(input_shape)}"
        )
    return Pooled(model, first=pooling == "first")


class Pooled(nn.Module):
    """A text's vector out of its tokens'.

    Args:
        encoder: from token ids [B, L], 0 as padding, to states [B, L, D] before anything else.
        first: whether it is the first token's; else the mean of those that are there (Reimers & Gurevych 2019,
            section 3).
    """

    def __init__(self, encoder: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self._first = first

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Float [B, D]."""
        states_BLD: Tensor = self.encoder(ids_BL)[0]
        if self._first:
            return states_BLD[:, 0]
        there_BL1 = (ids_BL != 0).unsqueeze(2).to(states_BLD.dtype)
        return (states_BLD * there_BL1).sum(dim=1) / there_BL1.sum(dim=1).clamp(min=1)


class Unpadded:
    """A hook that tells a model of transformers its token ids, and which of them are there.

    Args:
        filler: id that stands where none is.
    """

    def __init__(self, filler: int) -> None:
        self._filler = filler

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """From ids + 1 with 0 as padding, int64 [B, L], to `input_ids` and `attention_mask`."""
        del module
        (ids_BL,) = args
        there_BL = ids_BL != 0
        own_BL = torch.where(there_BL, ids_BL - 1, self._filler)
        return (), {**kwargs, "input_ids": own_BL, "attention_mask": there_BL.long()}


def _check_tokens(input_shape: tuple[int, ...], key: str) -> None:
    if isinstance(input_shape, TokenShape) and input_shape.kind != "hf":
        raise InputError.at(
            key, f"a model of transformers needs its own tokenizer, found {input_shape.kind}; set preprocess: "
            "{tokenizer: {type: hf, path: FOLDER}} beside it"
        )  # fmt: skip


def _check_name(name: str, known: list[str], key: str) -> None:
    if name not in known:
        raise InputError.at(
            f"{key}.name", f"found {name!r}; nearest: {', '.join(nearest(name, known))}"
        )


def _made(make: Callable[[], Any], key: str, pretrained: bool) -> nn.Module:
    try:
        model: nn.Module = make()
    except Exception as error:
        if not pretrained:
            raise InputError.at(
                f"{key}.kwargs", f"the library refuses them ({_short(error)})"
            ) from error
        raise InputError.at(
            f"{key}.pretrained",
            f"these weights cannot be had ({_short(error)}); where the hub cannot be reached leave it out "
            "and give a local file as `weights` beside `model`",
        ) from error
    return model


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
