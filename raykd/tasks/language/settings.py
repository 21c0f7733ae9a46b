"""The next token of a text, from the tokens before it. What a recipe may say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raykd.config.models import OF_TOKENS, FactoryModel, HfModel
from raykd.config.tasks import CONTROLS, NO_VECTORS, TaskSettings
from raykd.errors import Problem

if TYPE_CHECKING:
    from raykd.config.root import Config

_NAMES = "gru_lm, transformer_lm, hf with task: causal, or a factory (teachers also ngram, engine)"


def _problems(config: Config) -> Iterator[Problem]:
    models = {"student.model": config.student.model}
    models |= {f"teachers.{one.name}.model": one.model for one in config.teachers if one.model}
    models |= {f"evaluate.compare.{one.name}.model": one.model for one in config.evaluate.compare}
    for key, model in models.items():
        causal = isinstance(model, HfModel) and model.task == "causal"
        if not causal and not isinstance(model, (*OF_TOKENS, FactoryModel)):
            yield Problem(
                f"{key}.type", f"found {model.type}, which predicts no tokens; use {_NAMES}"
            )
    for teacher in config.teachers:
        if teacher.outputs is not None:
            yield Problem(
                f"teachers.{teacher.name}.outputs",
                "have a row for each sample, and a text has many tokens: name a model, whose answers are kept as well",
            )
    if config.objective.labels.replaces:
        yield Problem(
            "objective.labels.mode",
            "found replace: every token has its label, so nothing of the teachers would be left; set it to add",
        )
    soft = config.objective.soft_targets
    if soft is not None and not soft.tail and soft.mixing != "probabilities":
        yield Problem(
            "objective.soft_targets.tail",
            f"found false with combine={soft.mixing}; only a mixture of probabilities is compared without its tail: use the "
            "loss kl, or leave it out",
        )


SETTINGS = TaskSettings(
    select=("bits_per_byte", "nll"),
    label_losses=(),
    soft_losses=("kl", "reverse_kl", "js", "skew_kl"),
    combine=("probabilities", "logits", "losses"),
    weightings=("uniform", "fixed", "entropy", "bayesian", "routed"),
    expect=("bits_per_byte",),
    kinds=("logits", "log_probabilities"),
    controls=CONTROLS,
    unused={
        **NO_VECTORS,
        "data.labels": None,
        "data.views.policy": (),
        "folds": None,
        "objective.choose": None,
        "objective.features": (),
        "objective.labels.fill": "none",
        "objective.labels.class_weights": None,
        "objective.soft_targets.sharpen": None,
        "objective.soft_targets.disagreement": None,
        "teachers.*.temperature": 1.0,
        "teachers.*.label_map": None,
        "evaluate.compare.*.label_map": None,
    },
    defaults={
        "objective": {"soft_targets": {"temperature": 1.0}},
    },
    class_logits=True,
    chunks=True,
    problems=_problems,
)
