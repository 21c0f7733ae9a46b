"""Contrastive representation distillation (CRD), of one process: a bank of vectors for each side.

Shape suffixes: B batch, N training samples, K negatives, E dimensions of the projected vectors. The banks are state
of the caller: they change with the student, so that they belong to the checkpoint and never to a store, and DDP's
broadcast of buffers would let rank 0 overwrite what the other ranks wrote. Hence one process, and no loss of a recipe,
which does not know N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.losses.common import prepare, product, unit

_EPS = 1e-7  # the constant of the CRD authors' code, part of its values


def crd(
    student: Tensor,
    teacher: Tensor,
    *,
    student_bank: Tensor,
    teacher_bank: Tensor,
    contrasted: Tensor,
    constants: tuple[float, float] | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """Each side's vector is told from K negatives of the other side's bank.

    loss_b = h(s, teacher's bank; Z_s) + h(t, student's bank; Z_t), with a_j = exp(⟨v, m_j⟩ / τ) / Z over the K + 1
    contrasted samples, the first of which is the sample itself:
    h = −log(a_0 / (a_0 + K/N)) − Σ_{j≥1} log((K/N) / (a_j + K/N)). Tian et al. 2020 (CRD), Eq. 18. Z is the
    mean of the first batch's exponentials times N, here `constants_of`, and stays. Both sides' projections are
    trained, so that both vectors get a gradient here, against the rule of all other losses.

    Args:
        student: projected vectors of length 1, [B, E].
        teacher: likewise, [B, E]; not detached.
        student_bank: vectors of all samples, [N, E]; detached.
        teacher_bank: likewise.
        contrasted: samples [B, K + 1], int64; the sample itself, then its negatives.
        constants: Z_s and Z_t; None = of this batch.
        temperature: τ > 0.

    Returns:
        loss_B in [0, ∞) nats.

    Raises:
        ValueError: shapes do not match; τ not above 0.
    """
    parts = crd_parts(
        student,
        teacher,
        student_bank=student_bank,
        teacher_bank=teacher_bank,
        contrasted=contrasted,
        constants=constants,
        temperature=temperature,
    )
    return parts[0] + parts[1]


def crd_parts(
    student: Tensor,
    teacher: Tensor,
    *,
    student_bank: Tensor,
    teacher_bank: Tensor,
    contrasted: Tensor,
    constants: tuple[float, float] | None = None,
    temperature: float = 0.07,
) -> tuple[Tensor, Tensor]:
    """The two parts of `crd`, the student's and the teacher's; arguments as there."""
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    if student.shape != teacher.shape or student_bank.shape != teacher_bank.shape:
        raise ValueError(
            f"vectors and banks must be of equal shape, found {tuple(student.shape)}, {tuple(teacher.shape)}, "
            f"{tuple(student_bank.shape)} and {tuple(teacher_bank.shape)}"
        )
    samples = len(student_bank)
    losses = []
    for index, (vector, bank) in enumerate(((student, teacher_bank), (teacher, student_bank))):
        log_BK = _similarities(vector, bank, contrasted, temperature)
        constant = _constant(log_BK, samples) if constants is None else constants[index]
        losses.append(_told_apart(log_BK.exp() / constant, samples))
    return losses[0], losses[1]


def constants_of(
    student: Tensor,
    teacher: Tensor,
    *,
    student_bank: Tensor,
    teacher_bank: Tensor,
    contrasted: Tensor,
    temperature: float = 0.07,
) -> tuple[float, float]:
    """Z_s and Z_t of a batch, the first one; arguments as of `crd`."""
    samples = len(student_bank)
    pairs = ((student, teacher_bank), (teacher, student_bank))
    found = [
        float(_constant(_similarities(vector, bank, contrasted, temperature), samples))
        for vector, bank in pairs
    ]
    return found[0], found[1]


def drawn_negatives(
    classes_N: Tensor, rows_B: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """The samples that a batch is told from: itself first, then negatives of other classes.

    Args:
        classes_N: class of every training sample; of an unlabelled one that of the ensemble.
        rows_B: the batch's places in it.
        count: K.
        generator: on the CPU, seeded by epoch and step.

    Returns:
        contrasted, int64 [B, K + 1]; of a class that is the only one all samples but itself.
    """
    different_BN = classes_N[rows_B][:, None] != classes_N[None, :]
    itself_BN = torch.nn.functional.one_hot(rows_B, len(classes_N)).bool()
    allowed_BN = torch.where(different_BN.any(1, keepdim=True), different_BN, ~itself_BN)
    drawn_BK = torch.multinomial(allowed_BN.double(), count, replacement=True, generator=generator)
    return torch.cat([rows_B[:, None], drawn_BK], dim=1)


def updated_bank(
    bank_NE: Tensor, rows_B: Tensor, vectors_BE: Tensor, *, momentum: float = 0.5
) -> Tensor:
    """The bank after a batch: m · old + (1 − m) · new at its rows, of length 1.

    Args:
        bank_NE: before; a new tensor is returned.
        rows_B: the batch's places, each of them once.
        vectors_BE: its vectors, of length 1.
        momentum: m in [0, 1).
    """
    mixed_BE = momentum * bank_NE[rows_B] + (1 - momentum) * vectors_BE.detach()
    return bank_NE.index_copy(0, rows_B, unit(mixed_BE, dim=1))


def new_bank(
    samples: int,
    dimensions: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A bank to begin with, [N, E]: directions drawn uniformly, of length 1 as all that follows.

    The authors' bank begins with uniform coordinates, whose lengths are about 1 and differ.
    """
    drawn_NE = torch.randn(samples, dimensions, generator=generator, dtype=dtype)
    return F.normalize(drawn_NE, dim=1)


def _similarities(vector: Tensor, bank: Tensor, contrasted: Tensor, temperature: float) -> Tensor:
    """⟨v, m_j⟩ / τ, [B, K + 1]."""
    vector_BE, bank_NE = prepare(vector, bank)
    chosen_BKE = bank_NE[contrasted]
    return product(chosen_BKE, vector_BE[:, :, None])[:, :, 0] / temperature


def _constant(log_BK: Tensor, samples: int) -> Tensor:
    return log_BK.detach().exp().mean() * samples


def _told_apart(scores_BK: Tensor, samples: int) -> Tensor:
    """h: noise-contrastive estimation, the first against the others."""
    negatives = scores_BK.shape[1] - 1
    noise = negatives / samples
    first_B, others_BK = scores_BK[:, 0], scores_BK[:, 1:]
    own_B = (first_B / (first_B + noise + _EPS)).log()
    others_B = (noise / (others_BK + noise + _EPS)).log().sum(1)
    return -(own_B + others_B)
