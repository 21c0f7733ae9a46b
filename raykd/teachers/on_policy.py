"""Teachers that a student asks about what it has written, beside the source of its targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raykd.targets import EntryKey, TargetSource
from raykd.targets.packing import Arrays
from raykd.targets.ragged import joined
from raykd.teachers.client import Asked, Client, Question
from raykd.teachers.model import Inputs


@dataclass(frozen=True, eq=False)
class AskedBeside:
    """`raykd.targets.source.Asking` over a fleet.

    A teacher that dies while it scores is asked again, as for any batch; a text that breaks one counts as its failure.

    Attributes:
        pool: answers for the samples of the data: stored or live.
        client: asks the fleet; without a tolerance, since no text here is of a data set.
        keys: teacher -> the key of its answers to training views.
        temperatures: teacher -> at which its logits are going to be used.
    """

    pool: TargetSource
    client: Client
    keys: Mapping[str, EntryKey]
    temperatures: Mapping[str, float]

    def ask(self, name: str, inputs: Inputs) -> Asked | None:
        """Ask a teacher; None where it is lost already."""
        return self.client.ask([name], Question.of_inputs(inputs, whole=False)).get(name)

    def answer(self, name: str, pending: Asked | None) -> Arrays | None:
        """The encoded answer; None of a teacher that is left out.

        Raises:
            TeacherError: the teacher is lost, and the policy is to stop.
        """
        parts = None if pending is None else self.client.parts(name, pending)
        return None if parts is None else joined([arrays for _, arrays in parts])
