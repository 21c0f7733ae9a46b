"""What a model returns, as logits over the data's classes.

Shapes: B batch, O the teacher's own classes, C the data's classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raykd.errors import TeacherError
from raykd.types import OutputKind

TINY = 1e-12
"""What a probability of 0 counts as."""


def as_logits(output: Tensor, kind: str, answers: OutputKind, classes: int) -> Tensor:
    """A model's output as logits over its own classes (or labels).

    Args:
        output: float [B, O]; of `top1` the number of the class, [B] or [B, 1].
        kind: `logits`, `probabilities`, `log_probabilities` or `top1`.
        answers: `logits` of classes, or `label_logits`.
        classes: its own, O.

    Returns:
        float [B, O]. A probability of 0 counts as 10⁻¹², and so does every class that `top1` does not say.

    Raises:
        TeacherError: a class that it does not have.
    """
    return _READERS[kind](output, answers, classes)


def log_odds(probabilities: Tensor, answers: OutputKind) -> Tensor:
    """Probabilities as logits: of classes up to a constant, of labels against their absence."""
    logits = probabilities.clamp(min=TINY).log()
    if answers == "label_logits":
        return logits - (1 - probabilities).clamp(min=TINY).log()
    return logits


def _from_log_probabilities(output: Tensor, answers: OutputKind, classes: int) -> Tensor:
    del classes
    if answers == "label_logits":
        return log_odds(output.exp(), answers)
    return output.clamp(min=math.log(TINY))


def _from_top1(output: Tensor, answers: OutputKind, classes: int) -> Tensor:
    del answers
    said_B = output.reshape(len(output)).long()
    if bool(((said_B < 0) | (said_B >= classes)).any()):
        raise TeacherError(
            f"it answers class {int(said_B.max() if said_B.max() >= classes else said_B.min())}, its classes "
            f"are 0 to {classes - 1}"
        )
    logits = torch.full((len(output), classes), math.log(TINY), device=output.device)
    return logits.scatter_(1, said_B[:, None], 0.0)


_READERS: dict[str, Callable[[Tensor, OutputKind, int], Tensor]] = {
    "logits": lambda output, _, __: output,
    "probabilities": lambda output, answers, _: log_odds(output, answers),
    "log_probabilities": _from_log_probabilities,
    "top1": _from_top1,
}


def mapped(logits_BO: Tensor, label_map: Sequence[int | None], classes: int) -> Tensor:
    """Logits over the data's classes, [B, C].

    Several own classes that stand for one of the data are added up: log Σ exp. Own classes that stand for
    none are left out, which renormalises the rest. A class that none stands for gets −∞.

    Args:
        logits_BO: over the teacher's own classes.
        label_map: for each of them the data's class, or None.
        classes: of the data, C.
    """
    places = torch.tensor([-1 if c is None else c for c in label_map], device=logits_BO.device)
    found = torch.full((len(logits_BO), classes), -torch.inf, device=logits_BO.device)
    for target in dict.fromkeys(c for c in label_map if c is not None):
        found[:, target] = logits_BO[:, places == target].logsumexp(dim=1)
    return found
