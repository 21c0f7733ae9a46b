"""One feature term: projector, learnt variance or running statistics, and the loss.

Shape suffixes: B batch, D channels or features, P positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raykd.config.objective import FeatureTerm
from raykd.losses import LOSSES
from raykd.losses.heads import Head, head_logits
from raykd.models.projectors import make_projector
from raykd.models.scales import TokenScale, at_scale
from raykd.objective.masked_pairwise import masked_pairwise
from raykd.objective.terms import Context, Sum
from raykd.types import Batch, Dense

Shape = tuple[int, ...]
_VARIANCE_FLOOR = 1e-5  # of the VID loss
_STD_FLOOR = 1e-6  # added to variances


class FeatureLoss(nn.Module):
    """A feature term with its trained and running parts.

    Args:
        term: its settings.
        student_shapes: tap -> shape of one sample's feature.
        teacher_shapes: (teacher, tap) -> shape of one sample's feature.
        head: the teacher's, where the loss or the weights of the terms ask it.
    """

    head_weight: Tensor | None
    head_bias: Tensor | None
    scale_mean_D: Tensor
    scale_matrix_DD: Tensor | None

    def __init__(
        self,
        term: FeatureTerm,
        student_shapes: Mapping[str, Shape],
        teacher_shapes: Mapping[tuple[str, str], Shape],
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.term = term
        # Known by its teacher and never trained, so that it is in no checkpoint.
        self.register_buffer("head_weight", None if head is None else head.weight, persistent=False)
        self.register_buffer("head_bias", None if head is None else head.bias, persistent=False)
        self.teacher_shapes = [teacher_shapes[term.teacher, tap] for tap in term.teacher_taps]
        student, teacher = student_shapes[term.student_taps[0]], self.teacher_shapes[0]
        loss = term.loss
        self.projector: nn.Module = nn.Identity()
        if loss.row.projects:
            self.projector = make_projector(
                student,
                teacher,
                always=True,
                orthogonal=term.projector == "orthogonal",
                mlp=term.projector == "mlp",
            )
        self.raw_variance: nn.Parameter | None = None
        if loss.row.state == "variance":
            start = math.log(math.expm1(loss.knob("initial_variance") - _VARIANCE_FLOOR))
            self.raw_variance = nn.Parameter(torch.full((_width(teacher),), start))
        self.scale: TokenScale | None = None
        self.statistics: RunningStatistics | None = None
        if loss.row.state == "statistics" and loss.knob("standardise"):
            self.statistics = RunningStatistics(_width(teacher), loss.knob("momentum"))

    def compare_at(self, scale: TokenScale) -> None:
        """Compare at this scale of the teacher's feature; it is known by the teacher, and in no checkpoint."""
        self.scale, matrix_DD = scale, scale.matrix_DD
        self.register_buffer("scale_mean_D", scale.mean_D.float(), persistent=False)
        matrix_DD = None if matrix_DD is None else matrix_DD.float()
        self.register_buffer("scale_matrix_DD", matrix_DD, persistent=False)

    def forward(
        self,
        features: Mapping[str, Tensor],
        batch: Batch,
        answer: Dense,
        context: Context,
        foreground_BHW: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The unweighted loss [B], and which samples count, bool [B].

        A teacher without features (left out after a failure) counts nowhere; all parts take part in
        the graph nevertheless, and in what is summed or gathered over the workers.

        Args:
            features: student tap -> [B, ...].
            batch: the batch.
            answer: the teacher's.
            context: the other workers.
            foreground_BHW: how much each place of a sample's image counts, of any size; a sample without any counts
                nowhere. None = all places alike.
        """
        taps = self.term.teacher_taps
        present = all(tap in answer.features for tap in taps)
        counted_B = batch.present_B & answer.valid_N & present
        students = [self.projector(features[tap].float()) for tap in self.term.student_taps]
        if present:
            teachers = [self._target(answer.features[tap].float()) for tap in taps]
        else:
            size = len(batch)
            teachers = [students[0].new_zeros((size, *shape)) for shape in self.teacher_shapes]
        if len(taps) == 2:
            pairs = (students[0], students[1]), (teachers[0], teachers[1])
            return LOSSES["fsp"](*pairs), counted_B
        mask_BP = None
        if foreground_BHW is not None:
            mask_BP = _at_size(foreground_BHW, teachers[0].shape[-2:])
            counted_B = counted_B & (mask_BP.sum(1) > 0)
        return self._loss(students[0], teachers[0], counted_B, context, mask_BP), counted_B

    @torch.no_grad()
    def in_spreads(self, features: Mapping[str, Tensor], answer: Dense) -> dict[str, Tensor]:
        """How far the student is, in units of the teacher's own spread: 1 is as far as one that always says the mean.

        `cosine`: 1 − cos over its mean for two of the teacher's tokens; `smooth_l1`: over that of a token from the mean [B].

        Args:
            features: student tap -> [B, ...].
            answer: the teacher's; nothing is told of one without the feature.
        """
        (tap,) = self.term.teacher_taps
        if self.scale is None or tap not in answer.features:
            return {}
        student = self.projector(features[self.term.student_taps[0]].float())
        teacher = self._target(answer.features[tap].float())
        return {
            "cosine": LOSSES["cosine"](student, teacher) / self.scale.cosine_spread,
            "smooth_l1": LOSSES["smooth_l1"](student, teacher) / self.scale.smooth_l1_spread,
        }

    @torch.no_grad()
    def head_says(self, features: Mapping[str, Tensor]) -> Tensor:
        """The logits [B, K] that the teacher's head makes of the student's projected feature, without gradient.

        Args:
            features: student tap -> [B, ...].
        """
        assert self.head_weight is not None, "checked before: every term has a head"
        student = self.projector(features[self.term.student_taps[0]].float())
        return head_logits(student, self.head_weight, self.head_bias)

    def _target(self, teacher: Tensor) -> Tensor:
        """The teacher's feature as the loss sees it."""
        if self.scale is not None:
            return at_scale(teacher, self.scale_mean_D, self.scale_matrix_DD, self.scale.phi)
        return layer_normalised(teacher) if self.term.target == "layer_norm" else teacher

    def _loss(
        self,
        student: Tensor,
        teacher: Tensor,
        counted_B: Tensor,
        context: Context,
        mask_BP: Tensor | None,
    ) -> Tensor:
        loss = self.term.loss
        knobs = loss.arguments
        everyone = loss.row.per_sample or bool(counted_B.all())
        if mask_BP is not None:
            knobs["mask_BP"] = mask_BP if everyone else mask_BP[counted_B]
        if loss.knob("scope") == "global":
            knobs["gather"] = context.gather_counted(counted_B)
        if "head_weight" in loss.row.needs:
            knobs |= {"head_weight": self.head_weight, "head_bias": self.head_bias}
        if self.raw_variance is not None:
            knobs["raw_variance"] = self.raw_variance
        if self.statistics is not None:
            if self.training:
                self.statistics.update(teacher, counted_B, context.all_sum)
            knobs["mean"], knobs["std"] = self.statistics.mean_and_std()

        def function(one: Tensor, other: Tensor) -> Tensor:
            return LOSSES[loss.type](one, other, **knobs)

        if loss.row.per_sample:
            return function(student, teacher)
        return masked_pairwise(function, student, teacher, None if everyone else counted_B)


def _at_size(map_BHW: Tensor, size: Sequence[int]) -> Tensor:
    """A map of weights as one of another size, its positions in a row [B, P]."""
    if tuple(map_BHW.shape[1:]) != tuple(size):
        whole = map_BHW[:, None]
        map_BHW = F.interpolate(whole, size=list(size), mode="bilinear", align_corners=False)[:, 0]
    return map_BHW.flatten(1)


def layer_normalised(features: Tensor) -> Tensor:
    """Each position with mean 0 and deviation 1 over its channels, without factors (Miles et al. 2024, VkD).

    Args:
        features: [B, D], [B, L, D] or [B, D, H, W].
    """
    if features.ndim != 4:
        return F.layer_norm(features, features.shape[-1:])
    channels_last = features.movedim(1, -1)
    return F.layer_norm(channels_last, channels_last.shape[-1:]).movedim(-1, 1)


class RunningStatistics(nn.Module):
    """Mean and deviation of a teacher's channels over all batches and workers so far.

    Every batch counts alike, until a new one would count less than `momentum`: from then on it is an
    exponential average. The batch at hand is included. All is computed from sums over all workers, so
    that these agree; it is part of the checkpoint.
    """

    mean_D: Tensor
    variance_D: Tensor
    batches: Tensor

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("variance_D", torch.ones(width))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, features: Tensor, counted_B: Tensor, all_sum: Sum) -> None:
        """Take in a batch.

        Args:
            features: the teacher's, [B, D], [B, L, D] or [B, D, H, W].
            counted_B: bool, which samples count.
            all_sum: adds over all workers.
        """
        values_BDP = features.flatten(2) if features.ndim == 4 else _last_to_channels(features)
        counted_B11 = counted_B.view(-1, 1, 1)
        offset_BDP = torch.where(counted_B11, values_BDP - self.mean_D[:, None], 0.0)
        sums = [offset_BDP.sum((0, 2)), offset_BDP.square().sum((0, 2))]
        count_1 = counted_B.sum()[None] * values_BDP.shape[2]
        total = all_sum(torch.cat([*sums, count_1.to(values_BDP.dtype)]).double())
        if not total[-1] > 0:
            return
        width = len(self.mean_D)
        offset_D, square_D = total[:width] / total[-1], total[width:-1] / total[-1]
        variance_D = (square_D - offset_D.square()).clamp(min=0)
        self.batches += 1
        share = max(1.0 / int(self.batches), self.momentum)
        spread_D = share * (1 - share) * offset_D.square()
        self.variance_D.copy_((1 - share) * self.variance_D + share * variance_D + spread_D)
        self.mean_D += share * offset_D

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel [D], copies."""
        return self.mean_D.clone(), (self.variance_D + _STD_FLOOR).sqrt()


def feature_problem(
    term: FeatureTerm, student: Sequence[Shape], teacher: Sequence[Shape]
) -> str | None:
    """Why a loss cannot compare features of these shapes, or None; `make_projector` says whether there is a projector.

    Args:
        term: the term.
        student: shapes of one sample's features at the student's taps.
        teacher: at the teacher's taps.
    """
    layout, name = term.loss.row.layout, term.loss.type
    (ours, *_), (theirs, *_) = student, teacher
    found = f"found {[list(s) for s in student]} at {term.student_tap!r} and {[list(t) for t in teacher]} at "
    found += f"{term.teacher_tap!r}"
    if term.foreground is not None and (len(theirs) != 3 or len(ours) != 3):
        return f"foreground says which positions of maps [C, H, W] count; {found}; tap convolutional layers, or leave it out"
    if layout == "dense" and len(theirs) == 1:
        return f"{name} compares positions, of which the teacher's feature has none; {found}; tap an earlier module, or use hint"
    if layout == "positions" and not _positioned(ours, theirs):
        return (
            f"{name} compares two maps [C, H, W], or two rows of tokens [L, D] of equal length; {found}; "
            "tap convolutional layers, or use hint or similarity"
        )
    if layout == "matrices" and not _matrices(ours, theirs):
        return f"{name} compares attention [H, L, L] of equal length; {found}"
    if layout == "pairs":
        within = all(_positioned(*pair) for pair in (student, teacher))
        widths = [_width(s) == _width(t) for s, t in zip(student, teacher, strict=True)]
        if not (within and all(widths)):
            return (
                f"{name} needs two maps (or two rows of tokens) on each side, of the teacher's numbers of "
                f"channels; {found}"
            )
    return None


def _positioned(one: Shape, other: Shape) -> bool:
    """Two maps, or two rows of tokens of the same length."""
    if len(one) != len(other) or len(one) not in (2, 3):
        return False
    return len(one) == 3 or one[0] == other[0]


def _matrices(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) == 3 and one[1] == one[2] == other[1] == other[2]


def _width(shape: Shape) -> int:
    """Channels of a map [C, H, W], features of tokens [L, D] or of a vector [D]."""
    return shape[0] if len(shape) == 3 else shape[-1]


def _last_to_channels(features: Tensor) -> Tensor:
    """[B, D] or [B, L, D] as [B, D, P]."""
    return features[:, :, None] if features.ndim == 2 else features.transpose(1, 2)
