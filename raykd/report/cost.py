"""What the student costs beside the ensemble, in words; pure functions of the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from raykd.evaluate.latency import LONGEST_CALL_S, Conditions, overhead_ms
from raykd.report.wording import count, listed, milliseconds, percent, times

AGAIN = "`raykd report RUN --measure`"
ONE, MANY = "1", "256"
_MOSTLY = 0.5
_FIELDS = [field.name for field in fields(Conditions)]
Summary = Mapping[str, Any]


def cost_words(summary: Summary) -> list[str]:
    """Ratios to the ensemble, what of them is overhead of calls, and whether latency can be trusted: sentences."""
    ratio, student, ensemble = summary["cost"], summary["student"], summary["ensemble"]
    parts = []
    if ratio["parameters"]:
        sizes = f"{count(student['parameters'])} instead of {count(ensemble['parameters'])}"
        parts.append(f"has {_fewer(ratio['parameters'])} parameters ({sizes})")
    if ratio["flops"]:
        parts.append(f"needs {_fewer(ratio['flops'])} FLOPs")
    parts += _answers(summary)
    if not parts:
        return [*_on_policy(summary), *in_students(summary)]
    return [
        f"Set against the whole ensemble it {listed(parts)}.",
        *_overhead(summary),
        *trust(summary),
        *_on_policy(summary),
        *in_students(summary),
    ]


def in_students(summary: Summary) -> list[str]:
    """That teachers computed where students did."""
    told = summary["targets"]
    if told.get("teachers_in") != "student":
        return []
    return [
        f"Teachers computed in the students' own processes, {count(told['teacher_samples_scored'])} samples in all."
    ]


def _on_policy(summary: Summary) -> list[str]:
    """What the teachers were asked about texts that students wrote themselves."""
    told = summary["targets"].get("on_policy")
    if not told:
        return []
    return [
        f"In training, students wrote {count(told['sequences'])} texts themselves, in {count(told['rounds'])} rounds of "
        f"{count(told['fits'])} fits, of which teachers scored {count(told['teacher_tokens'])} tokens."
    ]


def latency_tile(summary: Summary) -> tuple[str, str, str] | None:
    """How many times faster the student is: value, of what, and the other batch; None where it is not, or not known.

    Where most of the ensemble's time for one sample is overhead of its calls, that is the ratio of a batch of 256.
    """
    ratios = summary["cost"]["latency"]
    mostly_overhead = _mostly_overhead(summary)
    main, other = (MANY, ONE) if mostly_overhead else (ONE, MANY)
    value = ratios.get(main)
    if not value or value < 1:
        return None
    names = {ONE: "one sample", MANY: "batch of 256"}
    detail = f"{names[other]}: {ratios[other]:.1f}×" if ratios.get(other) else ""
    if detail and mostly_overhead:
        detail += ", mostly overhead of calls"
    return f"{value:.1f}×", f"faster, {names[main]}", detail


def latency_note(summary: Summary) -> str:
    """How latency was measured: a sentence for below a table."""
    if summary.get("latency") is None:
        return "Latency is on one thread."  # by an earlier version: a median
    return "Latency is that of the shortest call on one thread, all models in turns."


OVERHEAD_NOTE = (
    "Overhead is what a call takes whatever its batch: t(B) = overhead + B × the time of a sample, from batches of 1 and "
    f"256. A batch whose call is expected to take more than {LONGEST_CALL_S:g} s is not run."
)


def trust(summary: Summary, again: str = AGAIN) -> list[str]:
    """Sentences for what makes latency doubtful; none on a quiet machine, or where it is not known.

    Args:
        summary: of a run, or of a search.
        again: what measures it again.
    """
    seen = summary.get("latency")
    if not seen:
        return []
    found = []
    if seen["busy"]:
        signs = Conditions(**{name: seen[name] for name in _FIELDS}).signs
        found.append(
            f"The machine was busy while latency was measured ({signs}): measure again with {again} when nothing else runs."
        )
    if seen["threaded"]:
        found.append(
            f"Calls of {', '.join(seen['threaded'])} kept several CPUs at work, so their latency is not that of one "
            "thread."
        )
    return found


def _answers(summary: Summary) -> list[str]:
    """How much faster the student answers one sample, and a batch of 256; the former only where it says something."""
    ratios, found = summary["cost"]["latency"], []
    if ratios.get(ONE) and not _mostly_overhead(summary):
        found.append(
            f"answers one sample {_faster(ratios[ONE])} ({_took(summary, ONE)}, one thread)"
        )
    if ratios.get(MANY):
        verb, thread = ("", "") if found else ("answers ", ", one thread")
        faster = _faster(ratios[MANY])
        found.append(f"{verb}a batch of 256 {faster} ({_took(summary, MANY)}{thread})")
    return found


def _overhead(summary: Summary) -> list[str]:
    """What of the ensemble's time for one sample is overhead, where that is most of it."""
    ratio, ensemble = summary["cost"]["latency"].get(ONE), summary["ensemble"]["latency_ms"]
    if not ratio or not _mostly_overhead(summary):
        return []
    known = {name: overhead_ms(one["latency_ms"]) for name, one in summary["teachers"].items()}
    most = max(known, key=lambda name: known[name] or 0.0)
    whose = f", of {most} most of all" if len(known) > 1 else ""
    share = percent((overhead_ms(ensemble) or 0.0) / ensemble[ONE], 0)
    return [
        f"One sample takes it {_took(summary, ONE)} ({_faster(ratio)}), but {share} of the ensemble's time is overhead of "
        f"its calls{whose}, which a batch pays once."
    ]


def _mostly_overhead(summary: Summary) -> bool:
    """Whether the ensemble's time for one sample is mostly overhead of its calls."""
    latency = summary["ensemble"]["latency_ms"]
    overhead = overhead_ms(latency)
    return overhead is not None and overhead > _MOSTLY * latency[ONE]


def _took(summary: Summary, size: str) -> str:
    own, whole = (summary[who]["latency_ms"][size] for who in ("student", "ensemble"))
    return f"{milliseconds(own)} instead of {milliseconds(whole)}"


def _fewer(ratio: float) -> str:
    return f"{times(ratio)} fewer" if ratio >= 1 else f"{times(1 / ratio)} more"


def _faster(ratio: float) -> str:
    return f"{times(ratio)} faster" if ratio >= 1 else f"{times(1 / ratio)} slower"
