"""The table of `raykd/recipes/README.md`: every packaged recipe against its controls and the fixed default target.

    python jobs/recipes_table.py --output runs/recipes                    # everything whose data is there
    python jobs/recipes_table.py --output runs/recipes --only letter,digits

Each recipe is one comparison over its own paired replicas. Recipes of classes have two more methods: `calibrated`, the
fixed default, which learns the mixture of the teachers at its T_c and chooses nothing, and `menu`, which leaves the target
to `objective.choose`. Test is scored once, by what validation has chosen by then. What a folder holds already is not run again; a recipe whose data is not there is left out,
and said.

Cost: three to six minutes on two cores for each recipe.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the clone: `jobs` is not installed

from raykd import load_config
from raykd.config.choosing import with_menu
from raykd.config.load import recipe_names
from raykd.config.variants import Variant
from raykd.errors import InputError
from raykd.folders import read_json
from raykd.pipeline import Options, compare
from raykd.tasks import find_task

_CALIBRATED = [
    *("objective.choose=null", "objective.soft_targets.sharpen=fit"),
    *("objective.soft_targets.temperature=null", "objective.soft_targets.hard_share=0"),
]
_OTHERS = ("hard", "labels", "best_teacher", "calibrated", "menu")


def measured(name: str, folder: Path) -> dict[str, Any]:
    """The summary of a recipe's comparison, and the seconds that it took."""
    config = base = load_config(name, ["tracking.wandb.mode=disabled"])
    variants = [Variant("recipe", config)]
    settings = find_task(config.task).settings
    if settings.class_logits and "objective.choose" not in settings.unused:
        base = with_menu(config)
        calibrated = load_config(config.model_dump(mode="json"), _CALIBRATED)
        variants += [Variant("calibrated", calibrated), Variant("menu", base)]
    begun = time.monotonic()
    compare(base, variants, Options(output=folder, resume=folder.exists()))
    summary = {**read_json(folder / "summary.json"), "seconds": round(time.monotonic() - begun)}
    return {key: summary[key] for key in summary if key not in ("targets", "labels_used")}


def row(name: str, found: Mapping[str, Any]) -> str:
    """A recipe's line of the table: its metric on test, and how far its student is ahead of each of the others."""
    methods, text = found["methods"], find_task(found["task"]).text
    key = text.metric.key

    def reached(method: str) -> str:
        if method not in methods:
            return "–"
        test, gain = methods[method]["test"][key], methods[method].get("gain")
        chosen = f"{found['choice']['target']}: " if method == "menu" else ""
        ahead = "" if gain is None else f" ({_ahead(gain, text.gain.signed)})"
        return f"{chosen}{text.value(test['mean'])} ± {text.spread(test['std'])}{ahead}"

    cells = " | ".join(reached(method) for method in ("recipe", *_OTHERS))
    replicas = methods["recipe"]["test"][key]["n"]
    return f"| `{name}` | {replicas} | {cells} | {found['seconds']} |"


def _ahead(gain: Mapping[str, Any], signed: Any) -> str:
    """The student's gain over a method, of the method's over the student: mean and 95 % interval."""
    low, high = gain["ci95"]
    return f"{signed(-gain['mean'])}, {signed(-high)} to {signed(-low)}"


def main() -> int:
    """Run what is asked for, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of all comparisons")
    parser.add_argument("--only", help="names of recipes, with commas")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(recipe_names())
    lines = []
    for name in names:
        try:
            found = measured(name, given.output / name)
        except InputError as error:
            print(f"{name}: left out, {error.problems[0]}", file=sys.stderr)
            continue
        (given.output / f"{name}.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
        lines.append(row(name, found))
        print(lines[-1], flush=True)
    print(f"| recipe | n | student | {' | '.join(_OTHERS)} | s |")
    print(f"|---|---|---|{'---|' * len(_OTHERS)}---|", *lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
