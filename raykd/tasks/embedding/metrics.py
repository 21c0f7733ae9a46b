"""How good embeddings are, and how closely they follow others.

Shapes: N samples, D dimensions (of each model its own), M labelled samples that another one shares the class
with, K neighbours. Likeness is the cosine. A sample is relevant to another one of its class; each sample asks all
others of its split. Samples whose label is −1 neither ask nor are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raykd.evaluate.closeness import SMALLEST_GAP
from raykd.evaluate.statistics import ranks
from raykd.evaluate.task import TaskMetrics, unchanged
from raykd.types import is_labelled

NEAREST = 10
_CHUNK = 1024
"""Samples that ask at a time."""
_COMPARED = 1000
"""Samples between which two models' cosines are compared."""
_KNN_TEMPERATURE = 0.07
_RIDGE = 1e-2
"""Of the probe, as a part of the mean variance of a dimension."""


def has_pairs(labels_N: Tensor) -> bool:
    """Whether two samples are of one class, so that something can be found."""
    known = labels_N[is_labelled(labels_N)]
    return bool((torch.bincount(known) > 1).any()) if len(known) else False


def retrieval_metrics(vectors_ND: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Every number of one model on one split.

    Returns:
        `map_10`: mean average precision among the 10 nearest, Σ_i P(i)·rel(i) / min(10, relevant);
        `recall_1`, `recall_10`: share of samples with a relevant one among the 1, 10 nearest; `knn`: accuracy of the
        vote of the 10 nearest, each with the weight exp(cos / 0.07) (Wu et al. 2018; DINO); `probe`: accuracy
        of a linear classifier of the vectors (ridge regression on one-hot classes), each sample judged by the
        one that is fitted on all others. All in [0, 1].

    Raises:
        ValueError: shapes differ, or no two labelled samples are of one class.
    """
    vectors, labels = _known(vectors_ND, labels_N)
    hits_MK = _hits(vectors, labels)
    found_M = hits_MK.cumsum(dim=1) > 0
    return {
        "map_10": float(average_precisions(vectors_ND, labels_N).mean()),
        "recall_1": float(found_M[:, 0].double().mean()),
        "recall_10": float(found_M[:, -1].double().mean()),
        "knn": _knn(vectors, labels),
        "probe": _probe(vectors, labels),
    }


def average_precisions(vectors_ND: Tensor, labels_N: Tensor) -> Tensor:
    """Average precision among the 10 nearest of each sample that has a relevant one, float64 [M]."""
    vectors, labels = _known(vectors_ND, labels_N)
    hits_MK = _hits(vectors, labels).double()
    ranks_K = torch.arange(1, hits_MK.shape[1] + 1, dtype=torch.float64)
    relevant_M = (torch.bincount(labels)[labels] - 1)[_askers(labels)]
    precision_MK = hits_MK.cumsum(dim=1) / ranks_K
    return (precision_MK * hits_MK).sum(dim=1) / relevant_M.clamp(max=NEAREST)


def retrieval_fidelity(
    student_ND: Tensor, ensemble_ND: Tensor, teachers: Mapping[str, Tensor]
) -> dict[str, Any]:
    """How closely one student finds alike what its teachers do, labels aside.

    Returns:
        `spearman_ensemble`: rank correlation of the cosines between all pairs of (the first 1,000) samples,
        NaN where they are all the same; `overlap_ensemble`: share of a sample's 10 nearest that both have;
        `spearman`: teacher -> rank correlation.
    """
    return {
        "spearman_ensemble": _spearman(student_ND, ensemble_ND),
        "overlap_ensemble": _overlap(student_ND, ensemble_ND),
        "spearman": {name: _spearman(student_ND, vectors) for name, vectors in teachers.items()},
    }


def joined(vectors: list[Tensor]) -> Tensor:
    """The embedding of several models [N, Σ D]: each one's of length 1, so that cosines are their mean."""
    return torch.cat([F.normalize(one_ND.float(), dim=1) for one_ND in vectors], dim=1)


def _known(vectors_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length 1, float64, and classes of the labelled samples, on the CPU."""
    if vectors_ND.ndim != 2 or labels_N.shape != vectors_ND.shape[:1]:
        raise ValueError(
            f"vectors [N, D] and labels [N] are needed, "
            f"found {tuple(vectors_ND.shape)} and {tuple(labels_N.shape)}"
        )
    if not has_pairs(labels_N):
        raise ValueError("no two labelled samples are of one class, so there is nothing to find")
    known_N = is_labelled(labels_N)
    return F.normalize(vectors_ND[known_N].double(), dim=1).cpu(), labels_N[known_N].cpu()


def _askers(labels: Tensor) -> Tensor:
    """Which samples have another one of their class."""
    return torch.bincount(labels)[labels] > 1


def _hits(vectors: Tensor, labels: Tensor) -> Tensor:
    """Whether each of the nearest is of the class of the sample that asks, bool [M, K]."""
    asking = _askers(labels).nonzero()[:, 0]
    near_MK = _nearest(vectors, asking)
    return labels[near_MK] == labels[asking, None]


def _nearest(vectors: Tensor, asking: Tensor) -> Tensor:
    """The nearest others of some samples, int64 [M, K], nearest first; of equals the first."""
    found = []
    for rows in torch.split(asking, _CHUNK):
        cosine_RN = vectors[rows] @ vectors.T
        cosine_RN[torch.arange(len(rows)), rows] = -torch.inf
        order_RN = cosine_RN.argsort(dim=1, descending=True, stable=True)
        found.append(order_RN[:, : min(NEAREST, len(vectors) - 1)])
    return torch.cat(found)


def _knn(vectors: Tensor, labels: Tensor) -> float:
    """Accuracy of the weighted vote of the nearest, over the samples that have another one of their class."""
    asking = _askers(labels).nonzero()[:, 0]
    near_MK = _nearest(vectors, asking)
    cosine_MK = (vectors[near_MK] * vectors[asking, None]).sum(dim=2)
    votes_MC = torch.zeros(len(asking), int(labels.max()) + 1, dtype=vectors.dtype)
    votes_MC.scatter_add_(1, labels[near_MK], (cosine_MK / _KNN_TEMPERATURE).exp())
    return float((votes_MC.argmax(dim=1) == labels[asking]).double().mean())


def _probe(vectors: Tensor, labels: Tensor) -> float:
    """Accuracy of ridge regression on one-hot classes, by the closed form of leaving one out."""
    ones_N1 = torch.ones(len(vectors), 1, dtype=vectors.dtype)
    centred = vectors - vectors.mean(dim=0)
    penalty = _RIDGE * float(centred.square().sum(dim=0).mean()) + torch.finfo(torch.float64).eps
    inputs = torch.cat([centred, ones_N1], dim=1)
    wanted_NC = F.one_hot(labels).to(vectors.dtype)
    gram = inputs.T @ inputs
    gram.diagonal()[:-1].add_(penalty)
    solved = torch.linalg.solve(gram, inputs.T)
    said_NC = inputs @ (solved @ wanted_NC)
    own_N1 = (inputs * solved.T).sum(dim=1, keepdim=True).clamp(max=1 - 1e-9)
    alone_NC = (said_NC - own_N1 * wanted_NC) / (1 - own_N1)
    return float((alone_NC.argmax(dim=1) == labels).double().mean())


def _spearman(one_ND: Tensor, other_ND: Tensor) -> float:
    ranks = [_pair_ranks(vectors[:_COMPARED]) for vectors in (one_ND, other_ND)]
    one, other = (rank - rank.mean() for rank in ranks)
    size = float(one.norm() * other.norm())
    return float(one @ other) / size if size > 0 else float("nan")


def _pair_ranks(vectors_ND: Tensor) -> Tensor:
    """Ranks of the cosines of all pairs, float64, equal ones with their mean rank."""
    unit = F.normalize(vectors_ND.double().cpu(), dim=1)
    above = torch.triu_indices(len(unit), len(unit), offset=1)
    cosines = (unit @ unit.T)[above[0], above[1]]
    return torch.from_numpy(ranks(cosines.numpy()))


def _overlap(one_ND: Tensor, other_ND: Tensor) -> float:
    every = torch.arange(len(one_ND))
    if len(every) < 2:
        return float("nan")
    near = [
        _nearest(F.normalize(vectors.double().cpu(), dim=1), every)
        for vectors in (one_ND, other_ND)
    ]
    shared_NK = (near[0][:, :, None] == near[1][:, None, :]).any(dim=2)
    return float(shared_NK.double().mean())


def _no_difference(one_ND: Tensor, other_ND: Tensor) -> Tensor:  # noqa: ARG001 - one signature
    return torch.full(one_ND.shape[:1], -torch.inf)


def _rank_correlations(ensemble_ND: Tensor, teachers: Mapping[str, Tensor]) -> Mapping[str, float]:
    found: Mapping[str, float] = retrieval_fidelity(ensemble_ND, ensemble_ND, teachers)["spearman"]
    return found


METRICS = TaskMetrics(
    kind="embedding",
    metric="map_10",
    ties="recall_1",
    lower_is_better=frozenset(),
    answer=unchanged,
    ensemble=lambda vectors: joined(list(vectors)),
    numbers=retrieval_metrics,
    tally=None,
    tallied=0,
    total=None,
    scores=average_precisions,
    from_scores=None,
    comparable=lambda vectors_ND: F.normalize(vectors_ND, dim=1),
    fidelity=retrieval_fidelity,
    difference=_no_difference,
    error=lambda numbers: 1 - numbers["map_10"],
    smallest_gap=lambda _: SMALLEST_GAP,
    calibrate=None,
    baseline="untrained",
    right_or_wrong=False,
    own_width=True,
    closeness=_rank_correlations,
)
