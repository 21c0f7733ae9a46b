"""One worker of two, or the only one: `two_workers.py RANK WORKERS FOLDER`. Writes what it found.

A student of one layer, taught by everything that looks across samples or workers: relational losses, statistics of
a batch and DIST with the scope of the whole batch, running statistics, shared gradient weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from raykd.config.objective import Objective
from raykd.objective import Context, DistillObjective, TeacherInfo, reduce_terms
from raykd.tasks.classification.rule import RULE
from raykd.train.plan import split
from raykd.train.world import World
from raykd.types import Batch, Dense

WIDTH, CLASSES = 6, 4
RELATIONAL = ("similarity", "rkd_distance", "rkd_angle", "pkt")
OF_A_BATCH = ("itrd", "itrd_mutual", "pkd")
SETTINGS = {
    "labels": {"weight": 0.5},
    "soft_targets": {"loss": {"type": "dist"}, "weight": 0.1},
    "weighting": {"type": "gradient", "gram": "summed"},
    "features": [
        {
            "loss": {"type": name},
            "teacher": "a",
            "student_tap": "f",
            "teacher_tap": "f",
            "weight": 1.0,
        }
        for name in (*RELATIONAL, "smooth_l1", "vid", *OF_A_BATCH)
    ],
}


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(5, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.objective = DistillObjective(
            Objective.model_validate(SETTINGS),
            [TeacherInfo("a"), TeacherInfo("b")],
            rule=RULE,
            student_shapes={"f": (WIDTH,)},
            teacher_shapes={("a", "f"): (3,)},
        )

    def forward(self, x, batch, targets, world):
        features = self.body(x).tanh()
        gathering = world.gathering if world.workers > 1 else None
        context = Context(gathering=gathering, all_sum=world.all_sum)
        terms, _ = self.objective(self.head(features), {"f": features}, batch, targets, context)
        return reduce_terms(terms, world.all_sum, world.workers)


def step(module, wrapped, world, size, seed):
    """One update on a batch of `size` rows, of which this worker has its part; its terms."""
    generator = torch.Generator().manual_seed(seed)
    x, feature = (
        torch.randn(size, 5, generator=generator),
        torch.randn(size, 3, generator=generator) * 2 + 1,
    )
    logits = {n: torch.randn(size, CLASSES, generator=generator) * 3 for n in "ab"}
    labels = torch.randint(-1, CLASSES, (size,), generator=generator)
    positions, present = map(torch.from_numpy, split(range(size), world.rank, world.workers))
    batch = Batch(ids=positions, rows=positions, view_B=positions, inputs={}, labels=labels[positions],
                  present_B=present)  # fmt: skip
    targets = {
        n: Dense(kind="logits", values_NC=logits[n][positions], valid_N=torch.ones(len(positions)).bool(),
                 features={"f": feature[positions]})
        for n in "ab"
    }  # fmt: skip
    module.zero_grad()
    losses = wrapped(x[positions], batch, targets, world)
    losses.total.backward()
    gradients = {n: p.grad.clone() for n, p in module.named_parameters()}
    with torch.no_grad():
        for p in module.parameters():
            p.sub_(p.grad, alpha=0.05)
    return {n: world.all_sum(t) for n, t in losses.terms.items()}, gradients


def main(rank, workers, folder):
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers
        )
    world = World(rank, workers)
    module = Module()
    wrapped = world.wrap(module)
    found = [step(module, wrapped, world, size, seed) for seed, size in enumerate((7, 1, 6))]
    state = module.state_dict()
    torch.save({"steps": found, "state": state}, folder / f"{workers}-{rank}.pt")
    if workers > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
