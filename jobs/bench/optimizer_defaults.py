"""Which optimizer suits which kind of model: where the defaults in `raykd/config/optimizers.py` come from.

    RAYKD_HOME=.raykd python jobs/bench/optimizer_defaults.py --output optimizers.json

Of every packaged recipe the student, and the first teacher of each kind of network, is trained with each optimizer of
`GRID`, twice (of texts once), and judged on validation at its best epoch; test is never looked at. The student learns all training
labels in place of its teachers' answers, which are as many. Fits are cut to some hundred updates. The regret of an
optimizer is how far it is behind the best one of the same network; a kind's default is the one of least mean regret.

Cost: half an hour on one core. Recipes whose data or weights are not there are left out, and named.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the clone: `jobs` is not installed

from jobs.bench.optimizer_grid import Record, fitted, measured, regrets
from raykd.config import load_config
from raykd.config.load import recipe_names
from raykd.errors import RaykdError
from raykd.pipeline.preparation import prepare
from raykd.tasks import find_task


def train(recipes: Sequence[str], output: Path) -> list[Record]:
    """Every network of the recipes with every optimizer; written after each network."""
    records: list[Record] = []
    for name in recipes:
        config = load_config(name)
        try:
            prepared = prepare(config.model_copy(update={"teachers": tuple(fitted(config))}))
        except RaykdError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        task = find_task(config.task).settings.fitted_as or config.task  # of teachers
        about = {"recipe": name, "metric": find_task(task).metrics.metric}
        for teacher in prepared.config.teachers:
            records += [{**about, **found} for found in measured(prepared, teacher)]
            output.write_text(json.dumps(records, indent=1) + "\n")
            print(f"{name}: {teacher.name}", flush=True)
    return records


def main(arguments: Sequence[str]) -> None:
    """Train, and print the regrets; of records that are there already these alone."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="records, as JSON")
    parser.add_argument("--only", default=",".join(recipe_names()), metavar="RECIPE[,RECIPE]")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if chosen.output.is_file():
        records = json.loads(chosen.output.read_text())
    else:
        records = train(chosen.only.split(","), chosen.output)
    losses = regrets(records, loss=True)
    for kind, found in regrets(records).items():
        recipes = {one["recipe"] for one in records if one["kind"] == kind}
        print(f"\n{kind} ({len(recipes)} recipes: {', '.join(sorted(recipes))})")
        print("   points     NLL")
        for optimizer, regret in found.items():
            nats = losses.get(kind, {}).get(optimizer)
            print(f"  {regret:7.2f} {'' if nats is None else f'{nats:.3f}':>7}  {optimizer}")


if __name__ == "__main__":
    main(sys.argv[1:])
