"""`train:` and `teachers[].fit:`: optimizer, schedule, precision, stopping, checkpoints."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from raykd.config.base import Count, NonNegative, Positive, Seed, Settings, Unit


class Sgd(Settings):
    """Stochastic gradient descent with momentum."""

    type: Literal["sgd"] = "sgd"
    lr: Positive = 0.05
    """Learning rate at the top of the schedule."""
    momentum: Unit = 0.9
    """Momentum."""
    nesterov: bool = False
    """Nesterov momentum."""
    weight_decay: NonNegative = 5.0e-4
    """L2 penalty."""


class AdamW(Settings):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    lr: Positive = 1.0e-3
    """Learning rate at the top of the schedule."""
    betas: tuple[Unit, Unit] = (0.9, 0.999)
    """Decay of the running mean and variance."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""


Optimizer = Annotated[Sgd | AdamW, Field(discriminator="type")]


class ConstantSchedule(Settings):
    """The learning rate stays as it is after warm-up."""

    type: Literal["constant"] = "constant"
    warmup_epochs: NonNegative = 0
    """Linear rise from 0, in epochs."""


class CosineSchedule(Settings):
    """Half a cosine down to `floor` (Loshchilov & Hutter 2017)."""

    type: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 1
    """Linear rise from 0, in epochs."""
    floor: Unit = 0.0
    """Lowest learning rate as a part of the highest."""


class StepSchedule(Settings):
    """Multiply by `factor` at each milestone."""

    type: Literal["step"] = "step"
    warmup_epochs: NonNegative = 0
    """Linear rise from 0, in epochs."""
    milestones: tuple[Unit, ...] = (0.625, 0.75, 0.875)
    """When, as parts of all epochs (the CIFAR recipe: 150, 180, 210 of 240)."""
    factor: Unit = 0.1
    """By how much."""


Schedule = Annotated[ConstantSchedule | CosineSchedule | StepSchedule, Field(discriminator="type")]


class EarlyStopping(Settings):
    """End a fit whose validation metric stops improving."""

    patience_epochs: Count = 10
    """Epochs without a better value before stopping."""


ChoosingSamples = Literal["half", "all"]
LEAST_IN_A_HALF = 100
"""Labelled samples in each half of validation without which all of them choose the best epoch.

With fewer, the worse choice of the epoch costs more accuracy than the better temperature is worth: 0.1 to 0.4 points on
`digits`, with 50 samples in each half; none that could be told apart with 100 (CHANGELOG).
"""


LAST = "last"
"""`select`: no metric chooses the epoch."""


class Training(Settings):
    """How one model is trained."""

    added_later: ClassVar = frozenset({"select_on", "micro_batch_size", "deterministic"})
    epochs: Count = 30
    """Passes over the training part (for controls: as many updates as the student's)."""
    batch_size: Count = 128
    """Global batch size, split over the workers."""
    micro_batch_size: Count | None = None
    """Samples of a worker's part of a batch that go through the model at a time, where their activations do not fit into
    memory together; null = all. The gradient is that of the whole batch, whatever the objective compares in it, for one
    more forward pass; batch normalisation sees each part by itself."""
    optimizer: Optimizer | None = None
    """Optimizer and its settings; null = by the kind of model (raykd/models/README.md). With `lr` alone the rest is
    that kind's; with `type` and `lr` it is the type's own."""
    schedule: Schedule = CosineSchedule()
    """Learning-rate schedule, stepped after each update."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """bfloat16 = autocast; losses stay in float32. auto = bfloat16 where the fit has a GPU, else float32."""
    clip_norm: Positive | None = None
    """Clip the gradient's global norm."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is validated and kept."""
    compile: bool = False
    """`torch.compile` the model."""
    deterministic: bool = False
    """On a GPU only algorithms that add in the same order each time, so that the same fit on the same kind of card has the same
    bits; slower, and an operation without such an algorithm ends the fit. On CPUs it is so anyway."""
    early_stopping: EarlyStopping | None = None
    """null trains to the end."""
    select: str | None = None
    """Validation metric that chooses the best epoch; null = the task's own: accuracy (ties: the lower
    NLL), in regression RMSE (ties: the lower MAE), of embeddings map_10 (ties: recall_1), or the last epoch
    where validation has no labels. last = the last epoch, whatever validation says; so it is in control, where
    recorded actions do not tell what a policy earns."""
    select_on: ChoosingSamples | None = None
    """Which labelled samples of validation choose the best epoch. half = those that fit no temperature (a fixed half, by
    a hash of the id), so that what is calibrated has not been chosen by the same samples. all = every one. null = half
    where the task's answers have a temperature and both halves hold at least 100 labelled samples, else all."""
    checkpoint_every_epochs: Count = 1
    """How often the state for resuming is written."""


Part = Annotated[float, Field(gt=0, lt=1)]


class Fit(Training):
    """How a teacher is trained on the labels it may see."""

    added_later: ClassVar = Training.added_later | {"stop_at"}

    label_smoothing: Unit = 0.0
    """Label smoothing (Szegedy et al. 2016)."""
    seed: Seed | None = None
    """Initialisation and order; null derives one from the recipe's seed and the teacher's name."""
    freeze: tuple[str, ...] = ()
    """Module paths whose parameters stay as loaded (transfer learning)."""
    stop_at: Part | None = None
    """The part of its epochs after which it ends, with the weights that it has then; the schedule is that of all epochs.
    null = at the end, with the weights of the best epoch. Teachers that differ in nothing else are made by one fit."""
    lr_factors: dict[str, NonNegative] = Field(default_factory=dict)
    """Module path -> factor on the learning rate, e.g. `{layer1: 0.1}` for a slower backbone."""

    @property
    def last_epoch(self) -> int | None:
        """How many epochs there are where it ends before all of them."""
        return None if self.stop_at is None else max(1, round(self.stop_at * self.epochs))
