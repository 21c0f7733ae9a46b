"""A distillation by torchdistill (Matsubara 2021) in one process: what `peer` is held against.

python -m jobs.bench.peer_loop RECIPE RESULT

Its own training box, losses, data loader and schedule, as its examples use them; all cores work on each batch in turn.
The recipe names the data, the weights, and the numbers that both sides share.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import RandomSampler, TensorDataset

from jobs.bench.plain_loop import HARD, SOFT, TEMPERATURE, accuracy, load
from raykd.config import Config, load_config
from raykd.data import Samples, build_samples
from raykd.models.network import Network


def distil(config: Config, samples: Samples) -> Network:
    """The student at the end of its last epoch."""
    from torchdistill.core.distillation import DistillationBox

    (teacher,) = (load(t.model, t.weights, samples).eval() for t in config.teachers if t.model)
    student = load(config.student.model, config.student.weights, samples)
    rows = samples.splits["train"]
    shown = samples.batch(rows, -1)
    images = TensorDataset(next(iter(shown.inputs.values())), shown.labels)
    box = DistillationBox(
        teacher,
        student,
        {"train": images},
        settings(config, len(rows)),
        torch.device("cpu"),
        device_ids=None,
        distributed=False,
        lr_factor=1,
    )
    for epoch in range(config.train.epochs):
        box.pre_epoch_process(epoch=epoch)
        for batch, targets, supplement in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(batch, targets, supplement)
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
        accuracy(student, samples, "validation")
        student.train()
    return student


def settings(config: Config, images: int) -> dict[str, Any]:
    """What torchdistill reads from a YAML file otherwise."""
    train = config.train
    assert train.optimizer is not None, "the recipe says so"
    batches = {"batch_size": train.batch_size, "num_workers": 0, "drop_last": False}
    ends = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in (("path", "."), ("io", "output"))}  # fmt: skip
    kd = {**ends, "temperature": TEMPERATURE, "alpha": HARD, "beta": SOFT, "reduction": "batchmean"}
    return {
        "num_epochs": train.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": batches,
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
        "optimizer": {"key": "AdamW", "kwargs": {"lr": train.optimizer.lr, "weight_decay": 0.0}},
        "scheduler": {
            "key": "CosineAnnealingLR",
            "kwargs": {"T_max": train.epochs * -(-images // train.batch_size)},
            "scheduling_step": 1,
        },
    }  # fmt: skip


def main(recipe: str, result: str) -> None:
    """Train, and write the accuracy on test."""
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = load_config(recipe)
    samples = build_samples(config.data, seed=config.seed)
    found = {"accuracy": accuracy(distil(config, samples), samples, "test")}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
