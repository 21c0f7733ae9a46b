"""The model card: `README.md` with Hugging Face's metadata in front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd import __version__
from raykd.config import Config
from raykd.config.base import Settings
from raykd.config.engines import EngineModel
from raykd.config.models import HfModel, ObjectModel
from raykd.config.sources import ObjectSource
from raykd.evaluate import Evaluation
from raykd.evaluate.statistics import t_interval
from raykd.export.description import Description
from raykd.export.front_matter import front_matter
from raykd.export.int8_comparison import Comparison
from raykd.export.int8_format import INT8_GRAPH
from raykd.export.onnx_format import GRAPH
from raykd.export.raw_columns import NUMBERS, WORDS, RawColumns, raw_columns
from raykd.export.task import quoted
from raykd.export.torch_format import PROGRAM
from raykd.export.weights_format import DESCRIPTION
from raykd.export.writing import BATCHES, Written
from raykd.models.zoo.hubs import HF_CLASSES
from raykd.shown import for_markdown
from raykd.tasks import find_task, known_task
from raykd.types import UNKNOWN_WORD, is_labelled

Record = Mapping[str, Any]
_ONNX = """\
import json, onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
{outputs} = session.run(None, {feed})  # {what}
"""
_TORCH = """\
import torch

student = torch.export.load("model.pt2").module()
{outputs} = student(samples)
"""
_RAYKD = """\
import raykd

student = raykd.load_student(".")
{last} = student({{{source}: samples}})
"""
_RAYKD_TEXTS = """\
import raykd, torch
from raykd.data import encode_texts
from raykd.tasks import find_task, known_task
from raykd.types import is_labelled

student = raykd.load_student(".")
{last} = student({{{source}: torch.from_numpy(encode_texts(["some text"]))}})
"""
_PRETRAINED = """\
from transformers import {auto}

student = {auto}.from_pretrained("transformers")  # takes what the model that it began as takes
"""
_SHOWN = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Story:
    """What a card tells.

    Attributes:
        name: of the run.
        about: the student's description.
        outputs: names of its outputs -> what each means.
        config: the resolved recipe.
        summary: summary.json.
        cards: teacher -> card.
        evaluation: outputs of all models; None where the run's folder has it no more.
        verdict: what distillation was worth, as sentences.
        written: format -> bytes, latency, parity.
        processor: that the latencies were measured on.
        disturbed: by what it is seen that it was busy then; empty where it was not.
        int8: the student in 8 bits held against the one of float32; None where it was not asked for.
    """

    name: str
    about: Description
    outputs: Mapping[str, str]
    config: Config
    summary: Record
    cards: Mapping[str, Record]
    evaluation: Evaluation | None
    verdict: Sequence[str]
    written: Mapping[str, Written]
    processor: str
    disturbed: str = ""
    int8: Comparison | None = None


def write_card(story: Story) -> str:
    """The card as Markdown."""
    taught = f"taught by {len(story.cards)} teacher{'s' if len(story.cards) != 1 else ''}"
    parts = [
        front_matter(
            story.name, story.about, story.config, story.summary["student"]["test"], story.written
        ),
        f"# {for_markdown(story.name)}\n\nA student for {story.about.task}, {taught}, made by raykd {__version__}.",
        *(
            []
            if not story.verdict
            else ["\n".join(f"* {for_markdown(line)}" for line in story.verdict)]
        ),
        "## Intended use\n\n" + _intended(story),
        "## Use\n\n" + _use(story),
        "## Files\n\n" + _files(story),
        *([] if story.int8 is None else ["## 8 bits\n\n" + _int8(story, story.int8)]),
        "## Test\n\n" + _metrics(story.summary),
        "## Method\n\n" + _method(story),
        "## Teachers\n\n" + _teachers(story),
        "## Data\n\n" + _data(story),
        "## Limits\n\n" + _limits(story),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _intended(story: Story) -> str:
    about, student = story.about, story.summary["student"]
    shape = "×".join(map(str, about.input.shape))
    shown = about.preprocessing
    inputs = f"inputs of {shape}" if shown.tokens is None and shown.chunks is None else "texts"
    outputs = find_task(about.task).export.sized(len(about.classes))
    sizes = [student.get("parameters"), story.summary.get("ensemble", {}).get("parameters")]
    cost = (
        f"It has {sizes[0]:,} parameters; its teachers together have {sizes[1]:,}."
        if all(sizes)
        else "It is meant for where its teachers together are too slow or too large."
    )
    lines = [
        f"{about.task.capitalize()} of {inputs} such as those of {_code(_source(story.config))}, "
        f"to {outputs}. {cost}",
        "Not intended: inputs of another origin without a test on them first, and decisions about people "
        "on its word alone.",
        f"Licence: {_licence(story.config.student.license)}. It may be bound by the licences of its data "
        "and of its teachers, which are named below as far as they were stated.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _use(story: Story) -> str:
    about, names = story.about, ", ".join(story.outputs)
    taken, tokens = about.taken, about.preprocessing.tokens
    columns, shape = raw_columns(about), f"[{', '.join(map(str, ['N', *taken.shape]))}]"
    feed, what = f"{{{json.dumps(taken.name)}: samples}}", f"float32 {shape}"
    if about.preprocessing.chunks is not None:
        what = f"int64 {shape}"
    if columns is not None:
        feed = f"{{{', '.join(f'{json.dumps(one)}: {one}' for one in columns.described)}}}"
        what = "columns of the table, see below"
    words = {
        "outputs": names if len(story.outputs) > 1 else f"({names},)",
        "source": json.dumps(about.input.name),
        "feed": feed,
        "what": what,
        "last": next(iter(story.outputs)),
        "auto": HF_CLASSES[about.model.task] if isinstance(about.model, HfModel) else "",
    }
    loaded = _RAYKD if tokens is None else _RAYKD_TEXTS
    shown = {"onnx": _ONNX, "torch": _TORCH, "safetensors": loaded, "transformers": _PRETRAINED}
    blocks = [
        f"```python\n{shown[name].format(**words)}```" for name in shown if name in story.written
    ]
    inputs = f"Inputs are {taken.dtype} {shape}"
    if (chunks := about.preprocessing.chunks) is not None:
        inputs += (
            f": ids of {chunks.size:,} tokens ({chunks.tokenizer}), from 0; what stands behind a text's end "
            "changes nothing before it."
        )
    elif tokens is None:
        inputs += (
            " in the space of the data source: all preprocessing is inside. Images of 0..255 come "
            "divided by 255."
        )
        if about.preprocessing.table is not None:
            inputs += " A gap of the table is NaN; true and false are 1 and 0."
        if columns is not None:
            inputs += _raw(columns)
    else:
        inputs += f": token ids. {tokens.meaning}. Where raykd loads the student it takes texts."
    meanings = [f"* `{name}`: {meaning}" for name, meaning in story.outputs.items()]
    trusted = f"Open `{PROGRAM}` only where you trust its origin: torch may unpickle parts of it."
    rest = [trusted] if "torch" in story.written else []
    return "\n\n".join([*blocks, inputs, "\n".join(meanings), *rest])


def _raw(columns: RawColumns) -> str:
    """How ONNX takes a table with words, and torch."""
    kinds = {NUMBERS: "float32", WORDS: "texts, empty where there is a gap"}
    lines = "; ".join(
        f"`{one}` [N, {len(names)}] ({kinds[one]}): {', '.join(map(_code, names))}"
        for one, names in columns.described.items()
    )
    return (
        f" ONNX takes the table's columns as they are: {lines}. torch takes all columns in one tensor, with the place of each "
        f"word in `preprocessing.table` of `{DESCRIPTION}` in place of the word, {UNKNOWN_WORD} for a new one."
    )


def _files(story: Story) -> str:
    rows = [
        (name, ", ".join(f"`{file}`" for file in one.files), f"{one.bytes:,}",
         *(f"{ms:.3g}" for time in one.latency_ms.values() for ms in (time.p50, time.p95, time.p99)),
         f"{max(one.parity.values()):.1e}")
        for name, one in story.written.items()
    ]  # fmt: skip
    times = [f"batch {size}, ms {part}" for size in BATCHES for part in ("p50", "p95", "p99")]
    heads = ("format", "files", "bytes", *times, "largest difference")
    disturbed = f", which was busy ({story.disturbed})" if story.disturbed else ""
    note = (
        f"Time: of a whole batch, repeated calls on one thread of {for_markdown(story.processor)}{disturbed}. Difference: from "
        "the student in torch, over random inputs like the data's in batches of several sizes. Weights "
        "are those of replica 0 at its best epoch on validation."
    )
    return f"{_table(heads, rows)}\n\n{note}"


def _int8(story: Story, found: Comparison) -> str:
    rows = found.rows(story.written)
    table = _table(list(rows[0]), [list(row.values()) for row in rows])
    use = f"`{INT8_GRAPH}` takes and gives what `{GRAPH}` does."
    return f"{table}\n\n{' '.join([*found.sentences, use])}"


def _metrics(summary: Record) -> str:
    numbers = summary["student"]["test"]
    if not numbers:
        return "The test split has no labels."
    rows = [(key, *_spread_cells(number)) for key, number in numbers.items()]
    heads = ("metric", "this replica", "mean of replicas", "standard deviation", "95 % interval")
    count = next(iter(numbers.values()))["n"]
    times = summary.get("test_scored_times")
    note = f"{count} replica{'s' if count != 1 else ''}; interval of their mean (t). Times that test was scored: {times}."
    return f"{_table(heads, rows)}\n\n{note}"


def _spread_cells(number: Record) -> tuple[str, ...]:
    values = number["values"]
    several = number["std"] is not None
    low_high = t_interval(values) if several else None
    interval = "–" if low_high is None else f"{low_high[0]:.4g} to {low_high[1]:.4g}"
    return (_number(values[0]), _number(number["mean"]), _number(number["std"]), interval)


def _method(story: Story) -> str:
    config = story.config
    objective, soft = config.objective, config.objective.soft_targets
    lines = [f"Student: {_settings(config.student.model)}"]
    if soft is not None:
        lines.append(
            f"Soft targets: {_settings(soft.loss)}, weight {_plain(soft.strength)}, temperature "
            f"{_plain(soft.course)}, teachers weighted by {_settings(objective.weighting)}"
        )
        if soft.sharpen is not None:
            lines.append(f"Mixture of the teachers sharpened: {soft.sharpen}")
        if choice := story.summary.get("choice"):
            menu = for_markdown(", ".join(choice["menu"]))
            lines.append(
                f"Target: {for_markdown(choice['target'])}, chosen on validation from {menu}"
            )
        if soft.hard_share:
            lines.append(f"Share of the mixture's hard label in the target: {soft.hard_share:g}")
    if objective.labels.replaces:
        lines.append("Labels: in place of the teachers' answers where they are known")
    else:
        lines.append(f"Labels: weight {_plain(objective.labels.strength)}")
    lines += [
        f"Features: {_settings(term.loss)} of {for_markdown(term.teacher)}, weight {_plain(term.weight)}"
        for term in objective.features
    ]
    if objective.phases:
        lines.append(f"Phases: {len(objective.phases)}, which change the weights above")
    assert config.train.optimizer is not None, "a run's folder has it"
    lines.append(f"Training: {config.train.epochs} epochs, {_settings(config.train.optimizer)}")
    return "\n".join(f"* {line}" for line in lines)


def _teachers(story: Story) -> str:
    metric = find_task(story.about.task).metrics.metric
    rows = []
    for teacher in story.config.teachers:
        card = story.cards.get(teacher.name, {})
        model = "outputs from a file" if teacher.model is None else _settings(teacher.model)
        if isinstance(teacher.model, ObjectModel):
            model = f"object: {for_markdown(teacher.model.describes)}"
        if isinstance(teacher.model, EngineModel):  # its address is nobody's business
            model = f"engine {_code(teacher.model.path)}: {for_markdown(teacher.model.model or '')}"
        test = story.summary["teachers"].get(teacher.name, {}).get("test") or {}
        temperature = card.get("temperature", teacher.temperature)
        rows.append((for_markdown(teacher.name), model, _number(test.get(metric)), _plain(temperature), teacher.labels,
                     _code(str(card.get("fingerprint", "unknown"))), _licence(teacher.license)))  # fmt: skip
    heads = (
        "teacher",
        "model",
        f"test {metric}",
        "temperature",
        "labels",
        "fingerprint",
        "licence",
    )
    return _table(heads, rows)


def _source(config: Config) -> str:
    """Where the samples are from: a kind of source, or what the user's object was."""
    source = config.data.source
    return source.describes if isinstance(source, ObjectSource) else source.type


def _data(story: Story) -> str:
    views, used = story.config.data.views, story.summary["labels_used"]
    names = story.about.classes
    policy = ", ".join(step.type for step in views.policy) or "unchanged"
    count = "a new one in each epoch" if views.count is None else views.count
    more = ", …" if len(names) > _SHOWN else ""
    lines = [
        f"Source: {for_markdown(_source(story.config))}; licence: {_licence(story.config.data.license)}",
        f"Labels: the student {used['student']:,}, validation {used['validation']:,}",
        f"Views: {count} of each sample ({policy})",
        f"Outputs: {len(names)} ({', '.join(map(_code, names[:_SHOWN]))}{more})",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _limits(story: Story) -> str:
    lines = []
    if story.evaluation is not None:
        lines += weak_spots(story.evaluation, story.about.classes)
    if story.summary["status"] == "degraded":
        lines.append("The run was degraded: some answers lacked a teacher.")
    lines.append(
        "Inputs unlike the data's get an answer too, and no warning; nothing here tells them apart."
    )
    if find_task(story.about.task).export.has_probabilities:
        lines.append(_calibration(story))
    return "\n".join(f"* {line}" for line in lines)


def _calibration(story: Story) -> str:
    fitted = story.about.temperature
    if fitted is None:
        return "Probabilities are as calibrated as `ece` and `nll` above say, on test alone."
    return (
        f"Probabilities are at the student's own temperature, {fitted:.3g}, fitted on half of validation: as calibrated "
        "as `ece_calibrated` and `nll_calibrated` say, on test alone. Logits are as they were trained."
    )


def weak_spots(evaluation: Evaluation, names: Sequence[str]) -> list[str]:
    """How many test samples there were, and what the student gets wrong most.

    Args:
        evaluation: outputs of all models on test.
        names: of the outputs.
    """
    test = evaluation.splits["test"]
    labelled_N = is_labelled(test.labels_N)
    count = int(labelled_N.sum())
    if not count:
        return ["The test split has no labels: how often it is wrong is not known."]
    answers = test.students["student"][0][labelled_N]
    tested = f"It was tested on {count:,} samples of the same source, and on nothing else."
    names = evaluation.classes or names  # of an embedding the outputs are dimensions
    weak = known_task(evaluation.task, where="evaluation").export.weak_spots
    return [tested, weak(answers, test.labels_N[labelled_N], names)]


def _settings(settings: Settings) -> str:
    """`cnn (width 0.34, depth 3)`: the type, and what else is set."""
    tree = settings.model_dump(mode="json")
    rest = [f"{key} {_plain(v)}" for key, v in tree.items() if key != "type" and v is not None]
    shown = f" ({', '.join(rest)})" if rest else ""
    return f"{for_markdown(str(tree['type']))}{shown}"


def _licence(text: str | None) -> str:
    return "not stated" if text is None else for_markdown(text)


def _plain(value: Any) -> str:
    """A number or a word; a schedule as its settings."""
    if isinstance(value, Settings):
        return _settings(value)
    return for_markdown(str(value) if isinstance(value, int | float | str) else json.dumps(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _code(name: str) -> str:
    return quoted(name.replace("|", "\\|"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
