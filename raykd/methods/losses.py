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
_features = partial(LossRow, kind="features")
_relations = partial(_features, knobs=_SCOPE, combines=("relations", "losses"), vectors=True)
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
    "uld": _logits(
        path="raykd.losses.vocabularies:uld",
        about="Distance of sorted probabilities (ULD, Boizard et al. 2024), for teachers of another vocabulary.\n\n"
        "Blind to which class has which probability: of equal classes every other loss says more.",
        formula="T² ‖sort p − sort q‖₁",
        paper="Boizard et al. 2024 (ULD); our factor T²",
        knobs=_STANDARDISE,
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
    return (*losses_of("logits", "values", "labels"), *vectors)
