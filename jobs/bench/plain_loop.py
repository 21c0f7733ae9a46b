"""The same distillation as a plain PyTorch loop in one process: what `end_to_end` is held against.

python -m jobs.bench.plain_loop RECIPE RESULT

Every batch is made, shown to all teachers, and learnt from; all cores work on each in turn. The recipe names
the data, the weights, and the numbers that both sides share.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from raykd.config import Config, load_config
from raykd.config.data import Preprocess
from raykd.config.models import Model
from raykd.data import Samples, build_samples
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import resolve
from raykd.models.weights import apply_weights, load_weights

TEMPERATURE, SOFT, HARD = 2.0, 0.9, 0.1
"""Of the soft targets, and the weights of both terms."""


def load(spec: Model, weights: str | None, samples: Samples) -> Network:
    """A model with given weights."""
    assert weights is not None, "both sides start from the same weights"
    shape = samples.input_shape
    model = build_model(spec, input_shape=shape, classes=samples.class_count, key="model")
    apply_weights(model, load_weights(weights, key="weights"), key="weights")
    statistics = samples.statistics()
    return Network(model, resolve(Preprocess(), statistics, input_shape=shape, key="model"))


@torch.inference_mode()
def accuracy(student: Network, samples: Samples, split: str) -> float:
    """Of a split's untransformed samples."""
    batch = samples.batch(samples.splits[split], -1, labels="all")
    return float((student.eval()(batch.inputs).argmax(1) == batch.labels).float().mean())


def distil(config: Config, samples: Samples) -> Network:
    """The student at the end of its last epoch."""
    student = load(config.student.model, config.student.weights, samples)
    teachers = [load(t.model, t.weights, samples).eval() for t in config.teachers if t.model]
    train, views = config.train, config.data.views.count
    assert views is not None, "the recipe says so"
    rows, size = samples.splits["train"], train.batch_size
    assert train.optimizer is not None, "the recipe says so"
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=train.optimizer.lr, weight_decay=0.0, fused=True
    )
    steps = train.epochs * -(-len(rows) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = np.random.default_rng(config.seed)
    for epoch in range(train.epochs):
        student.train()
        order = draw.permutation(rows)
        for start in range(0, len(order), size):
            batch = samples.batch(order[start : start + size], epoch % views)
            with torch.inference_mode():
                said_TBC = torch.stack([teacher(batch.inputs) for teacher in teachers])
            target_BC = F.softmax(said_TBC.mean(dim=0).clone() / TEMPERATURE, dim=1)
            logits_BC = student(batch.inputs)
            log_q_BC = F.log_softmax(logits_BC / TEMPERATURE, dim=1)
            divergence = F.kl_div(log_q_BC, target_BC, reduction="batchmean") * TEMPERATURE**2
            loss = SOFT * divergence + HARD * F.cross_entropy(logits_BC, batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        accuracy(student, samples, "validation")
    return student


def main(recipe: str, result: str) -> None:
    """Train, and write the accuracy on test."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = load_config(recipe)
    samples = build_samples(config.data, seed=config.seed)
    found = {"accuracy": accuracy(distil(config, samples), samples, "test")}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
