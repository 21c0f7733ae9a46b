"""What drawn tokens are worth as targets: the whole distributions, the likeliest with a tail, and draws, in pairs.

    RAYKD_HOME=.raykd python jobs/bench/drawn_targets.py --epochs 5 --replicas 2

Students of the recipe `lm_domains`, each domain's texts taught by its own teacher (`routed`: the Bayesian weighting looks at
the answers and is refused with draws). Every arm has the same replicas, chunks and order, and a store of its own, whose bytes
are told (of 256 bytes the likeliest are chosen by the loss; the store keeps all). Control `hard` is refused with draws. Without Ray, by what `raykd run` trains with; bits per byte of test are those of the best epoch.
Cost: some five minutes of one core.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # the clone: `jobs` is not installed

from jobs.bench.on_policy import Bench
from raykd.config import load_config
from raykd.evaluate.likelihood import BITS_PER_BYTE
from raykd.evaluate.statistics import t_interval
from raykd.folders import RunFolder
from raykd.models.weights import apply_weights
from raykd.objective import training_role
from raykd.objective.controls import Role
from raykd.pipeline.fits import student_fit
from raykd.pipeline.recipe_store import open_store
from raykd.targets import NoTargets, StoredTargets
from raykd.tasks import find_task
from raykd.tracking import Event
from raykd.train import FolderReporter, World, train
from raykd.train.fit import build_network
from raykd.train.validation import validate

ARMS: Mapping[str, Sequence[str]] = {
    "whole": [],
    "8 likeliest and tail": ["objective.soft_targets.top_k=8"],
    "8 draws": ["targets.draws=8"],
    "20 draws": ["targets.draws=20"],
}
TEXT = "text alone"


def bits_of(bench: Bench, role: Role, replica: int) -> float:
    """Bits per byte of test of one replica's student, at its best epoch."""
    names, samples = list(bench.models), bench.samples
    objective = bench.prepared.config.objective
    taught = training_role(role, objective, names, bench.teachers.best_teacher)
    fit = student_fit(bench.prepared, bench.teachers, taught, replica)
    temperatures = dict.fromkeys(names, 1.0)
    stored = StoredTargets(open_store(bench.store.root, bench.store.keys, samples, temperatures))
    reporter = FolderReporter(RunFolder(bench.root / f"{role}-{replica}"), _silent)
    train(fit, samples, stored if fit.teacher_infos else NoTargets(), reporter, World())
    network = build_network(fit, samples)
    weights = reporter.folder(fit.fit_id).read_weights("best")
    apply_weights(network.model, weights, key="student")
    metrics = find_task(bench.prepared.config.task).metrics
    return validate(network.eval(), samples, samples.splits["test"], World(), metrics)[
        BITS_PER_BYTE
    ]


def stored_bytes(bench: Bench) -> int:
    """Bytes of all answers to training views."""
    folders = [bench.store.root / keys.views.folder for keys in bench.store.keys.values()]
    return sum(file.stat().st_size for folder in folders for file in folder.iterdir())


def _silent(*_: Event) -> None:
    pass


def _row(name: str, size: str, bits: Sequence[float], text: Sequence[float]) -> str:
    saved = np.subtract(text, bits)
    cells = [name, size, f"{np.mean(bits):.3f}", ", ".join(f"{value:+.3f}" for value in saved)]
    interval = t_interval(list(saved)) if len(saved) > 1 and saved.any() else None
    cells.append("" if interval is None else f"{saved.mean():+.3f} ({interval[0]:+.3f} to {interval[1]:+.3f})")  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the recipe")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        shared = [f"train.epochs={given.epochs}", "objective.weighting={type: routed}"]
        shared += [
            "tracking.wandb.mode=disabled",
            "evaluate.compare=[]",
            "evaluate.controls=[labels]",
        ]
        shared += given.set
        rows: dict[str, tuple[str, list[float]]] = {}
        for number, (name, own) in enumerate(ARMS.items()):
            root = Path(folder) / str(number)
            overrides = [*shared, f"targets.store={root / 'store'}", *own]
            bench = Bench(load_config("lm_domains", overrides), root, print)
            roles: dict[str, Role] = {name: "student"}
            if not rows:
                roles[TEXT] = "labels"
            for arm, role in roles.items():
                bits = [bits_of(bench, role, replica) for replica in range(given.replicas)]
                rows[arm] = "" if arm == TEXT else f"{stored_bytes(bench):,}", bits
                print(f"{arm}: {bits}", flush=True)
        print("| targets | bytes of the training answers | bits per byte of test | saved against text alone, each replica | mean (95 % interval) |")  # fmt: skip
        print("|---|---|---|---|---|")
        for name, (size, bits) in rows.items():
            print(_row(name, size, bits, rows[TEXT][1]))


if __name__ == "__main__":
    main(sys.argv[1:])
