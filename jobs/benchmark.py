"""What distillation costs: milliseconds on one processor thread, one row per method.

    python jobs/benchmark.py --output benchmark.json

`objective`: labels and soft targets of one batch, forward and backward, beside log_softmax and kl_div of
one teacher and a student's step of 50 ms.

Cost: about fifteen seconds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from raykd.evaluate.overhead import STEP_MS, Row, objective_cost

BENCHMARKS: dict[str, Callable[..., list[Row]]] = {"objective": objective_cost}
SIZES = {"units": 256, "classes": 1000, "teachers": 4, "repeats": 7}
LEAST_REPEATS = 5


def _show(name: str, table: Sequence[Row]) -> None:
    columns = [column for column in table[0] if column != "name"]
    width = max(len(str(row["name"])) for row in table)
    print(f"{name:{width}}", *(f"{column:>15}" for column in columns))
    for row in table:
        print(f"{row['name']:{width}}", *(f"{float(row[column]):15.3f}" for column in columns))


def main(arguments: Sequence[str]) -> None:
    """Measure what is asked for, print a table of each, and write them all to one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(BENCHMARKS), metavar="NAME[,NAME]")
    parser.add_argument("--output", type=Path, metavar="FILE")
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"--only: found {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    if chosen.repeats < LEAST_REPEATS:
        parser.error(f"--repeats: found {chosen.repeats}, at least {LEAST_REPEATS} are needed")
    torch.set_num_threads(1)
    sizes = {name: getattr(chosen, name) for name in SIZES}
    tables = {name: BENCHMARKS[name](**sizes) for name in names}
    for name, table in tables.items():
        _show(name, table)
    if chosen.output is not None:
        found = {
            "torch": torch.__version__,
            "sizes": sizes,
            "step_ms": STEP_MS,
            "benchmarks": tables,
        }
        chosen.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
