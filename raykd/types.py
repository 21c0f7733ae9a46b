"""What the layers hand to each other: batches, and what teachers say of them.

Shape suffixes, here and everywhere: B batch (samples), N units (N = B in classification), T teachers,
C classes (or labels, or the one value of a regression), K labels, H/W height and width, L length, D features, R replicas, P pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

OutputKind = Literal["logits", "value", "label_logits", "embedding"]
UNLABELLED = -1
TEXT = "text"
"""Name of the input that holds texts: uint8 [N, L], UTF-8, padded with zeros behind the text."""
CHUNKS = "chunks"
"""Name of the input that holds chunks of tokens: integers [N, 2, L], the ids, and 1 where a token is to be predicted.

Behind a chunk's end both are 0.
"""
UNKNOWN_WORD = -1
"""Code of a word that a table's column of words does not know."""
ORIGINAL_VIEW = -1


def host_sees(values: Tensor) -> bool:
    """Whether the host can look at numbers at once; for a GPU's it would have to wait, which ends the overlap of the two.

    What branches on numbers asks here first, and takes the branch that is right for all numbers where it cannot see them.
    """
    return values.device.type == "cpu"


@overload
def is_labelled(labels: Tensor) -> Tensor: ...
@overload
def is_labelled(labels: np.ndarray) -> np.ndarray: ...
def is_labelled(labels: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Which samples have a label, bool [N]; the one place that knows how a missing label looks.

    Args:
        labels: classes [N] or marks [N, K], integers, −1 where unlabelled; values [N], floats, NaN
            where unlabelled.
    """
    if isinstance(labels, Tensor):
        known = ~labels.isnan() if labels.is_floating_point() else labels != UNLABELLED
        return known if known.ndim == 1 else known.all(1)
    present = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != UNLABELLED
    return np.asarray(present if present.ndim == 1 else present.all(1))


@dataclass(frozen=True)
class Scale:
    """The unit of a regression: models compute in standard deviations from the mean.

    Attributes:
        mean: of the labelled training values.
        std: their standard deviation, above 0.
    """

    mean: float
    std: float

    def standardised(self, values: Tensor) -> Tensor:
        """Values in original units as standard deviations from the mean."""
        return (values - self.mean) / self.std

    def restored(self, values: Tensor) -> Tensor:
        """Standardised values in original units, float32."""
        return values.float() * self.std + self.mean


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Labels of the partners that mixup or cutmix blended in.

    Attributes:
        partner_labels_B: int64 [B], −1 where the partner is unlabelled.
        share_B: float32 [B] in [0, 1], the sample's own share of the blend.
    """

    partner_labels_B: Tensor
    share_B: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples in source space, before any model's preprocessing.

    Attributes:
        ids: int64 [B], stable sample ids.
        rows: int64 [B], positions in the source's canonical order.
        view_B: int64 [B], the view shown of each sample; −1 is the untransformed sample.
        inputs: name -> tensor [B, ...].
        labels: int64 [N], −1 where unlabelled; in regression float32 [N] in original units, NaN where
            unlabelled; in multilabel int64 [N, K] of 0 and 1, rows of −1 where unlabelled. Of embeddings
            classes, to judge by. Of a language int64 [N, 4], see `raykd.data.chunks`.
        present_B: bool [B]; False marks padding, which counts in no term.
        mixed: partners' labels, when a view policy blends samples.
        weight_B: float32 [B], sample weights; None means all ones.
        unit_offsets: int64 [B + 1], rising from 0 to N: sample b has the units `unit_offsets[b]` to
            `unit_offsets[b + 1]`; None means that each sample is one unit.
        generated_B: bool [B], which samples the student has written itself: what their labels say is no label to learn
            from; None means that it wrote none.
        domain_B: int64 [B], the number of the domain that each sample is from, −1 where that is unknown; None where
            samples are of no domain.
    """

    ids: Tensor
    rows: Tensor
    view_B: Tensor
    inputs: Mapping[str, Tensor]
    labels: Tensor
    present_B: Tensor
    mixed: Mixed | None = None
    weight_B: Tensor | None = None
    unit_offsets: Tensor | None = None
    generated_B: Tensor | None = None
    domain_B: Tensor | None = None

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def sample_of_N(self) -> Tensor:  # noqa: N802 - one for each unit
        """The place in the batch of the sample that each unit belongs to, int64 [N]."""
        return self.per_unit(torch.arange(len(self), device=self.rows.device))

    def per_unit(self, values_B: Tensor) -> Tensor:
        """What is said of samples [B, ...] said of each of their units [N, ...]; as it is where these are the same."""
        if self.unit_offsets is None:
            return values_B
        return values_B.repeat_interleave(
            self.unit_offsets.diff(), dim=0, output_size=len(self.labels)
        )

    @property
    def given_N(self) -> Tensor | None:  # noqa: N802 - one for each unit
        """Which units are of samples that the student has not written, bool [N]; None where it wrote none."""
        return None if self.generated_B is None else self.per_unit(~self.generated_B)

    def units_of(self, sizes: Sequence[int]) -> list[int]:
        """How many units each of the batch's parts has that have so many samples."""
        if self.unit_offsets is None:
            return list(sizes)
        ends = torch.tensor([0, *sizes], device=self.unit_offsets.device).cumsum(0)
        return [int(count) for count in self.unit_offsets[ends].diff().tolist()]

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`; copies nothing when they are there already."""

        def move(tensor: Tensor) -> Tensor:
            if device.type == "cuda" and not tensor.is_cuda and not tensor.is_pinned():
                tensor = tensor.pin_memory()  # from other memory a copy is waited for
            return tensor.to(device, non_blocking=True)

        mixed = self.mixed and Mixed(
            partner_labels_B=move(self.mixed.partner_labels_B), share_B=move(self.mixed.share_B)
        )
        return Batch(
            ids=self.ids,
            rows=self.rows,
            view_B=self.view_B,
            inputs={name: move(tensor) for name, tensor in self.inputs.items()},
            labels=move(self.labels),
            present_B=move(self.present_B),
            mixed=mixed,
            weight_B=None if self.weight_B is None else move(self.weight_B),
            unit_offsets=None if self.unit_offsets is None else move(self.unit_offsets),
            generated_B=None if self.generated_B is None else move(self.generated_B),
            domain_B=None if self.domain_B is None else move(self.domain_B),
        )


@dataclass(frozen=True, kw_only=True)
class Dense:
    """One teacher's answer with a value for every class.

    Attributes:
        kind: what the values are; `logits` are known up to a constant per row, `label_logits` are
            one logit for each label, `value` is in the target's original units, `embedding` is a vector of
            the teacher's own length.
        values_NC: float32 [N, C], in the order of the student's classes or labels; [N, 1] for `value`, [N, D]
            for `embedding`.
        valid_N: bool [N]; False where this teacher gave no answer.
        features: tap -> tensor [B, ...], as the teacher's module gave it.
        offsets: int64 [B + 1], where each sample's units begin and end; None where each sample is one unit.
    """

    kind: OutputKind
    values_NC: Tensor
    valid_N: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class TopK:
    """One teacher's answer with the probabilities of its likeliest classes, and what all others amount to.

    A class that is kept has the probability that it has among all classes, so that nothing is renormalised.
    Units that keep fewer than K classes are padded: log-probability −∞, and the id of their first class.
    What is made of it is in `raykd.top_k`.

    Attributes:
        classes: V, how many classes there are.
        ids_NK: int64 [N, K], classes from 0 to V − 1, each once; the likeliest first.
        log_probs_NK: float32 [N, K], log p of these classes at temperature 1, natural logarithm.
        tail: temperature T -> float32 [N], log Σ p^(1/T) over the classes that are not kept, −∞ where
            there is none. It is kept, and not the log-sum-exp of all
            classes, because a difference would leave no digits for a small rest. 1 is always among the
            temperatures. None: classes that are not kept have probability 0, at any temperature.
        valid_N: bool [N]; False where this teacher gave no answer.
        features: tap -> tensor [B, ...], as the teacher's module gave it.
        offsets: int64 [B + 1], where each sample's units begin and end; None where each sample is one unit.

    Raises:
        ValueError: shapes that do not match, or a tail without temperature 1.
    """

    classes: int
    ids_NK: Tensor
    log_probs_NK: Tensor
    tail: Mapping[float, Tensor] | None
    valid_N: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.ids_NK.shape
        shapes = {self.log_probs_NK.shape, shape}
        rows = {len(self.valid_N), *map(len, (self.tail or {}).values())}
        if len(shape) != 2 or len(shapes) > 1 or rows != {shape[0]}:
            raise ValueError(
                f"ids and log-probabilities must be [N, K], tails and validity [N], found {tuple(shape)}, "
                f"{tuple(self.log_probs_NK.shape)} and lengths {sorted(rows)}"
            )
        if not 0 < shape[1] <= self.classes:
            raise ValueError(
                f"found {shape[1]} classes kept of {self.classes}; 1 to all are allowed"
            )
        if self.tail is not None and 1.0 not in self.tail:
            raise ValueError(
                f"tails are kept at temperatures {sorted(self.tail)}; 1 must be one of them"
            )


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One teacher's answer as classes drawn from it: an unbiased estimate of its probabilities.

    Anshumann et al. 2025 (Sparse Logit Sampling), "random sampling KD". Of a class that was drawn c times in
    n draws from the proposal r, the estimate is t = c·p/(n·r), with E[t] = p for every class. Cross entropy is
    linear in t, so that its gradient is unbiased; entropy, reverse KL and mixtures of both sides are not, and
    cannot be estimated from it.

    Attributes:
        classes: V, how many classes there are.
        ids_NK: int64 [N, K], K the number of draws; a class drawn again stands there once.
        weights_NK: float32 [N, K], the estimates; 0 where a class stands there already, and as padding.
        temperature: at which the teacher's probabilities were drawn.
        seed: of the draws.
        valid_N: bool [N]; False where this teacher gave no answer.
    """

    classes: int
    ids_NK: Tensor
    weights_NK: Tensor
    temperature: float
    seed: int
    valid_N: Tensor


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """Distributions over V classes at some temperature: the probabilities of a few, and of all others together.

    Attributes:
        classes: V, how many classes there are.
        ids_NK: int64 [N, K], each class once in its row, as in `TopK`.
        log_probs_NK: float32 [N, K], log of their probabilities; −∞ is padding.
        log_tail_N: float32 [N], log of the probability of all others together; None where they have none.
    """

    classes: int
    ids_NK: Tensor
    log_probs_NK: Tensor
    log_tail_N: Tensor | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Headed:
    """A student's outputs before its last layer: logits [N, V] = hidden · headᵀ + bias, which need not exist as a whole.

    Attributes:
        hidden_ND: states at the units.
        head_VD: weight of the last layer.
        bias_V: its bias.
    """

    hidden_ND: Tensor
    head_VD: Tensor
    bias_V: Tensor | None

    @property
    def outline(self) -> Tensor:
        """A tensor of the logits' shape, and of float32 or more on their device, that takes no memory."""
        dtype = torch.promote_types(self.hidden_ND.dtype, torch.float32)
        return self.hidden_ND.new_zeros(1, 1, dtype=dtype).expand(
            len(self.hidden_ND), len(self.head_VD)
        )

    def first(self, count: int) -> Tensor:
        """The logits of the first units, at least float32."""
        bias_V = self.bias_V
        logits = torch.nn.functional.linear(self.hidden_ND[:count], self.head_VD, bias_V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


Output = Dense | TopK
TeacherOutputs = Mapping[str, Dense]
LearntOutputs = Mapping[str, Output]
"""What a student is taught by: answers over all classes, or over the few that were kept."""


@overload
def on_units(answer: Dense, change: Callable[[Tensor], Tensor]) -> Dense: ...
@overload
def on_units(answer: TopK, change: Callable[[Tensor], Tensor]) -> TopK: ...
def on_units(answer: Output, change: Callable[[Tensor], Tensor]) -> Output:
    """The answer with everything that it says of units [N, ...] changed alike; features and offsets stay."""
    if isinstance(answer, Dense):
        return replace(answer, values_NC=change(answer.values_NC), valid_N=change(answer.valid_N))
    tail = None if answer.tail is None else {t: change(one) for t, one in answer.tail.items()}
    return replace(
        answer,
        ids_NK=change(answer.ids_NK),
        log_probs_NK=change(answer.log_probs_NK),
        tail=tail,
        valid_N=change(answer.valid_N),
    )


def joined_batches(parts: Sequence[Batch]) -> Batch:
    """Batches after each other as one, of which a part may be what the student wrote; none of them blended."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    assert all(part.mixed is None and part.unit_offsets is not None for part in parts), "of texts"
    counts = [part.unit_offsets.diff() for part in parts if part.unit_offsets is not None]
    weights = [part.weight_B for part in parts if part.weight_B is not None]
    domains = [part.domain_B for part in parts if part.domain_B is not None]
    return Batch(
        ids=torch.cat([part.ids for part in parts]),
        rows=torch.cat([part.rows for part in parts]),
        view_B=torch.cat([part.view_B for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        present_B=torch.cat([part.present_B for part in parts]),
        inputs={name: torch.cat([part.inputs[name] for part in parts]) for name in first.inputs},
        weight_B=torch.cat(weights) if len(weights) == len(parts) else None,
        domain_B=torch.cat(domains) if len(domains) == len(parts) else None,
        unit_offsets=torch.cat([counts[0].new_zeros(1), torch.cat(counts).cumsum(0)]),
        generated_B=torch.cat(
            [
                torch.zeros_like(part.present_B) if part.generated_B is None else part.generated_B
                for part in parts
            ]
        ),
    )


def joined_answers(parts: Sequence[Output], offsets: Tensor | None) -> Output:
    """One teacher's answers to batches after each other, all kept alike and without features.

    Args:
        parts: the answers.
        offsets: of the batch that has all.
    """
    first, few = parts[0], [part for part in parts if isinstance(part, TopK)]
    if len(parts) == 1:
        return first
    valid_N = torch.cat([part.valid_N for part in parts])
    if isinstance(first, Dense):
        whole = [part.values_NC for part in parts if isinstance(part, Dense)]
        assert not few, "all answers are kept alike"
        return replace(
            first, values_NC=torch.cat(whole), valid_N=valid_N, features={}, offsets=offsets
        )
    assert len(few) == len(parts), "all answers are kept alike"
    tail = first.tail and {t: torch.cat([(one.tail or {})[t] for one in few]) for t in first.tail}
    return replace(
        first,
        ids_NK=torch.cat([one.ids_NK for one in few]),
        log_probs_NK=torch.cat([one.log_probs_NK for one in few]),
        tail=tail,
        valid_N=valid_N,
        features={},
        offsets=offsets,
    )
