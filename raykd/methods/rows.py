"""What the rows of the two tables say: of a loss, of a weighting, and of a knob of either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Literal

Kind = Literal["logits", "features", "pairs", "values", "labels", "gaussians", "boxes"]
Combine = Literal[
    "probabilities",
    "probabilities_then_temper",
    "logits",
    "losses",
    "values",
    "relations",
    "sampled",
    "routed",
    "locations",
    "boxes",
]
Layout = Literal["projected", "dense", "positions", "matrices", "pairs", "any"]


@dataclass(frozen=True)
class Knob:
    """One setting of a loss or weighting.

    Attributes:
        default: the paper's; None = may be left out, ... = must be given.
        doc: one line for the recipe.
        gt: a number is above this.
        ge: a number is at least this.
        lt: a number is below this.
        le: a number is at most this.
        choices: the texts that it may be; without any it is a number, or a bool if its default is one.
        per_teacher: a mapping of teachers' names to such values.
        argument: it is handed to the function as it stands; otherwise the objective acts on it.
        later: it came after runs with this loss: at its default, what they did is not done again.
    """

    default: float | bool | str | EllipsisType | None
    doc: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    choices: tuple[str, ...] = ()
    per_teacher: bool = False
    argument: bool = True
    later: bool = False


@dataclass(frozen=True, kw_only=True)
class LossRow:
    """One loss.

    `combines` says how it can take several teachers, the usual way first: as one target (mean of
    probabilities, of logits, of values, of relations between samples; of one teacher for each sample, which is `sampled` or
    `routed`), where that has the gradient of
    the weighted sum of the teachers' own losses or is meant in its own right; or as that sum (`losses`).

    Layouts of features: `projected` brings the student to the teacher's shape by a trained linear map;
    `dense` does, too, and needs a map or tokens on the teacher's side; `positions` needs two maps [C, H, W] or two rows of tokens [L, D], whatever their widths; `matrices`
    two stacks of attention [H, L, L]; `pairs` two taps of equal widths on each side; `any` anything.

    Attributes:
        path: `module:function`; the function takes student, teacher and keywords and gives loss_N.
        kind: what is compared: logits [N, C], features, pairs of features, values [N] / [N, D], logits
            of yes-or-no labels [N, K], or Gaussians [N, 2A] (means, then logarithms of standard deviations).
        about: what a recipe says of it.
        formula: the mean of loss_N, one line of plain text.
        paper: authors, year and place in the paper.
        knobs: its settings, in the order in which a recipe is written.
        combines: see above.
        layout: see above.
        vectors: it also compares whole vectors, as the soft targets of embeddings.
        state: what the objective keeps for it: a learnt `variance` of each channel, or running
            `statistics` of the teacher's.
        default_weight: weight of the term that the paper or its benchmark uses.
        stored: works from stored targets (no live teacher needed).
        needs: keyword arguments without which the loss cannot be computed.
        masked: whether it takes `mask_BP`, how much each position of a map counts.
        default_temperature: T where a recipe gives none; None = what the data says.
        tempers: whether the recipe's temperature acts on it; otherwise that must be 1.
        refused: why no recipe can use it, or None: it is a function alone.
    """

    path: str
    kind: Kind
    about: str
    formula: str
    paper: str
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    combines: tuple[Combine, ...] = ("losses",)
    layout: Layout = "any"
    vectors: bool = False
    state: Literal["variance", "statistics"] | None = None
    default_weight: float = 1.0
    stored: bool = True
    needs: tuple[str, ...] = ()
    masked: bool = False
    default_temperature: float | None = None
    tempers: bool = True
    refused: str | None = None

    @property
    def projects(self) -> bool:
        """Whether the student's feature goes through a trained projector."""
        return self.layout in ("projected", "dense")

    @property
    def scope(self) -> bool:
        """Whether it accepts `gather`, to compare the local rows with those of all workers."""
        return "scope" in self.knobs

    @property
    def per_sample(self) -> bool:
        """Whether loss_N of one sample does not depend on the other samples."""
        return not self.scope


@dataclass(frozen=True, kw_only=True)
class WeightingRow:
    """One weighting.

    Attributes:
        path: `module:function`; the function takes the teachers' logits, labels and keywords.
        about: what a recipe says of it.
        formula: the weight of teacher k, before it is normalised, one line of plain text.
        paper: authors and year, or what it is.
        knobs: its settings, in the order in which a recipe is written.
        needs: arguments without which it cannot be computed (`labels`: without them it is uniform).
        stored: works from stored targets alone (no live student needed).
        supplied: arguments that the objective supplies besides the knobs and what is needed.
        random: the weights are drawn.
        looks: at the teachers' logits; otherwise only their shape counts.
        paper_scale: of K teachers, the factor on the soft targets in the authors' code; applied where
            the knob `paper_code_scale` is true.
        sequences: it weighs the units of sequences, by what stands before them.
    """

    path: str
    about: str
    formula: str
    paper: str
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()
    stored: bool = True
    random: bool = False
    looks: bool = True
    sequences: bool = False
    paper_scale: Callable[[int], float] | None = None

    @property
    def for_all_tasks(self) -> bool:
        """Whether it needs neither sequences nor domains."""
        return not self.sequences and "route_N" not in self.supplied
