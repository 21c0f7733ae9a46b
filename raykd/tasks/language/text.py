"""How the numbers of a language model are told in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raykd.report.task import Gain, Measure, TaskText
from raykd.report.wording import mean_of, number, percent

_BITS = Measure(key="bits_per_byte", name="bits per byte", form=number)


def _spread(std: float) -> str:
    return number(std, 4)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _kept(own: float, whole: float) -> str:
    numbers = f"({number(own)} against {number(whole)})"
    if own <= whole:
        return f"It reaches the ensemble's bits per byte {numbers}"
    return f"It needs {percent(own / whole - 1)} more bits per byte than the ensemble {numbers}"


def _follows(fidelity: Mapping[str, Any]) -> str:
    agreement = percent(mean_of(fidelity["agreement_ensemble"]))
    kl = number(mean_of(fidelity["kl_ensemble_nats"]))
    return f"finds the ensemble's likeliest token in {agreement} of the test tokens (KL {kl} nats)"


TEXT = TaskText(
    metric=_BITS,
    spread=_spread,
    reached=lambda value: f"{number(value)} bits per byte of test text",
    gain=Gain(
        name="saving",
        signed=_signed,
        unit="",
        factor=1.0,
        better="fewer bits per byte",
        worse="more bits per byte",
        heading="bits per byte saved",
    ),
    second=Measure(key="token_accuracy", name="token accuracy", form=percent),
    numbers=(
        _BITS,
        Measure(key="token_accuracy", name="token accuracy", form=percent),
        Measure(key="perplexity", name="perplexity", form=number),
        Measure(key="nll", name="NLL (nats per token)", form=number),
    ),
    numbers_note="Bits per byte are the plain mean over the domains, and can be compared between tokenizers; token accuracy, "
    "perplexity and NLL are over all tokens, and only comparable within one tokenizer",
    panels=(
        Measure(key="bits_per_byte", name="validation bits per byte", form=number),
        Measure(key="token_accuracy", name="validation token accuracy", form=percent),
    ),
    kept=_kept,
    follows=_follows,
    fidelity=(
        Measure(
            key="agreement_ensemble", name="same likeliest token as the ensemble", form=percent
        ),
        Measure(key="kl_ensemble_nats", name="KL(ensemble ‖ student), nats per token", form=number),
    ),
    apart=Measure(key="kl_nats", name="KL(teacher ‖ student), nats per token, of", form=number),
    by_teacher=Measure(key="agreement", name="same likeliest token as", form=percent),
    hard="the ensemble's likeliest tokens",
    tile=lambda own, whole: (f"{own / whole:.3f}×", "the ensemble's bits per byte"),
    base="text alone",
    untaught="trained on the text alone",
    decisions="test tokens",
    group="domain",
    groups="domains",
)
