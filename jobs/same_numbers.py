"""Record what short runs compute, or hold them against an earlier record: a change of the house changes no number.

    python jobs/same_numbers.py --output before.json          # before a change
    python jobs/same_numbers.py --against before.json         # after it; exit code 1 where a number differs
    python jobs/same_numbers.py --only digits,diabetes --against before.json

Of each short run it keeps a fingerprint of every checkpoint's weights (teachers, student and controls, best and
last epoch) and all that `summary.json` says of their quality. Records of different machines, or of different
versions of torch, differ in their last bits: compare on one machine.

Cost: about three minutes on two cores for all of them, twenty seconds each.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the clone: `jobs` is not installed

from jobs.bench.made_texts import texts_recipe
from raykd import load_config, run, sweep
from raykd.models.weights import fingerprint, load_weights
from raykd.pipeline import Options

_QUICK = ("seeds=1", "train.epochs=4", "tracking.wandb.mode=disabled")
RUNS = ("digits", "diabetes", "digits_attributes", "digits_embedding", "texts", "sweep")
_SEARCH = (
    *("search.trials=3", "search.max_concurrent=1", "search.scheduler={type: none}"),
    *("search.finalists.top=1", "search.finalists.seeds=2"),
)
_QUALITY = ("student", "controls", "ensemble", "teachers", "gains", "fidelity", "labels_used")
_MEASURED = {"latency_ms", "overhead_ms"}


def _weights(folder: Path) -> dict[str, str]:
    """Fingerprint of the weights in every file of checkpoints and students."""
    files = sorted(folder.rglob("*.safetensors"))
    kept = [file for file in files if file.stem in {"best", "last", "model"}]
    return {
        str(file.relative_to(folder)): fingerprint(load_weights(file, key="weights"))
        for file in kept
    }


def _quality(value: Any) -> Any:
    """What a summary says, without what was measured with a clock."""
    if isinstance(value, Mapping):
        return {name: _quality(part) for name, part in value.items() if name not in _MEASURED}
    return value


def record(name: str, folder: Path) -> dict[str, Any]:
    """Weights and quality of one short run."""
    fits = () if name == "texts" else tuple(f"teachers.{n}.fit.epochs=4" for n in range(3))
    if name == "sweep":
        config = load_config("digits", (*_QUICK, *_SEARCH, *fits))
        trials = sweep(config, Options(output=folder)).summary["trials"]
        kept = {one["trial"]: [one["values"], one["value"], one["validation"]] for one in trials}
        return {"weights": _weights(folder), "quality": {"trials": kept}}
    source: Any = texts_recipe(folder.parent) if name == "texts" else name
    summary = run(load_config(source, (*_QUICK, *fits)), Options(output=folder)).summary
    return {"weights": _weights(folder), "quality": _quality({k: summary[k] for k in _QUALITY})}


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Where two records differ, each with both values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = sorted(before.keys() | after.keys())
        parts = (differences(before.get(n), after.get(n), f"{where}/{n}") for n in names)
        return [line for part in parts for line in part]
    return [] if before == after else [f"{where}: {before} -> {after}"]


def main() -> int:
    """Run, record, compare."""
    parser = argparse.ArgumentParser(description="Record or compare what short runs compute.")
    parser.add_argument("--only", default=",".join(RUNS), help="names, separated by commas")
    parser.add_argument("--output", type=Path, help="where the record goes")
    parser.add_argument("--against", type=Path, help="an earlier record")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RAYKD_HOME"] = f"{scratch}/home"
        found = {name: record(name, Path(scratch) / name) for name in args.only.split(",")}
    found = json.loads(json.dumps(found))
    if args.output:
        args.output.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    before = json.loads(args.against.read_text()) if args.against else found
    wrong = differences({name: before.get(name) for name in found}, found)
    print("\n".join(wrong) or f"same numbers: {', '.join(found)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
