"""Tries raykd on one GPU, and measures it, in about ten minutes and without a network; with `--cpu` that all of it works.

    python jobs/gpu_smoke.py                     # on a machine with a GPU; `make gpu-smoke`
    python jobs/gpu_smoke.py --cpu               # small sizes, no figure of speed is held against its bar

`tests`: those with the mark `gpu`. `steps`: images a second of a student's step whose batches lie on the device, then with
copies, views, stored targets, `train.compile`, a tap. `teachers`: an actor beside the bare forward pass; dense features
by an actor and in the student's process. `repeatable`: the same bits again, in another process and after a kill,
nearly the same on the CPU. `training`: a student twice, with `train.deterministic` and without. `runs`: whole runs, two teachers and a student on one card among them.

Exit code 1 where a bar is missed or something fails, 2 where there is no GPU.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the clone: `jobs` is not installed

from jobs.bench.gpu_fleets import repeatable, teacher_rates
from jobs.bench.gpu_recipes import Result, Smoke, on_a_cpu, on_a_gpu
from jobs.bench.gpu_runs import marked_tests, whole_runs
from jobs.bench.gpu_steps import step_rates
from jobs.bench.gpu_training import repeated_training

CHECKS: dict[str, Callable[[Smoke], list[Result]]] = {
    "tests": marked_tests,
    "steps": step_rates,
    "teachers": teacher_rates,
    "repeatable": repeatable,
    "training": repeated_training,
    "runs": whole_runs,
}


def _done(name: str, smoke: Smoke) -> list[Result]:
    """The lines of a check; one that says that it failed, where it did, so that the others are still tried."""
    try:
        return CHECKS[name](smoke)
    except Exception:  # noqa: BLE001 - whatever it is, it is shown, and it is a failure
        traceback.print_exc()
        return [Result(f"{name}: failed, see above", float("nan"), "", "ends well", holds=False)]


def _show(result: Result) -> None:
    said = {True: "ok", False: "MISSED", None: ""}[result.holds]
    print(f"{result.name:48} {result.value:12.4g} {result.unit:12} {result.bar:16} {said}", flush=True)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Do what is asked for, print a line for each figure, and say whether every bar holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="small sizes, on the CPU")
    parser.add_argument("--only", default=",".join(CHECKS), metavar="NAME[,NAME]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the table as JSON")
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",")
    if unknown := set(names) - set(CHECKS):
        parser.error(f"--only: found {', '.join(sorted(unknown))}; known: {', '.join(CHECKS)}")
    if not chosen.cpu and not torch.cuda.is_available():
        parser.error("no GPU was found here (torch.cuda); --cpu shows that the rest works")
    if chosen.cpu:
        torch.set_num_threads(1)
    smoke = on_a_cpu() if chosen.cpu else on_a_gpu()
    device = "CPU" if chosen.cpu else torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}")
    results: list[Result] = []
    for name in names:
        for result in _done(name, smoke):
            results.append(result)
            _show(result)
        if chosen.output is not None:  # after each: what comes later may not end
            table = {"device": device, "torch": torch.__version__, "results": [r._asdict() for r in results]}  # fmt: skip
            chosen.output.write_text(json.dumps(table, indent=2) + "\n")
    missed = [result.name for result in results if result.holds is False]
    print(f"{len(missed)} missed: {', '.join(missed)}" if missed else "every bar holds")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
