"""`raykd inspect`, the modules of a model and the paths for taps, and `raykd export`, a run's student as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raykd.cli.options import (
    Command,
    add_command,
    add_student,
    add_task,
    add_trust,
    open_console,
    overrides_of,
    show_table,
)
from raykd.config import Config, load_config
from raykd.config.data import HashedTokenizer
from raykd.config.engines import EngineModel
from raykd.config.models import (
    FINISHED,
    OF_TEXTS,
    OF_TOKENS,
    DetectorModel,
    NgramModel,
    expand_model,
)
from raykd.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn

    from raykd.models.network import Network
    from raykd.models.shapes import TokenShape
    from raykd.pipeline.exporting import Exported

_STUDENT = "student"
_INPUT, _TEXT_INPUT, _TOKEN_INPUT = "1,28,28", "256", "128"


def add(commands: Command) -> None:
    """The commands of this module."""
    about = "module paths, output shapes and parameters of a model"
    parser = add_command(commands, "inspect", _inspect, about)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="MODEL_SPEC [key=value ...]",
        help="a type of the zoo, onnx:FILE, timm:NAME or package.module:function, then its settings; or, with --recipe, "
        "overrides of the recipe",
    )
    parser.add_argument(
        "--input",
        metavar="C,H,W",
        help="shape of one sample; default: 1,28,28; for a model of texts the number of ids, default: 256",
    )
    parser.add_argument("--classes", type=int, default=10, help="number of classes; default: 10")
    parser.add_argument("--recipe", help="take the model, its input and classes from this recipe")
    parser.add_argument(
        "--model", default=_STUDENT, metavar="student|teachers.NAME", help="which one of the recipe"
    )
    add_trust(parser)
    about = "the distilled student as safetensors, ONNX and torch.export, with a model card"
    export = add_command(commands, "export", _export, about)
    export.add_argument("run", type=Path, metavar="RUN", help="a finished run's folder")
    export.add_argument(
        "--format",
        metavar="A,B,...",
        help="safetensors, onnx, int8, torch, transformers; default: all but int8 that the student can be written in and "
        "whose packages are there",
    )
    export.add_argument(
        "--int8",
        action="store_true",
        help="also as ONNX with weights of 8 bits, held against float32 on test; loads the recipe's data",
    )
    export.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the export's folder, replaced if it is one; default: RUN/export",
    )
    export.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="the architecture, for a student that the recipe made by a factory",
    )
    export.add_argument("--quiet", action="store_true", help="print only the export's folder")
    add_student(export)
    add_task(export)
    add_trust(export)


def _inspect(args: argparse.Namespace) -> int:
    specs = [word for word in args.words if "=" not in word]
    if args.recipe is None and len(specs) != 1:
        raise InputError(
            Problem("MODEL_SPEC", f"found {len(specs)}; give one: `raykd inspect resnet depth=14`, "
                    "`pkg.mod:fn`, or --recipe RECIPE --model student")
        )  # fmt: skip
    if args.recipe is not None and specs:
        raise InputError.at(
            "MODEL_SPEC", f"found {specs[0]!r} beside --recipe; name the model by --model"
        )
    if args.recipe is None:
        network, inputs = _from_spec(specs[0], overrides_of(args), args.input, args.classes)
    else:
        network, inputs = _from_recipe(
            load_config(args.recipe, overrides_of(args), trust=args.trust), args.model
        )
    from raykd.models.taps import describe, render_table

    print(render_table(describe(network, inputs)))
    return 0


def _from_spec(
    name: str, settings: list[str], shape: str | None, classes: int
) -> tuple[Network, dict[str, Any]]:
    spec = _spec(name, settings)
    of_texts, of_tokens = isinstance(spec, OF_TEXTS), isinstance(spec, OF_TOKENS)
    if isinstance(spec, NgramModel | EngineModel):
        why = (
            "is counted on the data of a recipe" if spec.type == "ngram" else "is asked for tokens"
        )
        raise InputError.at(
            "model", f"{spec.type} has no modules: it {why}; nothing is shown of it"
        )
    usual = _TOKEN_INPUT if of_tokens else _TEXT_INPUT if of_texts else _INPUT
    input_shape = _shape(shape or usual)
    if classes < 1:
        raise InputError.at("--classes", f"found {classes}; must be at least 1")
    import torch

    from raykd.models import build_model
    from raykd.models.network import Network

    torch.manual_seed(0)
    if of_tokens:
        tokens = _sequence(classes, *input_shape)
        model = build_model(spec, input_shape=tokens, classes=classes, key="model")
        return Network(model), {"tokens": torch.randint(0, classes, (2, *tokens))}
    if of_texts:
        tokens = _hashed(*input_shape)
        model = build_model(spec, input_shape=tokens, classes=classes, key="model")
        return Network(model), {"tokens": torch.randint(1, tokens.vocabulary, (2, *tokens))}
    if isinstance(spec, DetectorModel) and len(input_shape) == len(("C", "H", "W")):
        from raykd.models.zoo.detector import detector_layout

        classes = detector_layout(classes, input_shape[1], input_shape[2], spec.bins).width
    model = build_model(spec, input_shape=input_shape, classes=classes, key="model")
    return Network(model), {"inputs": torch.rand(2, *input_shape)}


def _hashed(*sides: int) -> TokenShape:
    """The shape of ids from the default tokenizer."""
    from raykd.models.shapes import TokenShape

    if len(sides) > 1:
        raise InputError.at(
            "--input", f"found {len(sides)} sides; for a model of texts give the number of ids: 256"
        )
    tokenizer = HashedTokenizer(length=sides[0])
    return TokenShape(tokenizer.length, tokenizer.size + 1, tokenizer.type)


def _sequence(vocabulary: int, *sides: int) -> TokenShape:
    """The shape of a sequence of tokens."""
    from raykd.models.shapes import TokenShape

    if len(sides) > 1:
        raise InputError.at(
            "--input",
            f"found {len(sides)} sides; for a language model give the number of tokens: 128",
        )
    return TokenShape(sides[0], vocabulary, "tokens")


def _spec(name: str, settings: list[str]) -> Any:
    """The model's settings, checked like those of a student, or of a teacher if it cannot be a student."""
    kind = expand_model(name)["type"]
    finished = kind in {model.model_fields["type"].default for model in FINISHED}
    teacher, student = ({"model": name}, "mlp") if finished else ({"outputs": "-"}, name)
    recipe = {
        "data": {"source": {"type": "digits"}},
        "teachers": [{"name": "any", **teacher}],
        "student": {"model": student},
    }
    holder = "teachers.any" if finished else "student"
    prefix = f"{holder}.model.kwargs" if kind == "factory" else f"{holder}.model"
    try:
        config = load_config(recipe, [f"{prefix}.{text}" for text in settings])
    except InputError as error:
        raise InputError(
            [Problem(p.key.removeprefix(f"{holder}."), p.message) for p in error.problems]
        ) from None
    return config.teachers[0].model if finished else config.student.model


def _shape(text: str) -> tuple[int, ...]:
    sides = text.replace("x", ",").split(",")
    if not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise InputError.at("--input", f"found {text!r}; write sides with commas: 1,28,28")
    return tuple(int(side) for side in sides)


def _from_recipe(config: Config, which: str) -> tuple[Network, dict[str, Any]]:
    key, teacher = _teacher(config, which)
    part = config.student if teacher is None else teacher
    if part.model is None:
        raise InputError.at("--model", f"{which} has stored outputs and no model")
    from raykd.models import build_model
    from raykd.models.network import Network
    from raykd.models.preprocess import preprocessing_for
    from raykd.pipeline.loading import load_samples
    from raykd.pipeline.preparation import student_outputs
    from raykd.types import ORIGINAL_VIEW

    samples = load_samples(config)
    preprocessing = preprocessing_for(part.preprocess, samples, key=f"{key}.preprocess")
    shape = preprocessing.output_shape(samples.input_shape)
    label_map = None if teacher is None else teacher.label_map
    classes = student_outputs(config, samples) if teacher is None else samples.class_count
    if label_map is not None:
        classes = len(label_map)
    model = build_model(part.model, input_shape=shape, classes=classes, key=f"{key}.model")
    inputs = samples.batch(samples.splits["train"][:2], ORIGINAL_VIEW).inputs
    return Network(model, preprocessing), dict(inputs)


def _teacher(config: Config, which: str) -> tuple[str, Any]:
    """The dotted key, and the teacher it names; None for the student."""
    if which == _STUDENT:
        return _STUDENT, None
    name = which.removeprefix("teachers.")
    for index, teacher in enumerate(config.teachers):
        if name in (teacher.name, str(index)):
            return f"teachers.{teacher.name}", teacher
    known = ", ".join(f"teachers.{teacher.name}" for teacher in config.teachers)
    raise InputError.at("--model", f"no {which!r} in the recipe; it has student, {known}")


def _export(args: argparse.Namespace) -> int:
    from raykd.pipeline.exporting import export_student
    from raykd.pipeline.student import student_folder

    run = student_folder(args.run, args.student)
    formats = None if args.format is None else [name for name in args.format.split(",") if name]
    model = None if args.model is None else _build_with(run, args.model)
    exported = export_student(
        run, formats=formats, output=args.output, model=model, int8=args.int8, trust=args.trust
    )
    if args.quiet:
        print(exported.path)
    else:
        _show(exported)
    return 0


def _build_with(run: Path, factory: str) -> nn.Module:
    """The architecture from the user's function, with the arguments of the recipe."""
    from raykd.config.models import FactoryModel
    from raykd.models import build_model
    from raykd.pipeline.student import describe_student

    about = describe_student(run)[1]
    kwargs = about.model.kwargs if isinstance(about.model, FactoryModel) else {}
    spec = FactoryModel(path=factory, kwargs=kwargs)
    shape = about.preprocessing.output_shape(about.input.shape)
    return build_model(spec, input_shape=shape, classes=about.outputs, key="--model")


def _show(exported: Exported) -> None:
    """What was written, how large, how fast and how exact; what was left out."""
    console = open_console()
    rows = [
        {
            "format": name,
            "files": ", ".join(one.files),
            "bytes": f"{one.bytes:,}",
            **{
                f"ms, batch {size} (p95, p99)": f"{time.p50:.3g} ({time.p95:.3g}, {time.p99:.3g})"
                for size, time in one.latency_ms.items()
            },
            "largest difference": f"{max(one.parity.values()):.1e}",
        }
        for name, one in exported.written.items()
    ]
    console.table(rows, title="median ms of a batch on one CPU thread; difference from torch")
    if exported.int8 is not None:
        title = "8 bits against float32, on test"
        show_table(console, exported.int8.rows(exported.written), title, exported.int8.sentences)
    if signs := exported.conditions.signs:
        console.print(
            f"the machine was busy while latency was measured ({signs}); export again when nothing else runs"
        )
    for name, how in exported.left_out.items():
        console.print(f"left out: {name} {how}")
    console.print(f"\nexport: {exported.path}")
