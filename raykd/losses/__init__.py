"""Losses between a student and one teacher (or one combined target): pure functions of tensors.

Every loss is `(student, teacher, *, knobs) -> loss_N`, unreduced; the mean of loss_N equals the
published definition, with KL summed over classes and multiplied by T², and the feature losses as in
the code of the CRD benchmark. The teacher is always detached. Half precision is raised to float32.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from raykd.losses.binary import bernoulli_kl
from raykd.losses.common import standardised
from raykd.losses.correlation import dist
from raykd.losses.features import (
    attention,
    attention_matrix,
    cosine,
    fsp,
    hint,
    nst,
    smooth_l1,
    vid,
)
from raykd.losses.info import LossInfo
from raykd.losses.logits import dkd, js, kl, kl_from_log_probs, mse, reverse_kl, skew_kl
from raykd.losses.regression import bounded, huber, imitation
from raykd.losses.relational import pkt, rkd_angle, rkd_distance, similarity

LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "skew_kl": skew_kl,
    "mse": mse,
    "dkd": dkd,
    "dist": dist,
    "hint": hint,
    "attention": attention,
    "attention_matrix": attention_matrix,
    "nst": nst,
    "fsp": fsp,
    "vid": vid,
    "cosine": cosine,
    "smooth_l1": smooth_l1,
    "similarity": similarity,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "pkt": pkt,
    "huber": huber,
    "bounded": bounded,
    "imitation": imitation,
    "bernoulli_kl": bernoulli_kl,
}

INFO: dict[str, LossInfo] = {
    "kl": LossInfo(
        kind="logits",
        formula="T² KL(p ‖ q)",
        paper="Hinton, Vinyals & Dean 2015, Sec. 2",
        default_weight=0.9,
    ),
    "reverse_kl": LossInfo(
        kind="logits",
        formula="T² KL(q ‖ p)",
        paper="Gu et al. 2024 (MiniLLM), Sec. 2",
    ),
    "js": LossInfo(
        kind="logits",
        formula="T² [β KL(p ‖ m) + (1−β) KL(q ‖ m)] / (4β(1−β)), m = βp + (1−β)q",
        paper="Agarwal et al. 2024 (GKD); our normalisation",
    ),
    "skew_kl": LossInfo(
        kind="logits",
        formula="T² KL(p ‖ αp + (1−α)q)",
        paper="Ko et al. 2024 (DistiLLM)",
    ),
    "mse": LossInfo(
        kind="logits",
        formula="mean (z_s − z_t)²",
        paper="Ba & Caruana 2014, Sec. 2.2",
    ),
    "dkd": LossInfo(
        kind="logits",
        formula="T² [α TCKD + β NCKD]",
        paper="Zhao et al. 2022, Sec. 3",
        needs=("labels",),
    ),
    "dist": LossInfo(
        kind="logits",
        formula="T² [β (1 − ρ_rows) + γ (1 − ρ_columns)]",
        paper="Huang et al. 2022 (DIST)",
        per_sample=False,
        scope=True,
    ),
    "hint": LossInfo(
        kind="features",
        formula="mean (r(F_s) − F_t)²",
        paper="Romero et al. 2015 (FitNets), Sec. 2.2",
        default_weight=100.0,
    ),
    "attention": LossInfo(
        kind="features",
        formula="mean (A_s − A_t)², A = mean_c F² / ‖mean_c F²‖",
        paper="Zagoruyko & Komodakis 2017, Sec. 3.1",
        default_weight=1000.0,
    ),
    "attention_matrix": LossInfo(
        kind="features",
        formula="mean (A_s − A_t)² over heads, queries and keys",
        paper="Jiao et al. 2020 (TinyBERT)",
    ),
    "nst": LossInfo(
        kind="features",
        formula="mean k(t,t) + mean k(s,s) − 2 mean k(s,t), k(a,b) = ⟨a,b⟩²",
        paper="Huang & Wang 2017, Sec. 4",
        default_weight=50.0,
    ),
    "fsp": LossInfo(
        kind="pairs",
        formula="mean (G_s − G_t)², G = F1 F2ᵀ / P",
        paper="Yim et al. 2017",
        default_weight=50.0,
    ),
    "vid": LossInfo(
        kind="features",
        formula="mean ½ [(μ(F_s) − F_t)²/σ² + log σ²]",
        paper="Ahn et al. 2019, Sec. 2",
        needs=("raw_variance",),
    ),
    "cosine": LossInfo(
        kind="features",
        formula="mean (1 − cos(s, t)) over positions",
        paper="Ranzinger et al. 2024 (AM-RADIO); Sariyildiz et al. 2024 (UNIC)",
    ),
    "smooth_l1": LossInfo(
        kind="features",
        formula="mean smooth-L1(s − (t − mean)/std)",
        paper="Sariyildiz et al. 2024 (UNIC)",
    ),
    "similarity": LossInfo(
        kind="features",
        formula="‖G_s − G_t‖² / B², G = row-normalised F Fᵀ",
        paper="Tung & Mori 2019, Sec. 3",
        default_weight=3000.0,
        per_sample=False,
        scope=True,
    ),
    "rkd_distance": LossInfo(
        kind="features",
        formula="mean huber(d_s/mean d_s − d_t/mean d_t)",
        paper="Park et al. 2019, Sec. 3.2",
        default_weight=25.0,
        per_sample=False,
        scope=True,
    ),
    "rkd_angle": LossInfo(
        kind="features",
        formula="mean huber(cos ∠_s − cos ∠_t) over triplets",
        paper="Park et al. 2019, Sec. 3.2",
        default_weight=50.0,
        per_sample=False,
        scope=True,
    ),
    "pkt": LossInfo(
        kind="features",
        formula="mean_ij P_ij log(P_ij / Q_ij), rows of (1 + cos)/2 normalised",
        paper="Passalis & Tefas 2018",
        default_weight=30000.0,
        per_sample=False,
        scope=True,
    ),
    "huber": LossInfo(
        kind="values",
        formula="mean huber(s − t)",
        paper="Huber 1964",
    ),
    "bounded": LossInfo(
        kind="values",
        formula="‖s − y‖² where ‖s − y‖² + m > ‖t − y‖², else 0",
        paper="Chen et al. 2017",
        needs=("labels",),
    ),
    "imitation": LossInfo(
        kind="values",
        formula="α ‖s − y‖² + (1−α) (1 − ‖t − y‖²/η) ‖s − t‖²",
        paper="Saputra et al. 2019",
        needs=("labels", "error_range"),
    ),
    "bernoulli_kl": LossInfo(
        kind="labels",
        formula="T² mean_k KL(σ(t_k) ‖ σ(s_k))",
        paper="Hinton, Vinyals & Dean 2015, for each label by itself",
        default_weight=0.9,
    ),
}

__all__ = [
    "INFO",
    "LOSSES",
    "LossInfo",
    "attention",
    "attention_matrix",
    "bernoulli_kl",
    "bounded",
    "cosine",
    "dist",
    "dkd",
    "fsp",
    "hint",
    "huber",
    "imitation",
    "js",
    "kl",
    "kl_from_log_probs",
    "mse",
    "nst",
    "pkt",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "similarity",
    "skew_kl",
    "smooth_l1",
    "standardised",
    "vid",
]
