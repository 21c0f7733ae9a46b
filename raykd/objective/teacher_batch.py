"""The teachers as the objective hears them, and what they say of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from raykd.objective.terms import Context
from raykd.types import Batch, Dense, Headed, TopK


@dataclass(frozen=True)
class TeacherInfo:
    """A teacher as the objective hears it.

    Attributes:
        name: the teacher's name.
        temperature: factor on the objective's temperature, on this teacher's side.
        error: its error on validation, for `inverse_error`: mean squared in regression, else the NLL.
        accuracy: its accuracy on validation, for `accuracy`.
        known: the classes that it knows, rising; None means all.
        domains: numbers of the domains that it is for; None where it is for none in particular.
        stacked: its weight by its answers to half of validation, for `stacking`.
    """

    name: str
    temperature: float = 1.0
    error: float | None = None
    accuracy: float | None = None
    known: tuple[int, ...] | None = None
    domains: tuple[int, ...] | None = None
    stacked: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TeacherBatch:
    """One batch as student and teachers see it, before the teachers are weighed.

    Attributes:
        student_NC: the student's logits, with gradient.
        answers: each teacher's logits [N, C] over its own temperature; anything where unavailable.
        available_TN: bool, False where a teacher gave no answer or the unit is padding.
        labels_N: int64, −1 where unlabelled or blended of several samples; None where labels are no
            classes.
        ids_N: the units' ids.
        temperature: T of the soft targets at this moment.
        context: when it is, and the other workers.
        batch: the samples, with labels in the units that losses are computed in.
        outputs: what each teacher put out, in the same units and otherwise as it is stored.
        temperatures_T: each teacher's own temperature.
        known: of each teacher the classes that it knows, int64, or None where it knows all.
        few: the answers of teachers of which few classes were kept; `outputs` is empty then, and `answers` have the
            shape of the student's alone.
        headed: the student's outputs before its last layer, where its logits are not made as a whole; `student_NC` has
            their shape alone then.
    """

    student_NC: Tensor
    answers: tuple[Tensor, ...]
    available_TN: Tensor
    labels_N: Tensor | None
    ids_N: Tensor
    temperature: float
    context: Context
    batch: Batch
    outputs: tuple[Dense, ...]
    temperatures_T: Tensor
    known: tuple[Tensor | None, ...] | None = None
    few: tuple[TopK, ...] = ()
    headed: Headed | None = None

    def compared_with(self, teacher: int) -> tuple[Tensor, Tensor]:
        """The student's logits and those of one teacher, both over the classes that it knows."""
        some = None if self.known is None else self.known[teacher]
        if some is None:
            return self.student_NC, self.answers[teacher]
        return self.student_NC[:, some], self.answers[teacher][:, some]

    @property
    def knowing(self) -> Tensor:
        """The classes that each teacher knows, bool [T, C]."""
        first_NC = self.answers[0]
        known_TC = torch.ones(
            len(self.answers), first_NC.shape[1], dtype=torch.bool, device=first_NC.device
        )
        for known_C, some in zip(known_TC, self.known or (), strict=False):
            if some is not None:
                known_C.fill_(False).scatter_(0, some, True)
        return known_TC

    @cached_property
    def stacked(self) -> Tensor:
        """The answers as one tensor [T, N, C]: a copy, which takes as long as two teachers' exponentials."""
        return torch.stack(self.answers)

    @property
    def outline(self) -> Tensor:
        """A tensor of the shape, dtype and device of `stacked`, without a copy."""
        return self.answers[0].expand(len(self.answers), *self.answers[0].shape)
