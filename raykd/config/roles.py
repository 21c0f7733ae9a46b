"""`student:` and `teachers:`: which models, where their weights come from, what they may use."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.config.base import (
    Count,
    Json,
    License,
    Name,
    Natural,
    NodeLabels,
    NonNegative,
    Positive,
    Real,
    Seed,
    Settings,
    Unit,
)
from raykd.config.data import Preprocess
from raykd.config.models import Model
from raykd.config.training import Fit

SnapshotPart = Annotated[float, Field(gt=0, le=1)]
REPLICA = "{replica}"
"""In `student.weights`: the number of the replica that starts from them."""


class TeacherResources(Settings):
    """Overrides of `cluster.teachers` for one teacher; null keeps the cluster's setting."""

    added_later: ClassVar = frozenset({"node_labels", "device_map"})

    replicas: Count | None = None
    """Actors that host this teacher."""
    cpus: NonNegative | None = None
    """CPUs per actor; fractions share a core."""
    gpus: NonNegative | None = None
    """GPUs per actor; fractions share a GPU."""
    device_map: (
        Literal["auto", "balanced", "sequential"] | dict[str, Natural | Literal["cpu"]] | None
    ) = None
    """Of a model of transformers that is too large for one GPU: which of its layers lie on which GPU of its actor, as
    transformers has it. `balanced` (`auto`): alike on all of them; `sequential`: one after the other is filled; or path of a
    module -> number of the GPU, from 0, or cpu. Needs `raykd[large]`. null = all on one."""
    batch_size: Count | None = None
    """The one fixed shape, in samples, that this teacher is run with."""
    node_labels: NodeLabels | None = None
    """Labels of the nodes that this teacher may be fitted and hosted on."""
    runtime_env: dict[str, Json] | None = None
    """Ray runtime environment of this teacher's actors."""


class Expect(Settings):
    """What a teacher must reach on labelled validation samples before any student trains."""

    added_later: ClassVar = frozenset({"bits_per_byte", "ap"})

    accuracy: Unit | None = None
    """Least accuracy (in multilabel: share of right label decisions)."""
    rmse: Positive | None = None
    """Largest root mean squared error, in the target's unit; regression."""
    r2: Real | None = None
    """Least R²; regression."""
    recall_1: Unit | None = None
    """Least share of samples whose nearest neighbour is of their class; embedding."""
    bits_per_byte: Positive | None = None
    """Most bits per byte, mean over the domains; language."""
    ap: Unit | None = None
    """Least mean average precision over IoU 0.50 to 0.95; detection."""


class Teacher(Settings):
    """One frozen model of the ensemble."""

    added_later: ClassVar = frozenset(
        {"prefix", "domains", "head", "snapshots", "stage", "teaches", "categories"}
    )

    name: Name
    """Unique; used in keys, tables and files."""
    model: Model | None = None
    """The network; not needed with `outputs`."""
    fit: Fit | None = None
    """Train it on this recipe's data (starting from `weights` when both are given)."""
    snapshots: Annotated[tuple[SnapshotPart, ...], Field(min_length=1)] | None = None
    """Several teachers out of one fit: its weights after these parts of its epochs, such as [0.5, 0.75, 1.0]. Those of 1.0
    are the best epoch's and keep the name; the others are called `<name>_at50`, `<name>_at75`."""
    weights: str | None = None
    """A `.safetensors` file, or a checkpoint of torch or Lightning (`.pt`, `.pth`, `.bin`, `.ckpt`; loaded with
    weights_only); `dist:NAME/FILE` is a file of an installed distribution."""
    prefix: str | None = None
    """Take only the entries of `weights` whose names begin with it, and leave it off, such as `model.`; null finds
    out itself where the model's own stand behind one."""
    outputs: str | None = None
    """A file with `ids` and `logits` (or `probabilities`; in regression `values`, of embeddings
    `embeddings`): a teacher without a model. With `task: detection` a results file of COCO, a JSON list of `image_id`,
    `category_id`, `bbox` and `score`."""
    categories: Annotated[dict[int, Natural | str | None], Field(min_length=1)] | None = None
    """With `outputs` of `task: detection`: the data's class, by number from 0 or by name, of each `category_id` in the
    file; null for one that is none of them. The teacher knows the classes that are named here, and of the others says
    nothing, not even that they are not there. null = the data's own ids (of a COCO file its categories', else the
    classes counted from 1), and it knows all."""
    domains: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The domains that it is for: with `task: language` those of the texts, of policies the simulators of `data.source` (its
    own environment is `nominal`). Where it is fitted here it sees samples of these alone, and the weighting `routed` asks
    it about theirs; null = all."""
    labels: Literal["budget", "all", "rest"] = "budget"
    """Which labels it may be fitted on: the same budget as everyone, or all of the training part. rest: with
    `data.tokens.pool`, the documents that students do not learn from alone. A teacher that has seen the pool knows it by
    heart, and says little more of it than the pool itself."""
    temperature: Positive | Literal["fit", "entropy"] = 1.0
    """Multiplies `objective.soft_targets.temperature`; `fit` calibrates it on half of the
    validation labels. That is before the teachers are mixed: `objective.soft_targets.sharpen` acts after it, which is
    what a mixture needs. `entropy`, for Q-values, whose scale is that of the rewards: the temperature at which the mean
    entropy of its answers is that of the teachers with another temperature (of none: a tenth of the largest there is)."""
    label_map: tuple[Natural | str | None, ...] | None = None
    """For each of the teacher's classes, in order, the data's class: its number, its name, or null for none
    of them. Several may stand for one class. Of classes that none stands for it says nothing: it is
    compared with the student renormalised over those that it knows."""
    embedding: str | None = None
    """With `task: embedding`: the module whose output is its vector, as `raykd inspect` prints it; null = what
    the model returns. With `fit` or with a model of the zoo, the model is a classifier of the labels."""
    head: str | None = None
    """The module that is its last linear layer, as `raykd inspect` prints it: its weights go to where the student is
    trained, for the loss srrl and for `objective.feature_weighting: heads`."""
    kind: Literal["logits", "probabilities", "log_probabilities", "top1"] = "logits"
    """What the model returns, or what `outputs` holds; `top1` is the number of its class alone, which counts as certain."""
    preprocess: Preprocess = Preprocess()
    """Its own input size, channels and normalisation, or tokenizer."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of its forward pass."""
    expect: Expect = Expect()
    """Refused, before any student trains, when it does worse."""
    license: License | None = None
    """Of its weights, for the student's model card, such as apache-2.0; null = not stated."""
    resources: TeacherResources = TeacherResources()
    """Overrides of `cluster.teachers`."""
    stage: Name | None = None
    """The stage of this recipe whose student it is; written by raykd."""
    teaches: Natural | None = None
    """The one replica of the student, and of its controls, that learns from it; null = all; written by raykd."""

    @property
    def learns(self) -> bool:
        """Whether it is fitted here, on labels of this data."""
        return self.fit is not None or (self.model is not None and self.model.made_of == "examples")

    @property
    def is_ours(self) -> bool:
        """Whether it was made from this data: it computes in the data's unit, and has seen what labels there are."""
        return self.learns or self.stage is not None

    def is_heard_by(self, replica: int) -> bool:
        """Whether a replica of the student learns from it."""
        return self.teaches is None or self.teaches == replica


class Limits(Settings):
    """Sizes that the student must keep; null = no limit."""

    parameters: Count | None = None
    """Most trainable parameters."""
    size_mb: Positive | None = None
    """Most megabytes (10^6 bytes) of weights."""


class Student(Settings):
    """The small model that is to be as good as the ensemble."""

    added_later: ClassVar = frozenset({"prefix", "learns_from", "seed"})

    model: Model
    """The network."""
    preprocess: Preprocess = Preprocess()
    """Its own input size, channels and normalisation, or tokenizer."""
    weights: str | None = None
    """Start from these weights (same formats as a teacher's); `{replica}` in it stands for the replica's number, so that
    each replica starts from a file of its own."""
    prefix: str | None = None
    """Of names in `weights`, as of a teacher."""
    license: License | None = None
    """Under which it is given away, for its model card, such as apache-2.0; null = unknown."""
    limits: Limits = Limits()
    """What it must keep to."""
    dimension: Count | None = None
    """Length of its vectors, with `task: embedding`."""
    learns_from: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """With `data.transfer`: the sets whose samples it learns from, by name, `own` for the recipe's own; null = all of
    them (without `own` where `data.transfer.replace`). The control `labels` has the own samples all the same."""
    seed: Seed | None = None
    """From which those of its replicas, and of its controls', are derived; null = the recipe's `seed`."""
