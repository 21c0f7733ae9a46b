"""The table of weightings."""

from __future__ import annotations

from raykd.methods.rows import Knob, WeightingRow

WEIGHTING_ROWS: dict[str, WeightingRow] = {
    "uniform": WeightingRow(
        path="raykd.ensemble.given:uniform",
        about="Every teacher counts the same (You et al. 2017).",
        formula="1/K",
        paper="You et al. 2017",
        looks=False,
    ),
    "fixed": WeightingRow(
        path="raykd.ensemble.given:fixed",
        about="Given weights, normalised to 1 over the teachers that answered.",
        formula="given w_k",
        paper="given weights",
        knobs={
            "weights": Knob(
                ...,
                "Teacher name -> weight; all teachers must be named.",
                ge=0,
                per_teacher=True,
                argument=False,
            )
        },
        needs=("weights",),
        looks=False,
    ),
    "accuracy": WeightingRow(
        path="raykd.ensemble.given:accuracy",
        about="In proportion to a power of the accuracy on validation.",
        formula="a_k^power, a = validation accuracy",
        paper="weighted voting",
        knobs={"power": Knob(1.0, "0 is uniform; larger values favour the best teacher.", ge=0)},
        needs=("accuracies",),
        looks=False,
    ),
    "inverse_error": WeightingRow(
        path="raykd.ensemble.given:inverse_error",
        about="In inverse proportion to the error on validation: mean squared in regression, else the NLL.",
        formula="1/e_k, e = validation error",
        paper="inverse-variance mean",
        needs=("errors",),
        looks=False,
    ),
    "stacking": WeightingRow(
        path="raykd.ensemble.stacking:stacking",
        about="Of greatest likelihood on half of validation, shrunk to equal ones; for calibrated teachers (Yao et al. 2018).",
        formula="1/K + n/(n+n_0) (w*_k − 1/K), w* = argmax Σ log Σ_k w_k p_k(y)",
        paper="Yao et al. 2018 (log score), by EM",
        knobs={
            "prior": Knob(
                500.0,
                "n_0: with so many labelled samples in that half the weights lie half-way between equal and best ones.",
                ge=0,
                argument=False,
            )
        },
        needs=("stacked",),
        looks=False,
    ),
    "entropy": WeightingRow(
        path="raykd.ensemble.certainty:entropy",
        about="The surer a teacher is of a sample, the more it counts (EBKD, Kwon et al. 2020).",
        formula="1 − H_k / Σ_j H_j",
        paper="Kwon et al. 2020 (EBKD), as in the CA-MKD code",
        knobs={
            "temperature": Knob(
                1.0,
                "Of the probabilities whose entropy it is; a teacher's own temperature multiplies it.",
                gt=0,
            ),
            "paper_code_scale": Knob(
                False,
                "Weaken the soft targets to (K−1)/K for K teachers, as the re-implementation in CA-MKD's code does.",
                argument=False,
            ),
        },
        paper_scale=lambda teachers: (teachers - 1) / teachers,
    ),
    "confidence": WeightingRow(
        path="raykd.ensemble.certainty:confidence",
        about="The better a teacher predicts a sample's label, the more it counts (CA-MKD, Zhang et al. 2022).",
        formula="(1 − softmax_k(CE_k)) / (K−1)",
        paper="Zhang et al. 2022 (CA-MKD)",
        knobs={
            "unlabelled": Knob(
                "uniform",
                "Unlabelled (or blended) samples: all the same, or the ensemble's argmax stands for the label.",
                choices=("uniform", "ensemble_argmax"),
            ),
            "paper_code_scale": Knob(
                False,
                "Weaken the soft targets to 1/K for K teachers, as the authors' code does (which the paper does not).",
                argument=False,
            ),
        },
        needs=("labels",),
        paper_scale=lambda teachers: 1 / teachers,
    ),
    "gradient": WeightingRow(
        path="raykd.ensemble.gradients:gradient",
        about="The shortest combined gradient of the teachers' KL (AE-KD, Du et al. 2020).",
        formula="argmin ‖Σ_k w_k (q − p_k)‖², Σw = 1, 0 ≤ w_k ≤ C_tol",
        paper="Du et al. 2020 (AE-KD)",
        knobs={
            "tolerance": Knob(
                0.6, "C_tol, the largest weight; raised to 1/K where it is less.", gt=0, le=1
            ),
            "gram": Knob(
                "per_sample",
                "Weights of each sample; or shared ones, from inner products summed over the samples, or of the\n"
                "batch's mean gradients as in the authors' code.",
                choices=("per_sample", "summed", "batch"),
            ),
        },
        needs=("student_logits",),
        supplied=("temperature", "gather"),
        stored=False,
    ),
    "bayesian": WeightingRow(
        path="raykd.ensemble.tokens:bayesian",
        about="The better a teacher predicted the tokens before, the more it counts for the next one; needs no domains.",
        formula="π_k Π_{s<t} p_k(y_s)^(γ^(t−1−s))",
        paper="Bayes' rule; Cesa-Bianchi & Lugosi 2006, Ch. 9",
        knobs={
            "forgetting": Knob(
                1.0,
                "γ: how much a token counts one token later; below 1 older ones fade.",
                ge=0,
                le=1,
            ),
            "prior": Knob(
                None,
                "Teacher name -> π, what it counts where a chunk begins; null = all alike.",
                gt=0,
                per_teacher=True,
                argument=False,
            ),
        },
        needs=("labels",),
        supplied=("offsets", "own_TN"),
        looks=False,
        sequences=True,
    ),
    "routed": WeightingRow(
        path="raykd.ensemble.tokens:routed",
        about="One teacher for each domain of texts, or simulator that a state is from: the one whose `domains` name it; all alike where none does.",
        formula="1 for the teacher of the unit's domain",
        paper="multi-teacher routing, as in MiMo-V2-Flash (2026)",
        supplied=("route_N",),
        looks=False,
    ),
    "agreement": WeightingRow(
        path="raykd.ensemble.certainty:agreement",
        about="Only the teachers in the majority count.",
        formula="1[votes for argmax z_k are the most]",
        paper="vote",
    ),
    "sample": WeightingRow(
        path="raykd.ensemble.stochastic:sample",
        about="One teacher at a time, drawn anew in each step.",
        formula="1 for one teacher drawn from π",
        paper="stochastic teachers",
        knobs={
            "per": Knob(
                "sample",
                "A draw for each sample, or one for the batch.",
                choices=("sample", "batch"),
            ),
            "probabilities": Knob(
                None,
                "Teacher name -> how often, relative to the others; null = all alike.",
                ge=0,
                per_teacher=True,
                argument=False,
            ),
        },
        supplied=("seed", "units_N"),
        random=True,
        looks=False,
    ),
    "drop": WeightingRow(
        path="raykd.ensemble.stochastic:drop",
        about="The teacher the student is worst at, and each other one by chance (UNIC, Sariyildiz et al. 2024).",
        formula="1 for the highest loss, else 1 with probability ½",
        paper="Sariyildiz et al. 2024 (UNIC)",
        knobs={"probability": Knob(0.5, "Of leaving out a teacher.", ge=0, le=1)},
        needs=("losses_TN",),
        stored=False,
        supplied=("seed", "units_N"),
        random=True,
        looks=False,
    ),
}
