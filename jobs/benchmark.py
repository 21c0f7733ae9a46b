"""Figures of `jobs/README.md`: what distillation costs beside the same work without raykd, as ratios of one run.

    python jobs/benchmark.py --only store,stored --output benchmark.json

`objective`: labels and soft targets of one batch beside log_softmax and kl_div of one teacher.
`small`: a small student's step beside a loop by hand. `short`: whole commands with little work in them. `whole`:
the fill beside bare inference loops, many fits on a table beside loops by hand.
`store`: a gather beside a raw memory map; bytes. `stored`: an epoch from the store beside labels alone and
a hand-written cache, for a large and a small step. `memory`: of a worker that reads a store. `few`: encoding, reading
and the loss of answers over a large vocabulary (`--vocabulary`, `--tokens`), beside all their logits. `tokens`:
memory of a fit over a large vocabulary, its logits made in chunks or as a whole. `live`: actors
that are asked live and only take time. `dense`: a detector's answers with a map of features that is too large to store, by an actor and
in the student's own process: time and bytes. `shared`: live training and the fill on the student's own cores, beside
a loop in one process. `driver`: bytes that cross the driver. `latency`: the latencies of `summary.json` in
processes of their own, largest over smallest. `stream`: samples that stay in a
decoded file, its pages in memory or read from disk, beside the same in memory. `views`: pad_crop and flip, mixup and
random_resized_crop of 224 pixels, on the CPU, beside the array code of an earlier version and beside their floors. `scale`: start, memory and batches over
twenty million made-up samples (`--rows`). `rolling`: episodes by two processes beside one. `sweep`: trials that share one set of targets beside trials that
each ask the teachers. `end_to_end`: `raykd run` beside the same
distillation as a plain PyTorch loop, both from start to end, on Fashion-MNIST (`--images`, `--epochs`,
`--fits` repeats). `peer`: a run by torchdistill beside `raykd run`, where it is installed (`pip install --no-deps
torchdistill==1.1.5`, and torchvision; `--peer_images`, `--peer_epochs`). `shared` and `end_to_end` are given at two costs of the teachers, measured in the run.

Cost on two cores: `end_to_end` some forty-five minutes, `peer` a quarter of an hour, `shared` five, the others but `sweep` together five; `live`, `dense`, `shared`,
`driver`, `short`, `whole`, `rolling`, `sweep`, `peer` and `end_to_end` start local Ray clusters. Everything smaller, to see that it works:

    python jobs/benchmark.py --only shared,end_to_end --samples 256 --units 64 --images 600 --epochs 2 --fits 1
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the clone: `jobs` is not installed

from jobs.bench import BENCHMARKS, Row, Sizes
from raykd.runtime import machine

LEAST_REPEATS = 5
_PACKAGES = ("raykd", "ray", "torch", "numpy")
_PROCESSOR = Path("/proc/cpuinfo")


def _where() -> dict[str, Any]:
    """When and on what figures were taken; no host names."""
    packages = {name: version(name) for name in _PACKAGES}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": [
            _processor(),
            *map(torch.cuda.get_device_name, range(torch.cuda.device_count())),
        ],
        "cores": int(machine().cpus),
        "versions": {"python": platform.python_version(), **packages},
    }


def _processor() -> str:
    lines = _PROCESSOR.read_text().splitlines() if _PROCESSOR.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
    found: dict[str, Any] = {**_where(), "sizes": asdict(sizes), "benchmarks": {}}
    for name in names:
        found["benchmarks"][name] = table = BENCHMARKS[name](sizes)
        _show(name, table)
        if chosen.output is not None:  # after each: one that fails loses none before it
            chosen.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
