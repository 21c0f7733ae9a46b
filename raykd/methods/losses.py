"""The table of losses."""

from __future__ import annotations

from functools import partial

from raykd.methods.rows import Kind, Knob, LossRow

_STANDARDISE = {
    "standardise": Knob(
        False,
        "Z-score the logits of student and teachers first (LSKD, Sun et al. 2024; theirs: T = 2, weight 9).",
        argument=False,
    )
}
_STATISTICS = {
    "standardise": Knob(
        True,
        "Subtract the teacher's mean of each channel and divide by its deviation (UNIC, Sariyildiz et al.\n"
        "2024): running statistics over all workers, of all batches so far alike until each newer one\n"
        "counts `momentum`.",
        argument=False,
    ),
    "momentum": Knob(
        0.001, "Least share of a new batch in the running statistics.", gt=0, le=1, argument=False
    ),
}
_SCOPE = {
    "scope": Knob(
        "global",
        "Samples of the whole batch, whatever the number of workers, or of each worker by itself.",
        choices=("global", "local"),
        argument=False,
    )
}
_logits = partial(LossRow, kind="logits")
_pooled = partial(
    _logits, combines=("probabilities_then_temper", "logits", "losses"), default_temperature=1.0
)
_features = partial(LossRow, kind="features")
_relations = partial(_features, knobs=_SCOPE, combines=("relations", "losses"), vectors=True)
_gaussians = partial(
    LossRow, kind="gaussians", combines=("sampled", "routed"), default_temperature=1.0
)
_boxes = partial(LossRow, kind="boxes", default_temperature=1.0)
_BOX_WEIGHT = Knob(
    2.0, "Weight of 1 − GIoU beside the classes (Li et al. 2020, generalised focal loss: 2).", ge=0
)
_values = partial(LossRow, kind="values", combines=("values",))

LOSS_ROWS: dict[str, LossRow] = {
    "kl": _logits(
        path="raykd.losses.logits:kl",
        about="T²·KL(teacher ‖ student) at temperature T (Hinton et al. 2015).",
        formula="T² KL(p ‖ q)",
        paper="Hinton, Vinyals & Dean 2015, Sec. 2",
        knobs=_STANDARDISE,
        combines=("probabilities", "logits", "probabilities_then_temper", "losses"),
        default_weight=0.9,
    ),
    "reverse_kl": _logits(
        path="raykd.losses.logits:reverse_kl",
        about="T²·KL(student ‖ teacher) (MiniLLM, Gu et al. 2024).",
        formula="T² KL(q ‖ p)",
        paper="Gu et al. 2024 (MiniLLM), Sec. 2",
        knobs=_STANDARDISE,
        combines=("logits", "losses"),
    ),
    "js": _logits(
        path="raykd.losses.logits:js",
        about="Generalised Jensen-Shannon divergence (GKD, Agarwal et al. 2024), of the same strength at any β.",
        formula="T² [β KL(p ‖ m) + (1−β) KL(q ‖ m)] / (4β(1−β)), m = βp + (1−β)q",
        paper="Agarwal et al. 2024 (GKD); our normalisation",
        knobs={
            **_STANDARDISE,
            "beta": Knob(0.5, "β, the teacher's share of the mixture.", gt=0, lt=1),
        },
    ),
    "skew_kl": _logits(
        path="raykd.losses.logits:skew_kl",
        about="T²·KL(teacher ‖ α·teacher + (1−α)·student) (DistiLLM, Ko et al. 2024).",
        formula="T² KL(p ‖ αp + (1−α)q)",
        paper="Ko et al. 2024 (DistiLLM)",
        knobs={
            **_STANDARDISE,
            "alpha": Knob(0.1, "α, the teacher's share of the mixture.", ge=0, lt=1),
        },
    ),
    "mse": _logits(
        path="raykd.losses.logits:mse",
        about="Mean squared error of logits (Ba & Caruana 2014); in regression of standardised values.\n\n"
        "A teacher's temperature divides its logits; the objective's cancels out. Of embeddings: of the\n"
        "projected vectors.",
        formula="mean (z_s − z_t)²",
        paper="Ba & Caruana 2014, Sec. 2.2",
        knobs={
            **_STANDARDISE,
            "centred": Knob(
                False,
                "Subtract each sample's mean over the classes first: an offset then costs nothing.",
            ),
        },
        combines=("logits", "losses", "values"),
    ),
    "dkd": _logits(
        path="raykd.losses.logits:dkd",
        about="Decoupled knowledge distillation (Zhao et al. 2022): target class and other classes apart.\n\n"
        "An unlabelled or blended sample gets plain KL. Their warm-up is a schedule of the term's weight:\n"
        "`{type: linear, from: 0, to: 1, epochs: 20}`.",
        formula="T² [α TCKD + β NCKD]",
        paper="Zhao et al. 2022, Sec. 3",
        knobs={
            **_STANDARDISE,
            "alpha": Knob(1.0, "Weight of the target class's part.", ge=0),
            "beta": Knob(
                8.0,
                "Weight of the other classes' part; the paper's best is 0.5 to 8, by pair of networks.",
                ge=0,
            ),
        },
        needs=("labels",),
    ),
    "dist": _logits(
        path="raykd.losses.correlation:dist",
        about="Correlation of predictions within and between samples (DIST, Huang et al. 2022).\n\n"
        "Blind to the scale of the logits, so that T² multiplies its strength; theirs on CIFAR: T = 4.",
        formula="T² [β (1 − ρ_rows) + γ (1 − ρ_columns)]",
        paper="Huang et al. 2022 (DIST)",
        knobs={
            **_STANDARDISE,
            "beta": Knob(2.0, "Weight of the correlation over classes, of each sample.", ge=0),
            "gamma": Knob(2.0, "Weight of the correlation over samples, of each class.", ge=0),
            **_SCOPE,
        },
    ),
    "ttm": _pooled(
        path="raykd.losses.powers:ttm",
        about="KL to the teacher's p^γ, the student at temperature 1 (TTM, Zheng & Yang 2024).\n\n"
        "Theirs with γ = 0.1 has weight 45, beside cross-entropy with all labels and long schedules; with few labels\n"
        "it lost to kl. Of several teachers the mean of their probabilities is taken to the power.",
        formula="KL(p^γ / Σ p^γ ‖ q), q at T = 1",
        paper="Zheng & Yang 2024 (TTM)",
        knobs={"gamma": Knob(0.1, "γ, 1/T on the teacher's side alone; theirs: 0.1 to 0.5.", gt=0)},
        tempers=False,
    ),
    "wttm": _pooled(
        path="raykd.losses.powers:wttm",
        about="TTM, each sample times Σ p^γ: unsure answers count more (Zheng & Yang 2024).\n\n"
        "That sum is 1 to the number of classes, with which the strength grows.",
        formula="Σ p^γ · KL(p^γ / Σ p^γ ‖ q), q at T = 1",
        paper="Zheng & Yang 2024 (TTM)",
        knobs={
            "gamma": Knob(
                0.1, "γ, 1/T on the teacher's side alone; theirs: 0.1 to 0.5.", gt=0, le=1
            )
        },
        tempers=False,
    ),
    "nkd": _pooled(
        path="raykd.losses.powers:nkd",
        about="Target class and normalised other classes apart, as cross-entropies (NKD, Yang et al. 2023).\n\n"
        "Its value holds the teacher's entropy. An unlabelled sample takes the ensemble's most probable class.",
        formula="−p_y log q_y − γ T² Σ_{c≠y} P_c log Q_c",
        paper="Yang et al. 2023 (NKD)",
        knobs={"gamma": Knob(1.5, "γ, weight of the other classes.", ge=0)},
        needs=("labels",),
    ),
    "mlkd_class": _logits(
        path="raykd.losses.batch:mlkd_class",
        about="Match products of the classes' probabilities over the batch (MLKD, Jin et al. 2023).\n\n"
        "The published value grows with the square of the batch's size. Theirs: the mean over T = 2, 3, 4, 5, 6.",
        formula="‖PᵀP − QᵀQ‖² / C at temperature T",
        paper="Jin et al. 2023 (MLKD)",
        knobs={
            **_STANDARDISE,
            "per_sample": Knob(
                False, "Divide both products by the batch's size: of equal strength at any."
            ),
            **_SCOPE,
        },
    ),
    "mlkd_batch": _logits(
        path="raykd.losses.batch:mlkd_batch",
        about="Match products of the samples' probabilities over the classes (MLKD, Jin et al. 2023).",
        formula="‖PPᵀ − QQᵀ‖² / B at temperature T",
        paper="Jin et al. 2023 (MLKD)",
        knobs={**_STANDARDISE, **_SCOPE},
    ),
    "uld": _logits(
        path="raykd.losses.vocabularies:uld",
        about="Distance of sorted probabilities (ULD, Boizard et al. 2024), for teachers of another vocabulary.\n\n"
        "Blind to which class has which probability: of equal classes every other loss says more.",
        formula="T² ‖sort p − sort q‖₁",
        paper="Boizard et al. 2024 (ULD); our factor T²",
        knobs=_STANDARDISE,
    ),
    "gaussian_kl": _gaussians(
        path="raykd.losses.gaussians:gaussian_kl",
        about="KL of Gaussian policies, summed over the numbers of an action.",
        formula="Σ_a log(σ_s/σ_t) + (σ_t² + (μ_t − μ_s)²) / (2 σ_s²) − ½",
        paper="Kullback & Leibler 1951; as Rusu et al. 2015 (policy distillation), of continuous actions",
    ),
    "huber_means": _gaussians(
        path="raykd.losses.gaussians:huber_means",
        about="Huber loss of the means of Gaussian policies; their deviations are not learnt.",
        formula="mean h_δ(μ_s − μ_t)",
        paper="Huber 1964",
        knobs={"delta": Knob(1.0, "δ, where it turns linear, in the unit of the actions.", gt=0)},
    ),
    "dense_boxes": _boxes(
        path="raykd.losses.detection:dense_boxes",
        about="Detectors location by location: the quality-focal form of class probabilities, and GIoU of the boxes.\n\n"
        "Of several teachers the mean over those that know a class.",
        formula="Σ_n (Σ_c abs(q − p)^β BCE(q, p) + w m_n (1 − GIoU)) / Σ_n m_n",
        paper="Li et al. 2020 (generalised focal loss), eq. 4; as Wang et al. 2024 (CrossKD)",
        knobs={
            "beta": Knob(1.0, "β, how much more a probability counts that is further away.", ge=0),
            "box_weight": _BOX_WEIGHT,
            "localisation": Knob(
                0.0,
                "Weight of localisation distillation (LD, Zheng et al. 2022) of detectors with `bins`, summed over edges and bins,\n"
                "each location by the teacher's largest probability. Theirs: 0.25 of the mean over 17 bins, 0.015 here.",
                ge=0,
                argument=False,
                later=True,
            ),
            "edge_temperature": Knob(
                10.0, "T of localisation distillation.", gt=0, argument=False, later=True
            ),
        },
        combines=("locations",),
    ),
    "fused_boxes": _boxes(
        path="raykd.losses.detection:fused_boxes",
        about="The teachers' boxes, fused, as labels with soft scores.",
        formula="Σ_n (Σ_c abs(q − y)^β BCE(q, y) + w y_n (1 − GIoU)) / Σ_n y_n",
        paper="Solovyev et al. 2021 (weighted boxes fusion); Li et al. 2020 (generalised focal loss)",
        knobs={
            "beta": Knob(2.0, "β, as of the labels' loss.", ge=0),
            "box_weight": _BOX_WEIGHT,
            "bin_weight": Knob(
                0.25,
                "Weight of the distribution focal loss of a student with `bins` (Li et al. 2020).",
                later=True,
                ge=0,
            ),
            "threshold": Knob(
                0.3, "Fused boxes with a lower score are left out.", ge=0, le=1, argument=False
            ),
            "iou": Knob(0.55, "Overlap from which boxes are fused.", gt=0, lt=1, argument=False),
            "suppression": Knob(
                "hard",
                "Of each teacher's own boxes, before they are fused: those that overlap a surer one are dropped (hard), doubted (soft,\n"
                "Bodla et al. 2017), or all go in (none). Chosen when stored answers are read.",
                choices=("hard", "soft", "none"),
                argument=False,
                later=True,
            ),
        },
        combines=("boxes",),
    ),
    "hint": _features(
        path="raykd.losses.features:hint",
        about="Mean squared error of projected features (FitNets, Romero et al. 2015).",
        formula="mean (r(F_s) − F_t)²",
        paper="Romero et al. 2015 (FitNets), Sec. 2.2",
        layout="projected",
        default_weight=100.0,
    ),
    "attention": _features(
        path="raykd.losses.features:attention",
        about="Match spatial attention maps (Zagoruyko & Komodakis 2017).",
        formula="mean (A_s − A_t)², A = mean_c F² / ‖mean_c F²‖",
        paper="Zagoruyko & Komodakis 2017, Sec. 3.1",
        layout="positions",
        default_weight=1000.0,
    ),
    "attention_matrix": _features(
        path="raykd.losses.features:attention_matrix",
        about="Mean squared error of transformers' attention matrices (TinyBERT, Jiao et al. 2020).",
        formula="mean (A_s − A_t)² over heads, queries and keys",
        paper="Jiao et al. 2020 (TinyBERT)",
        layout="matrices",
    ),
    "nst": _features(
        path="raykd.losses.features:nst",
        about="Match the distribution of channels' selectivity (NST, Huang & Wang 2017).",
        formula="mean k(t,t) + mean k(s,s) − 2 mean k(s,t), k(a,b) = ⟨a,b⟩²",
        paper="Huang & Wang 2017, Sec. 4",
        layout="positions",
        default_weight=50.0,
    ),
    "fsp": LossRow(
        path="raykd.losses.features:fsp",
        kind="pairs",
        about="Match the flow between two layers (Yim et al. 2017): two taps on each side.",
        formula="mean (G_s − G_t)², G = F1 F2ᵀ / P",
        paper="Yim et al. 2017",
        layout="pairs",
        default_weight=50.0,
    ),
    "vid": _features(
        path="raykd.losses.features:vid",
        about="Gaussian likelihood with a learnt variance of each channel (VID, Ahn et al. 2019).\n\n"
        "The mean is a linear map of the student's feature (theirs has three layers).",
        formula="mean ½ [(μ(F_s) − F_t)²/σ² + log σ²]",
        paper="Ahn et al. 2019, Sec. 2",
        knobs={"initial_variance": Knob(5.0, "σ² to begin with.", gt=1e-4, argument=False)},
        layout="projected",
        state="variance",
        needs=("raw_variance",),
    ),
    "cosine": _features(
        path="raykd.losses.features:cosine",
        about="One minus cosine similarity of each position (AM-RADIO, UNIC).",
        formula="mean (1 − cos(s, t)) over positions",
        paper="Ranzinger et al. 2024 (AM-RADIO); Sariyildiz et al. 2024 (UNIC)",
        knobs={
            **_STATISTICS,
            "flatten": Knob(False, "One cosine of the whole flattened map (Theia)."),
        },
        layout="projected",
        vectors=True,
        state="statistics",
    ),
    "smooth_l1": _features(
        path="raykd.losses.features:smooth_l1",
        about="Smooth L1 distance (UNIC: half of it and half a cosine, two terms of weight 0.5).",
        formula="mean smooth-L1(s − (t − mean)/std)",
        paper="Sariyildiz et al. 2024 (UNIC)",
        knobs={**_STATISTICS, "beta": Knob(1.0, "Where it turns linear.", gt=0)},
        layout="projected",
        vectors=True,
        state="statistics",
    ),
    "cosine_smooth_l1": _features(
        path="raykd.losses.features:cosine_smooth_l1",
        about="One minus cosine and a smooth L1 distance of each position, added with shares (AM-RADIO, UNIC).",
        formula="mean a (1 − cos(s, t)) + (1 − a) smooth-L1(s − t) over positions",
        paper="Ranzinger et al. 2024 (AM-RADIO: a = 0.9); Sariyildiz et al. 2024 (UNIC: a = 0.5)",
        knobs={
            "share": Knob(0.5, "a, the share of the cosine.", ge=0, le=1),
            "beta": Knob(1.0, "Where the distance turns linear.", gt=0),
        },
        layout="projected",
        vectors=True,
    ),
    "similarity": _relations(
        path="raykd.losses.relational:similarity",
        about="Match similarities between samples (SP, Tung & Mori 2019).",
        formula="‖G_s − G_t‖² / B², G = row-normalised F Fᵀ",
        paper="Tung & Mori 2019, Sec. 3",
        default_weight=3000.0,
    ),
    "rkd_distance": _relations(
        path="raykd.losses.relational:rkd_distance",
        about="Match relative distances between samples (RKD-D, Park et al. 2019).",
        formula="mean huber(d_s/mean d_s − d_t/mean d_t)",
        paper="Park et al. 2019, Sec. 3.2",
        default_weight=25.0,
    ),
    "rkd_angle": _relations(
        path="raykd.losses.relational:rkd_angle",
        about="Match angles between triplets of samples (RKD-A, Park et al. 2019).",
        formula="mean huber(cos ∠_s − cos ∠_t) over triplets",
        paper="Park et al. 2019, Sec. 3.2",
        default_weight=50.0,
    ),
    "pkt": _relations(
        path="raykd.losses.relational:pkt",
        about="Match distributions over neighbours (PKT, Passalis & Tefas 2018).",
        formula="mean_ij P_ij log(P_ij / Q_ij), rows of (1 + cos)/2 normalised",
        paper="Passalis & Tefas 2018",
        default_weight=30000.0,
    ),
    "itrd": _features(
        path="raykd.losses.batch:itrd",
        about="Every feature correlates with the teacher's over the batch (ITRD, Miles et al. 2022).\n\n"
        "In bits, and below 0 where they are alike; theirs has the second term `itrd_mutual` beside it.",
        formula="log₂ Σ_d |c_d − 1|^{2α}, c_d the correlation of feature d",
        paper="Miles et al. 2022 (ITRD)",
        knobs={"alpha": Knob(1.5, "α.", gt=0), **_SCOPE},
        layout="projected",
        vectors=True,
        default_weight=2.0,
    ),
    "itrd_mutual": _features(
        path="raykd.losses.batch:itrd_mutual",
        about="Keep of the similarities between samples those that the teacher shares (ITRD, Miles et al. 2022).",
        formula="Σ (Ĝ_s² − Ĝ_st²), cosines divided by their trace",
        paper="Miles et al. 2022 (ITRD)",
        knobs=_SCOPE,
        vectors=True,
    ),
    "cwd": _features(
        path="raykd.losses.dense:cwd",
        about="Match where each channel is active (CWD, Shu et al. 2021): maps or tokens.",
        formula="τ² KL(softmax_p(t_c/τ) ‖ softmax_p(s_c/τ)), mean over channels",
        paper="Shu et al. 2021 (CWD)",
        knobs={"tau": Knob(1.0, "τ; theirs: 1 for features, 4 for maps of logits.", gt=0)},
        layout="dense",
        masked=True,
    ),
    "pkd": _features(
        path="raykd.losses.dense:pkd",
        about="Match features that are standardised per channel over batch and positions (PKD, Cao et al. 2022).",
        formula="½ mean (ŝ − t̂)², 1 − the mean correlation of channels",
        paper="Cao et al. 2022 (PKD)",
        knobs=_SCOPE,
        layout="projected",
        masked=True,
    ),
    "token_similarity": _features(
        path="raykd.losses.dense:token_similarity",
        about="Match similarities between the positions of one image (LightlyTrain 2025).",
        formula="KL(softmax_j(cos(t_i, t_j)/τ) ‖ softmax_j(cos(s_i, s_j)/τ)), mean over positions",
        paper="LightlyTrain 2025",
        knobs={"tau": Knob(0.07, "τ.", gt=0)},
        layout="positions",
    ),
    "srrl": _features(
        path="raykd.losses.heads:srrl",
        about="Equal pooled features, and equal logits of the teacher's own head (SRRL, Yang et al. 2021).\n\n"
        "Needs `teachers[].head`, and taps what that reads: a map or a vector.",
        formula="α mean (s̄ − t̄)² + β mean (W s̄ − W t̄)²",
        paper="Yang et al. 2021 (SRRL)",
        knobs={
            "alpha": Knob(1.0, "Weight of the features.", ge=0),
            "beta": Knob(5.0, "Weight of the logits.", ge=0),
        },
        layout="projected",
        needs=("head_weight",),
    ),
    "simkd": _features(
        path="raykd.losses.dense:simkd",
        about="Mean squared error of the last maps (SimKD, Chen et al. 2022).",
        formula="mean (c(F_s) − F_t)² at the smaller size",
        paper="Chen et al. 2022 (SimKD)",
        layout="projected",
        refused="makes a student that predicts with its teacher's last layer, and export writes the student alone; use "
        "hint at the teacher's last map",
    ),
    "huber": _values(
        path="raykd.losses.regression:huber",
        about="Quadratic up to `delta`, linear beyond (Huber 1964); of standardised values.",
        formula="mean huber(s − t)",
        paper="Huber 1964",
        knobs={"delta": Knob(1.0, "Where it turns linear, in standard deviations.", gt=0)},
    ),
    "bounded": _values(
        path="raykd.losses.regression:bounded",
        about="Squared error with the label until the student is better than the ensemble (Chen et al. 2017).\n\n"
        "Their total adds a smooth-L1 loss with the label: `labels: {loss: {type: huber}, weight: 1.0}`.",
        formula="‖s − y‖² where ‖s − y‖² + m > ‖t − y‖², else 0",
        paper="Chen et al. 2017",
        knobs={"margin": Knob(0.0, "m, in squared standard deviations.", ge=0)},
        needs=("labels",),
    ),
    "imitation": _values(
        path="raykd.losses.regression:imitation",
        about="Follow the ensemble where it is right (attentive imitation, Saputra et al. 2019).",
        formula="α ‖s − y‖² + (1−α) (1 − ‖t − y‖²/η) ‖s − t‖²",
        paper="Saputra et al. 2019",
        knobs={
            "alpha": Knob(0.5, "Share of the label.", ge=0, le=1),
            "error_range": Knob(
                None,
                "η, in squared standard deviations; null = the range of the ensemble's squared errors on\n"
                "validation (the paper: on training samples, where fitted teachers err too little to tell).",
                gt=0,
                argument=False,
            ),
        },
        needs=("labels", "error_range"),
    ),
    "bernoulli_kl": LossRow(
        path="raykd.losses.binary:bernoulli_kl",
        kind="labels",
        about="T²·KL(teacher ‖ student) of each label's probability at temperature T, mean over the labels.",
        formula="T² mean_k KL(σ(t_k) ‖ σ(s_k))",
        paper="Hinton, Vinyals & Dean 2015, for each label by itself",
        combines=("probabilities", "logits"),
        default_weight=0.9,
    ),
}


def losses_of(*kinds: Kind) -> tuple[str, ...]:
    """Names of the losses of these kinds, one kind after another."""
    return tuple(name for kind in kinds for name, row in LOSS_ROWS.items() if row.kind == kind)


def feature_losses() -> tuple[str, ...]:
    """Names of the losses of a feature term."""
    return tuple(name for name, row in LOSS_ROWS.items() if row.kind in ("features", "pairs"))


def soft_losses() -> tuple[str, ...]:
    """Names of the losses of the soft targets; those of embeddings come last."""
    vectors = (name for name, row in LOSS_ROWS.items() if row.vectors)
    return (*losses_of("logits", "values", "labels", "gaussians", "boxes"), *vectors)
