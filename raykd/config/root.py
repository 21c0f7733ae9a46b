"""The whole recipe: what the student is held against, where targets are kept, what runs where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from raykd.config.base import (
    Count,
    Folds,
    Json,
    Name,
    Natural,
    NodeLabels,
    NonNegative,
    Positive,
    Real,
    Replicas,
    Seed,
    Settings,
    Workers,
    label_needs,
)
from raykd.config.data import Data, Preprocess
from raykd.config.models import Model, ObjectModel, expand_model
from raykd.config.objective import Objective
from raykd.config.peers import MaybePeers
from raykd.config.roles import Student, Teacher
from raykd.config.search import Search
from raykd.config.sources import ObjectSource
from raykd.config.stages import ELSEWHERE, Stage
from raykd.config.training import Training
from raykd.errors import InputError
from raykd.tasks import BUILT_IN, find_task

OwnControl = Literal["labels", "best_teacher", "hard", "untrained", "without_peers", "all_labels"]
Control = OwnControl | Literal["direct", "longer", "cloning", "rl"]


class Compared(Settings):
    """Another model, such as the one in use today. It is measured as the student is; nothing is learnt from it.

    An estimator (`sklearn`) is fitted on the labels within the budget.
    """

    added_later: ClassVar = frozenset({"prefix"})

    name: Name
    """Unique; used in tables and in summary.json."""
    model: Model
    """The network, or an estimator."""
    weights: str | None = None
    """A `.safetensors` file, or a checkpoint of torch or Lightning (loaded with weights_only)."""
    prefix: str | None = None
    """Of names in `weights`, as of a teacher."""
    label_map: tuple[Natural | str | None, ...] | None = None
    """As of a teacher: for each of its classes the data's class, by number or name, or null."""
    embedding: str | None = None
    """As of a teacher, with `task: embedding`: the module whose output is its vector; null = what it returns."""
    kind: Literal["logits", "probabilities", "log_probabilities", "top1"] = "logits"
    """What it returns; `top1` is the number of its class alone."""
    preprocess: Preprocess = Preprocess()
    """Its own input size, channels and normalisation."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of its forward pass."""

    def as_teacher(self) -> Teacher:
        """The same model as one that answers as teachers do."""
        return Teacher(**{name: getattr(self, name) for name in type(self).model_fields})


def _named(value: Any) -> Any:
    """A model alone is called after its file or its own name."""
    if isinstance(value, Mapping) and ("model" in value or "type" not in value):
        return value
    if not isinstance(value, str | Mapping):
        return value
    spec = expand_model(value)
    given = spec.get("name") or str(spec.get("path", "")).rpartition(":")[2] or spec.get("type")
    stem = re.sub(r"[^\w-]+", "_", PurePath(str(given)).stem)
    return {"name": stem if stem[:1].isalpha() else f"model_{stem}", "model": value}


class Slice(Settings):
    """Test samples of one class, or those of a column of the data set: one slice for each value or range."""

    name: str | None = None
    """What it is called; null = the column, or the class."""
    column: str | None = None
    """Column of the source (a factory gives `Dataset(columns={...})`)."""
    of_class: str | None = Field(default=None, alias="class")
    """Name of a class; of a multilabel task the samples that have this label."""
    values: tuple[bool | int | float | str, ...] | None = None
    """The values of the column that count; null = all of them, at most 20."""
    bins: Count | tuple[Real, ...] | None = None
    """For numbers: so many ranges with equally many samples, or the rising bounds between the ranges."""

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"class" if name == "of_class" else name: v for name, v in handler(self).items()}


class Evaluate(Settings):
    """What the student is held against."""

    added_later: ClassVar = frozenset({"episodes", "variants"})

    controls: tuple[Control, ...] = ("labels", "best_teacher", "hard")
    """The same student taught otherwise: labels alone, the best single teacher, hard labels. Of embeddings the
    best single teacher, and untrained: as it is before training. Of `peers` also `without_peers`: taught by the
    teachers as the recipe says, with no peer. Of `detection` with `data.labels` also `all_labels`: labels alone, and all
    there are, the ceiling. Of `stages` also the last student without the
    others, taught by the recipe's own teachers: `direct`, and `longer`, with as many updates as all stages have. Of
    stages with `rollouts` also `cloning`: taught by as many episodes of the teachers as there are of teachers and students
    together, with as many updates. With `data.source: {type: gymnasium}` also `rl`: the student trained by rewards alone
    (PPO of Stable-Baselines3, which has to be installed), for as many steps as its training has states."""
    compare: tuple[Annotated[Compared, BeforeValidator(_named)], ...] = ()
    """Other models, such as the one in use today, measured on the same samples; each a model, or
    `{name, model, weights, preprocess, label_map}`. Of `raykd run` alone."""
    slices: tuple[Slice, ...] = ()
    """Parts of test on which all is measured by itself: `{column: sex}`, `{column: age, bins: [18, 65]}`,
    `{class: cat}`. Of `raykd run` alone."""
    episodes: Count = 100
    """With `data.source: {type: gymnasium}`: episodes of every model in every variant, of common seeds that nothing else
    has; half as many others choose the best teacher of each variant. Of `raykd run` alone."""
    variants: dict[Name, dict[str, Json]] = Field(default={})
    """With `data.source: {type: gymnasium}`: more environments to be evaluated in, by name: the source's own, `nominal`,
    with these of its keys replaced (`kwargs` and `attributes` are merged). Of `raykd run` alone."""
    require: tuple[str, ...] = ()
    """Conditions on summary.json, e.g. `student.test.accuracy >= 0.9`; exit code 3 if one fails."""

    @property
    def own_controls(self) -> tuple[OwnControl, ...]:
        """The controls that are fits of the run itself: without those of a chain, and `rl`."""
        own = (name for name in self.controls if name not in ELSEWHERE)
        return cast("tuple[OwnControl, ...]", tuple(own))


class Targets(Settings):
    """The teachers' outputs: computed once and read, or computed live."""

    added_later: ClassVar = frozenset({"mass", "draws"})

    mode: Literal["auto", "stored", "write_through", "live"] = "auto"
    """stored: every view is scored once, before any student trains. write_through: once too, while the first
    student (of one worker) trains; a sweep scores ahead all the same. live: as it is needed, by every student
    anew. auto: live when each epoch shows new views or the disk has no room; else write_through when teachers
    and student have cores and GPUs of their own and scoring, at the speed measured, takes 30 s or more; else
    stored."""
    store: str | None = None
    """Folder of the target store; null = $RAYKD_HOME/targets, else .raykd/targets. Or s3://bucket/prefix (also
    gs://, file://): each node then reads from a mirror in $RAYKD_HOME/targets-of, brought once and checked.
    Credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL);
    ?endpoint_override=, ?region= and ?scheme= may be added."""
    depth: Count = 2
    """Batches asked for ahead of the student, in live mode."""
    full_up_to: Count = 1024
    """Classes up to which all logits of a training view are kept. Of more, the `top_k` largest are, and at
    each temperature what the others amount to; validation and test are always kept in full."""
    top_k: Count = 32
    """Classes kept of more than `full_up_to`."""
    mass: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of these `top_k` classes only as few as have this probability together, each time; what they leave out joins what
    the others amount to. null = all of them."""
    draws: Count | None = None
    """With `task: language`: so many tokens drawn from each teacher's probabilities are kept in place of the likeliest
    (Sparse Logit Sampling, Anshumann et al. 2025): right in the mean where `top_k` is not, and noisier. Only `kl` can be
    learnt from them, at temperature 1. null = the likeliest are kept."""
    temperatures: tuple[Positive, ...] | None = None
    """Temperatures at which top-k targets can be read, beside 1. null = those that the objective uses (its
    own times each teacher's): another one is then another entry of the store. Ignored where all is kept."""
    features: Literal["raw", "pooled", "int8"] = "raw"
    """raw: float16. pooled: the mean over positions, for losses that need no map. int8: one float32 scale
    per sample."""


class StudentCluster(Settings):
    """Resources of student training, per worker."""

    added_later: ClassVar = frozenset({"trainer", "node_labels", "strategy"})

    workers: Workers = 1
    """Data-parallel workers: so many, or [fewest, most], which a fit starts and restarts with as many of as
    there is room for then, beside live teachers and whatever else runs. Between two fits a smaller group
    grows to what there is room for by then. The global batches are the same whatever the number."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several workers hold the student: `ddp` each all of it, `fsdp` (FSDP2) each a part of every parameter, its gradient
    and its optimizer's state, for students too large for one GPU. The weights agree up to rounding. `fsdp` writes its checkpoints
    while it goes on (torch.distributed.checkpoint); the student that comes out is written whole."""
    cpus: Positive | None = None
    """CPUs per worker, which are its threads as well. null = 1, and of a large model more: a thread for each 100 million
    multiply-adds that its forward pass of a batch takes, up to 8 and to the CPUs of this machine; on a cluster at an address,
    on GPUs and beside live teachers 1. Decided when a run begins, and kept by --resume."""
    gpus: NonNegative = 0
    """GPUs per worker."""
    parallel_fits: Count | None = None
    """Fits trained side by side, each by a worker of its own. Null = as many as this machine has CPUs
    (and GPUs) for, at most 8; one on a cluster at an address, with live targets or several workers."""
    trainer: Literal["auto", "train"] = "auto"
    """What trains a fit of one worker: `auto` an actor, which starts at once; `train` Ray Train, one fit after the
    other. Several workers are always Ray Train's; a sweep's trial of one worker is always a process of Tune's."""
    node_labels: NodeLabels = Field(default={})
    """Labels of the nodes that workers may run on, such as {pool: students} or {ray.io/accelerator-type: "in(H100, H200)"};
    of a cluster at an address."""
    start_timeout_s: Positive = 300
    """How long to wait for the workers to start; of [fewest, most], for room for the fewest."""
    max_failures: Natural = 2
    """Restarts of the worker group, from the last checkpoint, before the run fails. Workers that do not start
    again in time count as a failure too. A node that is drained, as a spot instance is before it is taken back,
    counts as none: the group saves after the step that it is at and goes on elsewhere."""

    @property
    def uses_ray_train(self) -> bool:
        """Whether student fits are trained by Ray Train."""
        return self.trainer == "train" or self.most > 1

    @property
    def resources(self) -> dict[str, float]:
        """Of one worker, by Ray's names."""
        own = {"CPU": self.cpus_each, **({"GPU": self.gpus} if self.gpus else {})}
        return {**own, **label_needs(self.node_labels)}

    @property
    def cpus_each(self) -> float:
        """CPUs of one worker; 1 where that is still to be decided."""
        return 1 if self.cpus is None else self.cpus

    @property
    def threads(self) -> int:
        """Of torch, in one worker."""
        return max(1, int(self.cpus_each))

    @property
    def fewest(self) -> int:
        """Workers that there have to be."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """Workers that there may be."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class TeacherCluster(Settings):
    """Resources of teachers, per actor; `teachers[].resources` overrides."""

    added_later: ClassVar = frozenset({"where", "node_labels"})

    where: Literal["actor", "student"] = "actor"
    """actor: teachers are asked in processes of their own. student: while students train, each of their workers holds all
    teachers on its own device and asks them there, live and with the same bits: for features too large to move, and for
    machines with one GPU. They then have the student's CPUs and GPUs, and fail with its process."""
    replicas: Count = 1
    """Actors per teacher."""
    cpus: NonNegative = 1
    """CPUs per actor; fractions share a core."""
    gpus: NonNegative = 0
    """GPUs per actor; fractions share a GPU."""
    node_labels: NodeLabels = Field(default={})
    """Labels of the nodes that teachers may be fitted and hosted on, as of the student."""
    batch_size: Count = 64
    """The one fixed shape, in samples, that a teacher is run with; short batches are padded. With less than
    32 some models' answers differ in their last bits by a sample's position in the batch."""
    request_timeout_s: Positive = 30
    """Longest wait for one answer before another replica is asked."""
    start_timeout_s: Positive = 120
    """Longest wait for an actor to load its model."""
    max_restarts: Natural = 2
    """Restarts over one batch before its teacher counts as lost; 0 = an actor that dies stays dead."""
    on_failure: Literal["stop", "renormalise"] = "stop"
    """A lost teacher stops the run, or is left out with the other weights renormalised."""


class RolloutCluster(Settings):
    """Processes that roll episodes."""

    runners: Count | None = None
    """At a time; null = as many as train students side by side. The episodes are the same whatever the number."""
    cpus: Positive = 1
    """CPUs per process."""
    group_timeout_s: Positive = 600
    """A group of 16 episodes that takes longer hangs: its process is ended, and it is rolled again."""


class Cluster(Settings):
    """What runs where."""

    added_later: ClassVar = frozenset({"rollouts"})

    student: StudentCluster = StudentCluster()
    """Student training."""
    teachers: TeacherCluster = TeacherCluster()
    """Teacher actors and teacher fits."""
    rollouts: RolloutCluster = RolloutCluster()
    """Episodes of `task: control`."""

    @property
    def with_student(self) -> bool:
        """Whether students ask teachers in their own processes."""
        return self.teachers.where == "student"

    @property
    def hosting(self) -> TeacherCluster:
        """What a process that hosts a teacher has: of teachers in the student's own, what the student's worker has."""
        if not self.with_student:
            return self.teachers
        student = self.student
        own = {"cpus": student.cpus_each, "gpus": student.gpus, "node_labels": student.node_labels}
        return self.teachers.model_copy(update=own)


class Wandb(Settings):
    """Weights & Biases."""

    mode: Literal["offline", "online", "auto", "disabled"] = "offline"
    """auto: online where there is a key, else offline."""
    project: str = "raykd"
    """Project."""
    entity: str | None = None
    """Team or user; null = your default."""
    group: str | None = None
    """Group of runs."""
    tags: tuple[str, ...] = ()
    """Tags."""


class Tracking(Settings):
    """Who listens besides metrics.jsonl."""

    wandb: Wandb = Wandb()
    """Weights & Biases."""


def _task(name: str) -> str:
    """The name of a task that there is; one of the user's own is imported."""
    try:
        find_task(name)
    except InputError as error:
        raise PydanticCustomError("task", "{why}", {"why": error.problems[0].message}) from None
    return name


def _name_tasks(schema: dict[str, Any]) -> None:
    """A JSON schema's words for the names of tasks."""
    schema["anyOf"] = [{"enum": list(BUILT_IN)}, {"pattern": "^[A-Za-z_][\\w.]*:[A-Za-z_]\\w*$"}]


class Config(Settings):
    """A whole recipe. Every key has a default but `data.source`, `teachers` and `student`."""

    added_later: ClassVar = frozenset({"stages", "peers", "students"})

    task: Annotated[str, AfterValidator(_task), Field(json_schema_extra=_name_tasks)] = (
        "classification"
    )
    """What is learnt: one class of several, one value, several yes-or-no labels, or an embedding: vectors
    whose cosines say what is alike, from teachers' vectors and without labels. Or a task of your own, as
    `module:name`."""
    seed: Seed = 0
    """Fixes splits, label budget, views and teachers."""
    seeds: Replicas = 1
    """Paired replicas of student and controls: they differ in initialisation and order only."""
    folds: Folds | None = None
    """Cross-validation: so many runs, the i-th tested on the i-th part of the samples (stratified, or by
    `data.splits.by` group); teachers and students are trained on the other parts only. null: one run."""
    data: Data
    """Samples, splits, labels and views."""
    teachers: Annotated[tuple[Teacher, ...], Field(min_length=1)]
    """The ensemble."""
    student: Student
    """The small model."""
    students: dict[Name, dict[str, Json]] = Field(default={})
    """More students, by name: each is `student` with these of its keys replaced, such as `tiny: {model: {width: 0.2}}`.
    All of them see the same batches and learn from the same answers of the teachers, which are asked once. `student`
    stays the first: controls, requirements and the verdict are about it. Only `raykd run` and its stages."""
    objective: Objective = Objective()
    """What the student is taught."""
    peers: MaybePeers = None
    """Networks that learn from each other, the student one of them: `dml` in one process, `codistillation` as fits of
    their own; null = the student learns from teachers alone."""
    targets: Targets = Targets()
    """How the teachers' outputs reach it."""
    train: Training = Training()
    """How the student is trained."""
    cluster: Cluster = Cluster()
    """What runs where."""
    evaluate: Evaluate = Evaluate()
    """Controls and requirements."""
    tracking: Tracking = Tracking()
    """Trackers."""
    stages: tuple[Stage, ...] = ()
    """Recipes made of this one, run one after the other: the student of each may teach, or start, a later one, and the
    last one is what the run is about. Only `raykd run`; a single stage is the ordinary run."""
    search: Search | None = None
    """What `raykd sweep` varies; every other command leaves it aside."""

    @property
    def objects(self) -> dict[str, ObjectSource | ObjectModel]:
        """Dotted key -> an object of the user's process that stands there."""
        models = {f"teachers.{one.name}.model": one.model for one in self.teachers}
        models |= {f"evaluate.compare.{one.name}.model": one.model for one in self.evaluate.compare}
        every = {"data.source": self.data.source, **models}
        return {
            key: one for key, one in every.items() if isinstance(one, ObjectSource | ObjectModel)
        }
