"""Models of torchvision, timm and transformers; none of them is needed by anything else."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raykd.config.models import HfModel, TimmModel, TorchvisionModel
from raykd.errors import InputError
from raykd.importing import load_package
from raykd.models.causal import causal_shape, known_ids
from raykd.models.names import nearest
from raykd.models.shapes import BuildContext, TokenShape
from raykd.models.zoo.parts import refuse_texts, token_mean
from raykd.packaged import model_folder

_VISION = "raykd[vision]"
_HF = "raykd[hf]"
HF_CLASSES = {
    "image_classification": "AutoModelForImageClassification",
    "sequence_classification": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
    "causal": "AutoModelForCausalLM",
}


def build_torchvision(spec: TorchvisionModel, context: BuildContext) -> nn.Module:
    """`torchvision.models.get_model`.

    Raises:
        InputError: torchvision is not installed, has no such model, or its hub cannot be reached.
    """
    refuse_texts(spec, context)
    models = load_package("torchvision.models", install=_VISION, key=context.key)
    _check_name(spec.name, models.list_models(), context)
    weights = None if context.weights is not None else spec.pretrained
    given = {**({} if weights else {"num_classes": context.classes}), **spec.kwargs}

    def make() -> Any:
        return models.get_model(spec.name, weights=weights, **given)

    return _made(make, context, weights)


def build_timm(spec: TimmModel, context: BuildContext) -> nn.Module:
    """`timm.create_model`, with as many input channels as the preprocessed samples have.

    Raises:
        InputError: timm is not installed, has no such model, or its hub cannot be reached.
    """
    refuse_texts(spec, context)
    timm = load_package("timm", install=_VISION, key=context.key)
    if ":" not in spec.name:
        _check_name(spec.name.partition(".")[0], timm.list_models(), context)
    pretrained = spec.pretrained and context.weights is None
    given = {**({} if pretrained else {"num_classes": context.classes}), **spec.kwargs}
    channels = context.input_shape[0]

    def make() -> Any:
        return timm.create_model(spec.name, pretrained=pretrained, in_chans=channels, **given)

    return _made(make, context, pretrained)


def build_hf(spec: HfModel, context: BuildContext) -> nn.Module:
    """A pretrained model of transformers; code of a hub's repository is never run.

    Raises:
        InputError: transformers is not installed, there is no such folder and the hub cannot be reached;
            texts have another tokenizer.
    """
    if spec.task == "causal":
        _, vocabulary = causal_shape(spec, context)
        return HfCausal(_pretrained(spec, context), vocabulary, context)
    _check_tokens(context)
    model = _pretrained(spec, context)
    shape = context.input_shape
    if isinstance(shape, TokenShape):
        known, own = getattr(model.config, "vocab_size", None), shape.vocabulary - 1
        if known is not None and own > known:
            raise context.error(
                f"has embeddings of {known:,} tokens, its tokenizer knows {own:,}; "
                "give the folder of the model's own as preprocess.tokenizer.path",
                field="name",
            )
        filler = getattr(model.config, "pad_token_id", None)
        model.register_forward_pre_hook(Unpadded(filler or 0), with_kwargs=True)
    if spec.task != "encoder":
        return model
    if not isinstance(shape, TokenShape):
        raise context.error(
            f"is encoder, which takes texts; a sample here is {list(shape)}", field="task"
        )
    return Pooled(model, first=spec.pooling == "first")


def _pretrained(spec: HfModel, context: BuildContext) -> nn.Module:
    """The model in a folder or of a hub, with its weights."""
    model: nn.Module = from_hub(spec.name, spec.task, key=f"{context.key}.name", **spec.kwargs)
    return model


def from_hub(name: str, task: str, *, key: str, **settings: Any) -> Any:
    """A model of transformers with its weights; code of a folder or of a hub's repository is never run.

    Args:
        name: a folder with config.json and weights, a model of `raykd.packaged`, or a repository of the hub.
        task: what it is for, see `HfModel`.
        key: dotted key of the recipe that holds the name, for errors.
        settings: more arguments of `from_pretrained`.

    Raises:
        InputError: transformers is not installed, or there is no such folder and the hub cannot be reached.
    """
    transformers = load_package("transformers", install=_HF, key=key.rpartition(".")[0])
    folder = Path(model_folder(name, key=key)).expanduser()
    source = str(folder) if folder.is_dir() else name
    transformers.utils.logging.disable_progress_bar()  # of reading a file, in every process that hosts it
    try:
        chosen = getattr(transformers, HF_CLASSES[task])
        return chosen.from_pretrained(source, trust_remote_code=False, **settings)
    except Exception as error:
        if why := unfit_torchvision():
            raise InputError.at(key, f"{name!r} cannot be loaded: {why}") from error
        raise InputError.at(
            key,
            f"{name!r} cannot be loaded ({_short(error)}); where the hub cannot be reached give the path of a folder "
            "with config.json and model.safetensors",
        ) from error


def unfit_torchvision() -> str | None:
    """Why torchvision cannot be imported, which transformers imports wherever it is installed; None where nothing is wrong.

    A wheel of another build of torch fails with words that name neither of them.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        load_package("torchvision", install="raykd[vision]", key="torchvision")
    except InputError as error:
        return (
            f"torchvision, which transformers imports where it is installed, does not fit torch {torch.__version__} "
            f"({_short(error.__cause__ or error)}); install the build for this torch, or `pip uninstall torchvision`"
        )
    return None


class HfCausal(nn.Module):
    """A causal language model of transformers, see `raykd.models.causal`.

    Args:
        model: as transformers loads it.
        vocabulary: V, tokens that there are; a model may have embeddings of more, which are left out.
        context: for errors.

    Raises:
        InputError: it knows fewer tokens.
    """

    def __init__(self, model: Any, vocabulary: int, context: BuildContext) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        if len(head.weight) < vocabulary:
            raise context.error(
                f"knows {len(head.weight):,} tokens, the samples have {vocabulary:,}; data.tokens.tokenizer has to be the "
                "model's own",
                field="name",
            )
        self.model: Any = model
        self._vocabulary = vocabulary

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """[B, L] -> [B, L, V]."""
        logits_BLV: Tensor = self.model(input_ids=known_ids(tokens_BL), use_cache=False).logits
        return logits_BLV[..., : self._vocabulary]

    def hidden(self, tokens_BL: Tensor) -> Tensor:
        """What the head takes, [B, L, D]."""
        states_BLD: Tensor = self.model.base_model(
            input_ids=known_ids(tokens_BL), use_cache=False
        ).last_hidden_state
        return states_BLD

    def head_weights(self) -> tuple[Tensor, Tensor | None]:
        """Weights [V, D] and bias [V] of the head.

        Raises:
            ValueError: logits are more than a linear map of the states (a cap, a scale), as its configuration says.
        """
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
            if getattr(self.model.config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"the model has {name}: its logits are not a linear map of its hidden states"
                )
        head = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return head.weight[: self._vocabulary], None if bias is None else bias[: self._vocabulary]


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
        return token_mean(states_BLD, ids_BL != 0)


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


def _check_tokens(context: BuildContext) -> None:
    shape = context.input_shape
    if isinstance(shape, TokenShape) and shape.kind != "hf":
        raise context.error(
            f"a model of transformers needs its own tokenizer, found {shape.kind}; set preprocess: "
            "{tokenizer: {type: hf, path: FOLDER}} beside it"
        )


def _check_name(name: str, known: list[str], context: BuildContext) -> None:
    if name not in known:
        near = ", ".join(nearest(name, known))
        raise context.error(f"found {name!r}; nearest: {near}", field="name")


def _made(
    make: Callable[[], Any], context: BuildContext, pretrained: str | bool | None
) -> nn.Module:
    try:
        model: nn.Module = make()
    except Exception as error:
        if not pretrained:
            why = f"the library refuses them ({_short(error)})"
            raise context.error(why, field="kwargs") from error
        raise context.error(
            f"these weights cannot be had ({_short(error)}); where the hub cannot be reached leave it out "
            "and give a local file as `weights` beside `model`",
            field="pretrained",
        ) from error
    return model


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
