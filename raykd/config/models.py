"""`model:` of `student:` and `teachers:`: the kinds of models, and what each is told."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from raykd.config.base import (
    Count,
    Depth,
    ImportPath,
    Json,
    Natural,
    Positive,
    Unit,
    Width,
)
from raykd.config.engines import EngineModel
from raykd.config.model_settings import ModelSettings

Norm = Literal["group", "batch"]


class ZooModel(ModelSettings):
    """A network of raykd itself."""

    rows_apart = True

    @property
    def is_harmless(self) -> bool:
        """It is."""
        return True


class MlpModel(ZooModel):
    """Multi-layer perceptron on the flattened input; 64·width units in each hidden layer."""

    type: Literal["mlp"] = "mlp"
    width: Width = 1.0
    """Scales the hidden layers: 1.0 is 64 units."""
    depth: Depth = 2
    """Hidden layers."""
    dropout: Unit = 0.0
    """Chance of dropping a hidden unit while training."""


class CnnModel(ZooModel):
    """Plain convolutional network: `depth` blocks of conv, norm, ReLU; resolution halves between them."""

    type: Literal["cnn"] = "cnn"
    width: Width = 1.0
    """Scales the channels: 1.0 is 32, 64, 128, ..."""
    depth: Depth = 3
    """Convolution blocks."""
    norm: Norm = "group"
    """Group norm gives the same result for any number of workers; batch norm does not."""
    dropout: Unit = 0.0
    """Chance of dropping a feature before the classifier while training."""


class ResnetModel(ZooModel):
    """CIFAR-style residual network (He et al. 2016, Sec. 4.2)."""

    type: Literal["resnet"] = "resnet"
    width: Width = 1.0
    """Scales the channels: 1.0 is 16, 32, 64."""
    depth: Depth = 20
    """Layers, 6n + 2: 8, 14, 20, 32, 44, 56, 110."""
    norm: Norm = "group"
    """Group norm gives the same result for any number of workers; batch norm does not."""


class WrnModel(ZooModel):
    """Wide residual network (Zagoruyko & Komodakis 2016); width is the widening factor k."""

    type: Literal["wrn"] = "wrn"
    width: Width = 2.0
    """Widening factor: channels are 16k, 32k, 64k."""
    depth: Depth = 16
    """Layers, 6n + 4: 10, 16, 22, 28, 40."""
    norm: Norm = "group"
    """Group norm gives the same result for any number of workers; batch norm does not."""
    dropout: Unit = 0.0
    """Chance of dropping a feature inside a block while training."""


class VitModel(ZooModel):
    """Small vision transformer (Dosovitskiy et al. 2021) with a class token."""

    type: Literal["vit"] = "vit"
    width: Width = 1.0
    """Scales the embedding: 1.0 is 64 with 4 heads."""
    depth: Depth = 4
    """Transformer blocks."""
    patch: Count = 4
    """Side of a patch, in pixels."""
    dropout: Unit = 0.0
    """Chance of dropping a feature while training."""


class DetectorModel(ZooModel):
    """An anchor-free detector with `task: detection`: a location at every fourth pixel, group norm, no boxes beforehand."""

    added_later = frozenset({"bins"})

    type: Literal["detector"] = "detector"
    width: Width = 1.0
    """Scales the channels: 1.0 is 8, then 16."""
    depth: Depth = 6
    """Residual blocks, of dilations 1, 2, 4, 1, 2, 4, ..."""
    norm: Norm = "group"
    """Group norm gives the same result for any number of workers; batch norm does not."""
    knows: Annotated[tuple[Natural, ...], Field(min_length=1)] | None = None
    """Numbers of the classes that it learns and speaks of, from 0; of the others it says nothing, not even that they are
    not there. null = all."""
    bins: Annotated[Count, Field(ge=2, le=256)] | None = None
    """Each edge of a box is a distribution over so many distances of 0, 4, 8, ... pixels, whose mean is the edge (Li et al.
    2020), as localisation distillation needs it (`objective.soft_targets.loss.localisation`); 4 · (bins − 1) pixels have to
    reach from the middle of the largest box to its edge. All detectors of a recipe have as many. null = one number."""


class BagModel(ZooModel):
    """Texts: the mean of the tokens' embeddings, then a perceptron; the order of tokens does not count."""

    takes_texts = True
    type: Literal["bag"] = "bag"
    width: Width = 1.0
    """Scales embeddings and hidden layers: 1.0 is 64 of each."""
    depth: Annotated[Natural, Field(le=10_000)] = 1
    """Hidden layers; 0 = the mean goes into the classifier (fastText)."""
    dropout: Unit = 0.0
    """Chance of dropping a feature of the mean, or a hidden unit, while training."""


class TextCnnModel(ZooModel):
    """Texts: convolutions over windows of 3, 4 and 5 tokens, the largest of each (Kim 2014)."""

    takes_texts = True
    type: Literal["text_cnn"] = "text_cnn"
    width: Width = 1.0
    """Scales embeddings and filters: 1.0 is 64 of each for each window."""
    depth: Depth = 1
    """Layers of convolution; those before the last see 3 tokens."""
    dropout: Unit = 0.0
    """Chance of dropping a feature before the classifier while training."""


class TextTransformerModel(ZooModel):
    """Texts: a small transformer encoder with learned positions; the mean of its tokens is classified."""

    takes_texts = True
    type: Literal["text_transformer"] = "text_transformer"
    width: Width = 1.0
    """Scales the embedding: 1.0 is 64 with 4 heads."""
    depth: Depth = 2
    """Transformer blocks."""
    dropout: Unit = 0.0
    """Chance of dropping a feature while training."""


class GruLmModel(ZooModel):
    """Tokens: a recurrent language model (Cho et al. 2014), for sequences of any length."""

    takes_tokens = True
    type: Literal["gru_lm"] = "gru_lm"
    width: Width = 1.0
    """Scales embeddings and layers: 1.0 is 128 of each."""
    depth: Depth = 1
    """Recurrent layers."""
    dropout: Unit = 0.0
    """Chance of dropping a feature behind each layer while training."""


class TransformerLmModel(ZooModel):
    """Tokens: a small transformer decoder with learned positions (Radford et al. 2019)."""

    takes_tokens = True
    type: Literal["transformer_lm"] = "transformer_lm"
    width: Width = 1.0
    """Scales the embedding: 1.0 is 64 with 4 heads."""
    depth: Depth = 2
    """Transformer blocks."""
    dropout: Unit = 0.0
    """Chance of dropping a feature while training."""


class NgramModel(ModelSettings):
    """Tokens: how often they follow each other, with Witten-Bell interpolation, as a teacher; counted in seconds."""

    takes_tokens = True
    made_of = "examples"
    type: Literal["ngram"] = "ngram"
    order: Annotated[Count, Field(le=63)] = 6
    """A token is predicted from the `order` − 1 tokens before it; at most 7 for bytes, 3 for 49,152 tokens."""


class FactoryModel(ModelSettings):
    """Your own function that returns an `nn.Module`, or, for a teacher, a function of arrays."""

    may_take_texts = True
    type: Literal["factory"] = "factory"
    path: ImportPath
    """`module:function`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Keyword arguments of the function."""

    @property
    def has_own_weights(self) -> bool:
        """It may have."""
        return True


class RuleModel(ModelSettings):
    """Your own function of states, as a teacher with `task: control`: no network, and no probabilities.

    `function(observations, **kwargs)` takes float32 [B, O] and returns the numbers of actions [B], or continuous actions
    [B, A].
    """

    short_for = "path"
    type: Literal["rule"] = "rule"
    path: ImportPath
    """`module:function`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Keyword arguments of the function."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Discrete actions: the probability of the action that it says; the others share the rest."""
    std: Positive = 0.1
    """Continuous actions: the standard deviation around what it says."""

    @property
    def has_own_weights(self) -> bool:
        """There are none to be loaded."""
        return True


class PrivilegedModel(ModelSettings):
    """Your own function of the simulator, as a teacher with `task: control`: it sees what observations do not show.

    `function(env, observation)`, with the unwrapped environment, is asked at every step that is rolled, and returns
    outputs: logits of the actions, or means and logarithms of the standard deviations.
    """

    short_for = "path"
    made_of = "content"
    type: Literal["privileged"] = "privileged"
    path: ImportPath
    """`module:function`."""


class Sb3Model(ModelSettings):
    """A policy of Stable-Baselines3 with vectors as observations, as a teacher: PPO, A2C, DQN, SAC or TD3.

    Only the weights (`policy.pth`, with weights_only) and the plain fields of `data` are read; nothing is unpickled, and
    Stable-Baselines3 is not needed.
    """

    short_for = "path"
    type: Literal["sb3"] = "sb3"
    path: str
    """The `.zip` that `model.save` wrote."""
    activation: Literal["tanh", "relu"] | None = None
    """Between the layers; null = what the file says, else that of its algorithm."""
    normalise: str | None = None
    """Statistics of VecNormalize: an `.npz` with `mean` [O] and `var` [O], and `epsilon` and `clip` where they are not
    1e-8 and 10."""
    std: Positive = 0.1
    """Standard deviation of a continuous policy that has none (TD3)."""

    @property
    def has_own_weights(self) -> bool:
        """It has."""
        return True


class OnnxModel(ModelSettings):
    """A graph in a file, as a teacher, computed on the CPU; taps are its float outputs, by name."""

    short_for = "path"
    made_of = "content"
    type: Literal["onnx"] = "onnx"
    path: str
    """The `.onnx` file; it has to be on the machine that starts the run."""
    output: str | None = None
    """The output that is the answer; null = `logits`, else the first one of floats."""


class TorchscriptModel(ModelSettings):
    """What `torch.jit.save` wrote, as a teacher, computed on the CPU; it has no taps."""

    short_for = "path"
    made_of = "content"
    type: Literal["torchscript"] = "torchscript"
    path: str
    """The file; it has to be on the machine that starts the run."""
    trusted: bool = False
    """Say true where you trust its origin: code in the file runs."""


class Pt2Model(ModelSettings):
    """What `torch.export.save` wrote, as a teacher, computed on the CPU; it has no taps."""

    short_for = "path"
    made_of = "content"
    type: Literal["pt2"] = "pt2"
    path: str
    """The file, exported in evaluation mode and with a dynamic batch."""
    trusted: bool = False
    """Say true where you trust its origin: code in the file may run."""


class SklearnModel(ModelSettings):
    """A scikit-learn estimator as a teacher, fitted on the labels that the teacher may see.

    It is fitted anew, on one thread, by each process that hosts it: what is kept are the training rows.
    """

    short_for = "path"
    made_of = "examples"
    may_take_texts = True
    type: Literal["sklearn"] = "sklearn"
    path: ImportPath
    """`module:Class`, such as `sklearn.ensemble:ExtraTreesClassifier`, or your own function that returns an
    estimator. Classes need its `predict_proba`."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """Its arguments. A `random_state` that is not given is derived from the recipe's seed."""


class TorchvisionModel(ModelSettings):
    """A model of torchvision; needs the extra `vision`."""

    rows_apart = True
    short_for = "name"
    type: Literal["torchvision"] = "torchvision"
    name: str
    """As `torchvision.models.list_models()` has it."""
    pretrained: str | None = None
    """Weights of its hub, such as DEFAULT; a local file goes into `weights` instead."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """More arguments of the model."""

    @property
    def has_own_weights(self) -> bool:
        """Of its hub."""
        return bool(self.pretrained)

    @property
    def is_harmless(self) -> bool:
        """As long as nothing else is named; weights of a hub are left out where a model is built for known weights."""
        return not self.kwargs and ":" not in self.name


class TimmModel(ModelSettings):
    """A model of timm, with as many input channels as its samples; needs the extra `vision`."""

    rows_apart = True
    short_for = "name"
    type: Literal["timm"] = "timm"
    name: str
    """As `timm.list_models()` has it."""
    pretrained: bool = False
    """With weights of its hub; a local file goes into `weights` instead."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """More arguments of the model."""

    @property
    def has_own_weights(self) -> bool:
        """Of its hub."""
        return bool(self.pretrained)

    @property
    def is_harmless(self) -> bool:
        """As long as nothing else is named; weights of a hub are left out where a model is built for known weights."""
        return not self.kwargs and ":" not in self.name


class HfModel(ModelSettings):
    """A pretrained classifier, encoder or language model of transformers; needs the extra `hf`."""

    rows_apart = True
    short_for = "name"
    type: Literal["hf"] = "hf"
    name: str
    """A folder (on every node) with `config.json` and `model.safetensors`, or a repository of the hub."""
    task: Literal["image_classification", "sequence_classification", "encoder", "causal"] = (
        "image_classification"
    )
    """What it is for; an encoder gives a vector for each text, with `task: embedding`; causal predicts the next token,
    with `task: language`."""
    pooling: Literal["mean", "first"] = "mean"
    """Of an encoder: the vector is the mean of a text's tokens (Reimers & Gurevych 2019), or its first one."""
    kwargs: dict[str, Json] = Field(default_factory=dict)
    """More arguments of `from_pretrained`."""

    @property
    def has_own_weights(self) -> bool:
        """It has."""
        return True


class ObjectModel(ModelSettings):
    """A fitted model of your own Python process, as a teacher of `raykd.run` and its kin; no recipe's file can hold it.

    As `model` give the object itself: an `nn.Module` (of Lightning or transformers, too), a pipeline of transformers,
    or a fitted estimator or pipeline of scikit-learn. It is given samples as they are, not normalised.
    """

    made_of = "object"
    may_take_texts = True
    type: Literal["object"] = "object"
    fingerprint: str
    """Hash of its class, settings and weights or fitted arrays, by which `resume` knows it again; found by raykd."""
    describes: str
    """What it is, in words; written by raykd."""
    library: Literal["torch", "sklearn"]
    """How it is asked: as a module, or by `predict_proba` or `predict`; found by raykd."""
    wants_texts: bool = False
    """Whether it takes texts, with a tokenizer of its own; found by raykd."""
    classes: tuple[str, ...] | None = None
    """Its own classes in order, where it says them; they are matched to the data's by name; found by raykd."""
    features: tuple[str, ...] | None = None
    """Columns that it was fitted on, where it says them; found by raykd."""
    columns: tuple[Natural, ...] | None = None
    """Places of its features among the samples' columns; found by raykd."""
    words: dict[Natural, tuple[str, ...]] = Field(default_factory=dict)
    """Place of a column of words among the samples' columns -> what its codes stand for; found by raykd."""
    answers: Literal["classes", "marks", "values"] | None = None
    """What an estimator is asked for; found by raykd."""


def expand_model(value: Any) -> Any:
    """Short forms: `resnet`, `onnx:FILE`, `timm:NAME`, and `pkg.module:function` for a factory."""
    if not isinstance(value, str):
        return value
    head, colon, rest = value.partition(":")
    if colon and head in _SHORT:
        return {"type": head, _SHORT[head]: rest}
    return {"type": "factory", "path": value} if colon else {"type": value}


# A new kind also needs its builder in raykd/models/__init__.py.
Model = Annotated[
    MlpModel
    | CnnModel
    | ResnetModel
    | WrnModel
    | VitModel
    | DetectorModel
    | BagModel
    | TextCnnModel
    | TextTransformerModel
    | GruLmModel
    | TransformerLmModel
    | NgramModel
    | FactoryModel
    | RuleModel
    | PrivilegedModel
    | Sb3Model
    | OnnxModel
    | TorchscriptModel
    | Pt2Model
    | SklearnModel
    | TorchvisionModel
    | TimmModel
    | HfModel
    | EngineModel
    | ObjectModel,
    Field(discriminator="type"),
    BeforeValidator(expand_model),
]
MODEL_KINDS: tuple[type[ModelSettings], ...] = get_args(get_args(Model)[0])
OF_TEXTS = tuple(kind for kind in MODEL_KINDS if kind.takes_texts)
OF_TOKENS = tuple(kind for kind in MODEL_KINDS if kind.takes_tokens)
FINISHED = tuple(kind for kind in MODEL_KINDS if kind.made_of != "weights")
"""Models into which nothing can be loaded, and which gradients cannot train: teachers only."""
_SHORT = {
    kind.model_fields["type"].default: kind.short_for for kind in MODEL_KINDS if kind.short_for
}


def is_harmless(model: Model) -> bool:
    """Whether a model that an artefact names can be built without running code, reading files or asking a hub."""
    return model.is_harmless


def brings_weights(model: Model | None) -> bool:
    """Whether a model has weights of its own."""
    return model is not None and model.has_own_weights
