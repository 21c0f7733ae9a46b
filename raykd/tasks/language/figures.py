"""What a report of a language model shows beside what it shows of every task: its numbers domain by domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raykd.data.chunks import CHUNK, DOMAIN, TOKEN
from raykd.evaluate.likelihood import BITS_PER_BYTE
from raykd.report.folder import RunData
from raykd.report.tables import Cell, Table, dot
from raykd.report.task import TaskFigures
from raykd.report.wording import NONE, number, role_name
from raykd.tasks.language.metrics import LOG_P

_SHOWN = 12
"""Chunks of test that are shown as text."""
_LONGEST = 120


def _bits(numbers: Mapping[str, Any] | None, domains: int) -> list[float | None]:
    """Bits per byte of each domain: of several replicas the mean."""
    keys = [BITS_PER_BYTE] if domains == 1 else [f"{BITS_PER_BYTE}.{n}" for n in range(domains)]
    found = [None if numbers is None else numbers.get(key) for key in keys]
    return [one["mean"] if isinstance(one, Mapping) else one for one in found]


def by_domain(run: RunData) -> Table | None:
    """Bits per byte of every model on the test text of each domain."""
    summary, evaluation = run.summary, run.evaluation
    if evaluation is None or not evaluation.classes:
        return None
    domains, models = evaluation.classes, [("student", summary["student"])]
    models += list(summary.get("controls", {}).items())
    models += [("ensemble", summary["ensemble"]), *summary["teachers"].items()]
    values = [(name, _bits(one.get("test"), len(domains))) for name, one in models]
    return Table(
        name="domains",
        title="Bits per byte by domain",
        columns=("model", *domains),
        rows=[
            (role_name(name), *(NONE if v is None else number(v) for v in bits))
            for name, bits in values
        ],
        records=[(name, *bits) for name, bits in values],
        fields=("model", *domains),
        note="On test; of students the mean over replicas. A teacher of one domain is shown on the others, too.",
        dots=[dot(name) for name, _ in values],
    )


def _bits_of(columns_NA: Tensor) -> Tensor:
    """Bits of each token."""
    return -columns_NA[:, LOG_P].double() / math.log(2)


def samples_of_text(run: RunData) -> Table | None:
    """Pieces of test text, and how many bits student and ensemble need for each; those that differ most."""
    test = None if run.evaluation is None else run.evaluation.splits["test"]
    if test is None or "student" not in test.students or run.evaluation is None:
        return None
    if run.tokenizer is None:
        return None
    labels = test.labels_N
    chunks, chunk_N = labels[:, CHUNK].unique(return_inverse=True)
    own, whole = (
        torch.zeros(len(chunks), dtype=torch.float64).index_add_(0, chunk_N, _bits_of(one))
        for one in (test.students["student"][0], test.ensemble)
    )
    tokens_M = chunk_N.bincount(minlength=len(chunks))
    order = ((own - whole).abs() / tokens_M).argsort(descending=True)[:_SHOWN].tolist()
    rows: list[tuple[str, ...]] = []
    records: list[tuple[Cell, ...]] = []
    for place in order:
        units = labels[chunk_N == place]
        domain = run.evaluation.classes[int(units[0, DOMAIN])]
        text = run.tokenizer.text(units[:, TOKEN].tolist()).decode(errors="replace")[:_LONGEST]
        shown = " ".join(text.split())
        numbers = [float(bits[place]) / int(tokens_M[place]) for bits in (own, whole)]
        rows.append((shown, domain, *map(number, numbers)))
        records.append((shown, domain, *numbers))
    return Table(
        name="texts",
        title="Pieces of test text",
        columns=("text", "domain", "student, bits per token", "ensemble"),
        rows=rows,
        records=records,
        fields=("text", "domain", "student_bits", "ensemble_bits"),
        note="Those for which student and ensemble differ most, per token.",
    )


FIGURES = TaskFigures(tables=(by_domain, samples_of_text))
