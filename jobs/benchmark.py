"""Figures of the README: what distillation costs beside the same work without raykd, as ratios of one run.

    python jobs/benchmark.py --only store,stored --output benchmark.json

`objective`: labels and soft targets of one batch beside log_softmax and kl_div of one teacher.
`store`: a gather beside a raw memory map; bytes. `stored`: an epoch from the store beside labels alone and
a hand-written cache. `memory`: of a worker that reads a store. `live`: actors that are asked live, and
the rate at which they fill the store.

Cost: some four minutes on two cores; `live` starts a local Ray cluster.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch

from raykd.bench import BENCHMARKS, Row, Sizes

LEAST_REPEATS = 5


def _show(name: str, table: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(c for row in table for c in row if c != "name"))
    width = max(len(str(row["name"])) for row in table)
    print(f"\n{name:{width}}", *(f"{column:>15}" for column in columns))
    for row in table:
        cells = (row.get(column, "") for column in columns)
        shown = (c if isinstance(c, str) else f"{c:.3f}" for c in cells)
        print(f"{row['name']:{width}}", *(f"{cell:>15}" for cell in shown), flush=True)


def main(arguments: Sequence[str]) -> None:
    """Measure what is asked for, print a table of each, and write them all to one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(BENCHMARKS), metavar="NAME[,NAME]")
    parser.add_argument("--output", type=Path, metavar="FILE")
    for field in fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"--only: found {', '.join(sorted(unknown))}; known: {', '.join(BENCHMARKS)}")
    if chosen.repeats < LEAST_REPEATS:
        parser.error(f"--repeats: found {chosen.repeats}, at least {LEAST_REPEATS} are needed")
    torch.set_num_threads(1)
    sizes = Sizes(**{field.name: getattr(chosen, field.name) for field in fields(Sizes)})
    tables = {}
    for name in names:
        tables[name] = BENCHMARKS[name](sizes)
        _show(name, tables[name])
    if chosen.output is not None:
        found = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "sizes": asdict(sizes),
            "benchmarks": tables,
        }
        chosen.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
