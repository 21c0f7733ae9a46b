"""Losses of detectors that answer at fixed locations.

Shape suffixes: N units (locations), C classes, 4 edges, K bins of an edge's distance; of whole answers B images, N
locations of one, A numbers of its answer, M boxes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.detection.boxes import generalised_iou
from raykd.detection.layout import Heads, TrueBoxes, true_boxes, unpacked
from raykd.detection.locations import assigned, to_boxes, to_edges
from raykd.losses.common import prepare_equal


def quality_focal(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, known_C: Tensor | None = None
) -> Tensor:
    """Dense logits against a teacher's, in the quality-focal form.

    loss_n = Σ_c |q_c − p_c|^β BCE(q_c, p_c), q = σ(student), p = σ(teacher). Li et al. 2020 (generalised focal loss),
    eq. 4, with the teacher's probability in place of the quality; β = 1 in the code of CrossKD (Wang et al. 2024), 2 in
    that of the generalised focal loss. The factor is part of the loss and has a gradient, as in both.

    Args:
        student: logits [N, C].
        teacher: logits [N, C]; detached.
        beta: β ≥ 0.
        known_C: bool [C] or [N, C], the classes that the teacher knows; the others add nothing, so that a class it has
            never seen is not learnt to be background. None is all of them.

    Returns:
        loss_N in [0, ∞) nats. Their sum is divided by Σ_n max_c p_nc where it is to be as published.

    Raises:
        ValueError: shapes differ; β below 0.
    """
    student_NC, teacher_NC = prepare_equal(student, teacher)
    return soft_focal(student_NC, teacher_NC.sigmoid(), beta=beta, known_C=known_C)


def soft_focal(
    student: Tensor, target: Tensor, *, beta: float = 2.0, known_C: Tensor | None = None
) -> Tensor:
    """Dense logits against soft targets: Σ_c |q_c − y_c|^β BCE(q_c, y_c).

    As `quality_focal`, of probabilities: the score of a fused box at its locations and 0 elsewhere, or a label as 1.

    Args:
        student: logits [N, C].
        target: probabilities [N, C]; detached.
        beta: β ≥ 0.
        known_C: bool [C] or [N, C]; the others add nothing.

    Raises:
        ValueError: shapes differ; β below 0.
    """
    if beta < 0:
        raise ValueError(f"beta must be at least 0, found {beta}")
    student_NC, target_NC = prepare_equal(student, target)
    away = (student_NC.sigmoid() - target_NC).abs()
    # at 0 the power has no finite gradient for β below 1, and none that matters: there the cross-entropy's is 0, too
    factor = torch.where(away > 0, away, 1.0).pow(beta) * (away > 0) if beta else 1.0
    loss_NC = factor * F.binary_cross_entropy_with_logits(student_NC, target_NC, reduction="none")
    return (loss_NC if known_C is None else torch.where(known_C, loss_NC, 0.0)).sum(1)


def giou(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − GIoU of boxes: how far the student's box is from the teacher's. Rezatofighi et al. 2019, algorithm 2.

    Args:
        student: corners [N, 4].
        teacher: corners [N, 4]; detached.

    Returns:
        loss_N in [0, 2).

    Raises:
        ValueError: shapes differ.
    """
    return 1 - generalised_iou(*prepare_equal(student, teacher))


def localisation(student: Tensor, teacher: Tensor, *, temperature: float = 10.0) -> Tensor:
    """Localisation distillation: distributions of the edges' distances.

    loss_n = T² Σ_e KL(softmax(t_e / T) ‖ softmax(s_e / T)), over the four edges, KL summed over the bins. Zheng et al. 2022
    (LD), eq. 5 and 6; theirs: T = 10. The authors' code takes the mean over the bins in place of the sum, so that it
    is a K-th of this: their weight 0.25 at 17 bins is 0.25/17 here.

    Args:
        student: logits [N, 4, K].
        teacher: logits [N, 4, K]; detached.
        temperature: T > 0.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: shapes differ, or are not [N, 4, K]; T not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}")
    student_N4K, teacher_N4K = prepare_equal(student, teacher)
    if student_N4K.ndim != 3 or student_N4K.shape[1] != 4:
        raise ValueError(f"edges need logits [N, 4, K], found {list(student_N4K.shape)}")
    log_q = (student_N4K / temperature).log_softmax(-1)
    log_p = (teacher_N4K / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum((1, 2))


def distribution_focal(student: Tensor, teacher: Tensor) -> Tensor:
    """Distribution focal loss: the two bins beside an edge's distance are to have all of its probability.

    loss_n = mean over the edges of −[(i + 1 − y) log S_i + (y − i) log S_(i+1)], i = ⌊y⌋. Li et al. 2020 (generalised focal
    loss), eq. 6; the mean over the four edges as in the authors' code (theirs: weight 1/4 beside GIoU's 2).

    Args:
        student: logits of the bins [N, 4, K].
        teacher: distances [N, 4] in units of a bin; those beyond the last one count as the last. Detached.

    Returns:
        loss_N in [0, ∞) nats.

    Raises:
        ValueError: shapes do not fit, or there is one bin.
    """
    if student.ndim != 3 or student.shape[:2] != teacher.shape or student.shape[-1] < 2:
        raise ValueError(
            f"edges need logits [N, 4, K] with K ≥ 2 and distances [N, 4], found {list(student.shape)} and "
            f"{list(teacher.shape)}"
        )
    log_N4K = student.log_softmax(-1)
    last = student.shape[-1] - 1
    goal_N4 = teacher.detach().to(student).clamp(0, last)
    below_N4 = goal_N4.floor().clamp(max=last - 1)
    share_N4, place = goal_N4 - below_N4, below_N4.long()[..., None]
    lower, upper = log_N4K.gather(2, place)[..., 0], log_N4K.gather(2, place + 1)[..., 0]
    return -((1 - share_N4) * lower + share_N4 * upper).mean(1)


def localisation_of_answers(
    student: Tensor, teacher: Tensor, sure_BN: Tensor, *, temperature: float
) -> Tensor:
    """Localisation distillation of answers with bins, of each image: Σ_n m_n LD_n [B], LD of `localisation`.

    Args:
        student: answers [B, A].
        teacher: answers [B, A]; detached.
        sure_BN: m ≥ 0, how much each location counts.
        temperature: T > 0.

    Raises:
        ValueError: an answer has no bins, or they are of different layouts.
    """
    student_BA, teacher_BA = prepare_equal(student, teacher)
    own = unpacked(student_BA)
    said = unpacked(teacher_BA, own.layout)
    if own.bins_BN4K is None or said.bins_BN4K is None:
        raise ValueError(f"localisation distillation needs answers with bins, found {own.layout}")
    loss_M = localisation(
        own.bins_BN4K.flatten(0, 1), said.bins_BN4K.flatten(0, 1), temperature=temperature
    )
    return (sure_BN.to(loss_M) * loss_M.reshape(sure_BN.shape)).sum(1)


def dense_boxes(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, box_weight: float = 2.0
) -> Tensor:
    """A detector's answer at every location against a teacher's (or the mean of several).

    loss_b = Σ_n [Σ_c |q_nc − p_nc|^β BCE(q_nc, p_nc) + w · m_n · (1 − GIoU_n)] / max(1, Σ_n m_n), with m_n = max_c p_nc the
    teacher's probability that something is there. The quality-focal form of Li et al. 2020, eq. 4, divided as in CrossKD
    (Wang et al. 2024), here for each image by itself. Classes that the teacher does not know add nothing.

    Args:
        student: answers [B, A], see `raykd.detection.layout`.
        teacher: answers [B, A]; detached.
        beta: β ≥ 0.
        box_weight: w ≥ 0.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: no answers of detectors, or of different layouts.
    """
    student_BA, teacher_BA = prepare_equal(student, teacher)
    own = unpacked(student_BA)
    said = unpacked(teacher_BA, own.layout)
    known_BC = own.knows_BC & said.knows_BC
    target = said.scores_BNC * known_BC[:, None, :]
    class_B = _class_loss(own, target, known_BC, beta)
    sure_BN = target.amax(-1)
    box_BN = 1 - generalised_iou(own.boxes_BN4, said.boxes_BN4)
    return (class_B + box_weight * (sure_BN * box_BN).sum(1)) / sure_BN.sum(1).clamp(min=1.0)


def fused_boxes(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 2.0,
    box_weight: float = 2.0,
    bin_weight: float = 0.25,
    known_BC: Tensor | None = None,
) -> Tensor:
    """A detector's answer against boxes with scores: true ones, or those that an ensemble found; DFL where it has bins.

    Each box is given to the locations around its middle (`raykd.detection.locations.assigned`), whose target for its class
    is the box's score, 0 elsewhere: loss_b = Σ_n [Σ_c |q − y|^β BCE(q, y) + w · y_n · (1 − GIoU_n)] / max(1, Σ_n y_n). Of hard
    labels the first part is the focal loss (Lin et al. 2017) without α. Of an answer with bins v · y_n · DFL_n is added within the sum
    (`distribution_focal`). Locations within a crowd count for no class but
    those they are given to.

    Args:
        student: answers [B, A], see `raykd.detection.layout`.
        teacher: label rows [B, 1 + 6M]; rows of NaN have no boxes, and the caller does not count them; detached.
        beta: β ≥ 0.
        box_weight: w ≥ 0.
        bin_weight: v ≥ 0; nothing of an answer without bins.
        known_BC: bool, the classes that whoever drew the boxes knows; the others add nothing. None is all.

    Returns:
        loss_B in [0, ∞).

    Raises:
        ValueError: no answers of a detector, or no label rows.
    """
    own, truth = unpacked(student), true_boxes(teacher.detach().to(student))
    known = own.knows_BC if known_BC is None else own.knows_BC & known_BC
    mine_BM = truth.present_BM & (truth.scores_BM > 0) & known.gather(1, truth.classes_BM)
    centres_N2 = own.layout.centres(student)
    table = assigned(centres_N2, truth.boxes_BM4, mine_BM)
    positive_BN, box_BN = table.box_BN >= 0, table.box_BN.clamp(min=0)
    score_BN = truth.scores_BM.gather(1, box_BN) * positive_BN
    target = torch.zeros_like(own.logits_BNC).scatter(
        2, truth.classes_BM.gather(1, box_BN)[..., None], score_BN[..., None]
    )
    counts = known[:, None, :] & ~_in_crowds(centres_N2, truth, positive_BN)[..., None]
    class_B = _class_loss(own, target, counts, beta)
    goal = to_boxes(centres_N2, table.edges_BN4)
    apart_BN = box_weight * (1 - generalised_iou(own.boxes_BN4, goal))
    if own.bins_BN4K is not None:
        focal_M = distribution_focal(
            own.bins_BN4K.flatten(0, 1), table.edges_BN4.flatten(0, 1) / own.layout.stride
        )
        apart_BN = apart_BN + bin_weight * focal_M.reshape(apart_BN.shape)
    return (class_B + (score_BN * apart_BN).sum(1)) / score_BN.sum(1).clamp(min=1.0)


def _class_loss(own: Heads, target_BNC: Tensor, known: Tensor, beta: float) -> Tensor:
    """Of each image [B]; `known` is [B, C] or [B, N, C]."""
    known_BNC = (known if known.ndim == 3 else known[:, None, :]).expand(target_BNC.shape)
    loss_M = soft_focal(
        own.logits_BNC.flatten(0, 1), target_BNC.flatten(0, 1), beta=beta,
        known_C=known_BNC.flatten(0, 1),
    )  # fmt: skip
    return loss_M.reshape(target_BNC.shape[:2]).sum(1)


def _in_crowds(centres_N2: Tensor, truth: TrueBoxes, positive_BN: Tensor) -> Tensor:
    """Locations within a crowd that answer for no box, bool [B, N]."""
    crowd_BM = truth.present_BM & (truth.scores_BM < 0)
    edges = to_edges(centres_N2[:, None, :], truth.boxes_BM4[:, None, :, :])
    return ((edges > 0).all(-1) & crowd_BM[:, None, :]).any(-1) & ~positive_BN
