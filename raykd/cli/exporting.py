"""`raykd export`: the student of a run as files that other programs open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.cli.options import Command, add_command

if TYPE_CHECKING:
    from torch import nn

    from raykd.pipeline.student import Exported


def add(commands: Command) -> None:
    """The commands of this module."""
    about = "the distilled student as safetensors, ONNX and torch.export, with a model card"
    parser = add_command(commands, "export", _export, about)
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run's folder")
    parser.add_argument(
        "--format",
        metavar="A,B,...",
        help="safetensors, onnx, torch; default: all whose packages are there",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the export's folder, replaced if it is one; default: RUN/export",
    )
    parser.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="the architecture, for a student that the recipe made by a factory",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the export's folder")


def _export(args: argparse.Namespace) -> int:
    from raykd.pipeline.student import export_student

    formats = None if args.format is None else [name for name in args.format.split(",") if name]
    model = None if args.model is None else _made(args.run, args.model)
    exported = export_student(args.run, formats=formats, output=args.output, model=model)
    if args.quiet:
        print(exported.path)
    else:
        _show(exported)
    return 0


def _made(run: Path, factory: str) -> nn.Module:
    """The architecture by the user's function, with the arguments that the recipe gave it."""
    from raykd.config.models import FactoryModel
    from raykd.models import build_model
    from raykd.pipeline.student import describe_student

    about = describe_student(run)[1]
    kwargs = about.model.kwargs if isinstance(about.model, FactoryModel) else {}
    spec = FactoryModel(path=factory, kwargs=kwargs)
    shape = about.preprocessing.output_shape(about.input.shape)
    return build_model(spec, input_shape=shape, classes=len(about.classes), key="--model")


def _show(exported: Exported) -> None:
    """What was written, how large, how fast and how true; what was left out."""
    from raykd.tracking import Console

    console = Console(quiet=False, stream=sys.stdout)
    rows = [
        {
            "format": name,
            "files": ", ".join(one.files),
            "bytes": f"{one.bytes:,}",
            **{
                f"ms, batch {size} (p95)": f"{time.p50:.3g} ({time.p95:.3g})"
                for size, time in one.latency_ms.items()
            },
            "largest difference": f"{max(one.parity.values()):.1e}",
        }
        for name, one in exported.written.items()
    ]
    console.table(rows, title="median ms of a batch on one CPU thread; difference from torch")
    for name, how in exported.left_out.items():
        console.say(f"left out: {name} {how}")
    console.say(f"\nexport: {exported.path}")
