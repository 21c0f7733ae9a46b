"""What every weighting shares: the arguments that all accept, and the normalisation.

Shape suffixes: N units, T teachers, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from raykd.types import host_sees


class Common(TypedDict, total=False):
    """Keyword arguments that every weighting accepts, so that callers can pass them uniformly.

    Attributes:
        student_logits: [N, C]; detached.
        losses_TN: the student's loss against each teacher, [T, N]; detached.
        available_TN: bool [T, N], False where a teacher gave no answer; None means all answered.
        generator: source of randomness; None means torch's default generator.
    """

    student_logits: Tensor | None
    losses_TN: Tensor | None
    available_TN: Tensor | None
    generator: torch.Generator | None


@dataclass(frozen=True)
class Evidence:
    """The arguments of a weighting, checked, detached and in at least float32.

    Attributes:
        logits_TNC: teachers' logits as given; anything where a teacher gave no answer.
        available_TN: bool.
        labels_N: labels as given; None means that nothing is labelled.
        student_logits: [N, C] or None.
        losses_TN: [T, N], 0 where a teacher gave no answer, or None.
        generator: or None.
    """

    logits_TNC: Tensor
    available_TN: Tensor
    labels_N: Tensor | None
    student_logits: Tensor | None
    losses_TN: Tensor | None
    generator: torch.Generator | None

    def answered_logits(self) -> Tensor:
        """Teachers' logits [T, N, C], with 0 where a teacher gave no answer (NaN would spread)."""
        if host_sees(self.available_TN) and bool(self.available_TN.all()):
            return self.logits_TNC
        return torch.where(self.available_TN.unsqueeze(2), self.logits_TNC, 0.0)

    def uniform(self) -> Tensor:
        """Equal weights over the teachers that answered; 0 for a unit that nobody answered."""
        counted_TN = self.available_TN.to(self.logits_TNC.dtype)
        return counted_TN / counted_TN.sum(0).clamp_min(1)

    def normalised(self, raw_TN: Tensor) -> Tensor:
        """Non-negative scores to weights that sum to 1 over the teachers that answered.

        A unit whose scores are all 0 gets uniform weights.
        """
        counted_TN = torch.where(self.available_TN, raw_TN.to(self.logits_TNC.dtype), 0.0)
        total_N = counted_TN.sum(0)
        weights_TN = counted_TN / torch.where(total_N > 0, total_N, 1.0)
        return torch.where(total_N > 0, weights_TN, self.uniform())

    def class_labels(self) -> Tensor:
        """Labels as int64 [N], −1 where unlabelled.

        Raises:
            ValueError: labels of another shape than [N].
        """
        teachers, units, _ = self.logits_TNC.shape
        if self.labels_N is None:
            return self.logits_TNC.new_full((units,), -1, dtype=torch.int64)
        if self.labels_N.shape != (units,):
            raise ValueError(
                f"labels must be [{units}] for {teachers} teachers' logits of {units} units, found "
                f"{tuple(self.labels_N.shape)}"
            )
        return self.labels_N


def gather_evidence(
    name: str, logits_TNC: Tensor, labels_N: Tensor | None, more: Common
) -> Evidence:
    """Check and clean the arguments of the weighting `name`.

    Raises:
        TypeError: an argument that no weighting and not this one knows.
        ValueError: shapes that do not belong together.
    """
    unknown = sorted(set(more) - set(Common.__annotations__))
    if unknown:
        raise TypeError(f"weighting {name}() got unexpected arguments: {', '.join(unknown)}")
    if logits_TNC.ndim != 3:
        raise ValueError(f"{name}: logits must be [T, N, C], found {tuple(logits_TNC.shape)}")
    logits_TNC = logits_TNC.detach()
    if not logits_TNC.dtype.is_floating_point or logits_TNC.dtype.itemsize < 4:
        logits_TNC = logits_TNC.float()
    answers = logits_TNC.shape[:2]
    available_TN = more.get("available_TN")
    losses_TN = _matching(name, "losses_TN", more.get("losses_TN"), answers)
    if available_TN is None:
        available_TN = torch.ones(answers, dtype=torch.bool, device=logits_TNC.device)
    else:
        _matching(name, "available_TN", available_TN, answers)
        available_TN = available_TN.bool()
        losses_TN = None if losses_TN is None else torch.where(available_TN, losses_TN, 0.0)
    return Evidence(
        logits_TNC=logits_TNC,
        available_TN=available_TN,
        labels_N=labels_N,
        student_logits=_matching(
            name, "student_logits", more.get("student_logits"), logits_TNC.shape[1:]
        ),
        losses_TN=losses_TN,
        generator=more.get("generator"),
    )


def per_teacher(name: str, values: Tensor, evidence: Evidence) -> Tensor:
    """One number per teacher as [T, 1] on the logits' device and in their dtype.

    Raises:
        ValueError: another number of values than teachers, or a value that is negative or not
            finite (found where the values lie in the host's memory).
    """
    teachers = evidence.logits_TNC.shape[0]
    if values.shape != (teachers,):
        raise ValueError(
            f"{name} must hold one value per teacher, [{teachers}], found {tuple(values.shape)}"
        )
    if host_sees(values) and not bool(((values >= 0) & values.isfinite()).all()):
        raise ValueError(f"{name} must be finite and at least 0, found {values.tolist()}")
    return values.detach().to(evidence.logits_TNC).unsqueeze(1)


def _matching(
    name: str, argument: str, value: Tensor | None, shape: tuple[int, ...]
) -> Tensor | None:
    if value is None:
        return None
    if value.shape != shape:
        raise ValueError(
            f"{name}: {argument} must be {list(shape)} like the teachers' logits, found "
            f"{tuple(value.shape)}"
        )
    return value.detach()
