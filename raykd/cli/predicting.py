"""`raykd predict`: the distilled student on new data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raykd.cli.options import (
    Command,
    add_command,
    add_student,
    add_task,
    make_parent,
    print_error,
)
from raykd.disks import new_file
from raykd.errors import InputError

if TYPE_CHECKING:
    from raykd.export.task import Predicted
    from raykd.pipeline.new_samples import NewSamples

_PICTURES = 20
_LAST = 5


def add(commands: Command) -> None:
    """The command of this module."""
    predict = add_command(commands, "predict", _predict, "the distilled student on new data")
    predict.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run's folder, its student/, or model.onnx or model.int8.onnx of its export",
    )
    predict.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help=".csv, .tsv, .txt or .parquet with the columns that the student was trained on (and the id's, where there is "
        "one), in any order; of texts also .txt with one in each line; what else its data source reads, such as a folder "
        "of images; .npz with `inputs` [N, ...] and optional `ids`; .npy",
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=".csv, .npz or .parquet, of a detector also .json, a results file of COCO; default: CSV on stdout",
    )
    predict.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="of a detector: also write pictures with the found boxes there",
    )
    predict.add_argument(
        "--most-pictures",
        type=int,
        default=_PICTURES,
        metavar="N",
        help=f"draw on the first N images; default: {_PICTURES}",
    )
    predict.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="the architecture, for a student that the recipe made by a factory",
    )
    add_student(predict)
    add_task(predict)


def _predict(args: argparse.Namespace) -> int:
    from raykd.export.found_boxes import coco_results, in_pixels, write_coco
    from raykd.pipeline.prediction import ask_student, read_for, write_csv, write_npz
    from raykd.pipeline.student import student_folder

    kinds = (".csv", ".npz", ".parquet", ".json")
    if args.output is not None and args.output.suffix not in kinds:
        raise InputError.at("--output", f"found {args.output}; needs {', '.join(kinds)}")
    if args.output is not None:
        make_parent(args.output)
    run = student_folder(args.run, args.student)
    _refuse_pictures(args, run)
    new = read_for(run, args.data)
    for line in _shown(new.left_out):
        print_error(f"left out  {line}")
    ids, predicted = ask_student(run, (new.ids, new.values), args.model)
    _draw(args, run, new, predicted)
    predicted = in_pixels(predicted, new.sizes, new.values.shape)
    if args.output is None:
        write_csv(sys.stdout, ids, predicted)
    elif args.output.suffix == ".json":
        write_coco(args.output, coco_results(ids.tolist(), predicted, new.category_of))
    elif args.output.suffix == ".npz":
        write_npz(args.output, ids, predicted)
    elif args.output.suffix == ".parquet":
        from raykd.export.predictions import predicted_table, write_table

        write_table(args.output, predicted_table(ids.tolist(), predicted))
    else:
        with (
            new_file(args.output) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            write_csv(file, ids, predicted)
    if args.output is not None:
        print(f"{len(ids):,} predictions: {args.output}")
    return 0


def _refuse_pictures(args: argparse.Namespace, run: Path) -> None:
    """Boxes are for students that find some."""
    from raykd.pipeline.student import describe_student
    from raykd.tasks import known_task

    if args.most_pictures < 1:
        raise InputError.at("--most-pictures", f"found {args.most_pictures}; needs 1 or more")
    task = describe_student(run)[1].task
    if known_task(task, where=str(run)).settings.boxes:
        return
    if args.pictures is not None:
        raise InputError.at(
            "--pictures", f"the student learnt {task}, which finds no boxes to draw"
        )
    if args.output is not None and args.output.suffix == ".json":
        raise InputError.at("--output", f"found {args.output}; the student learnt {task}, and a results file of COCO holds boxes: needs .csv, .npz or .parquet")  # fmt: skip


def _draw(args: argparse.Namespace, run: Path, new: NewSamples, predicted: Predicted) -> None:
    """Pictures of the first images with their boxes, where they are asked for."""
    if args.pictures is None or predicted.boxes is None:
        return
    from raykd.export.found_boxes import draw
    from raykd.pipeline.student import describe_student

    shape = describe_student(run)[1].input.shape
    most = min(args.most_pictures, len(new.ids))
    some = replace(predicted, boxes=predicted.boxes[:most])
    images = new.values[:most].reshape(most, *shape)
    files = draw(args.pictures, new.ids[:most].tolist(), images, some)
    print_error(f"{len(files)} of {len(new.ids):,} images drawn: {args.pictures}")


def _shown(lines: Sequence[str]) -> list[str]:
    """Lines, of which not too many are shown."""
    more = [f"{len(lines) - _LAST:,} more"] if len(lines) > _LAST else []
    return [*lines[:_LAST], *more]
