"""Ray Train with a student in parts: the weights of one worker, and the same bits after a notice and after a kill."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from raykd_test_models import table_source

from raykd.config.root import StudentCluster
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.runtime import Mailbox
from raykd.train import FolderReporter, World, train
from raykd.train.launch import run_fits
from raykd.train.work import Work

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.usefixtures("ray_cluster")]


@dataclass
class Ending:
    """A source that ends its process once, at an answer of its choice."""

    source: Any
    at: int
    flag: Path
    at_once: bool = True

    def submit(self, batch):
        return self.source.submit(batch)

    def collect(self, ticket, timeout_s):
        self.at -= 1
        if self.at == 0 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.collect(ticket, timeout_s)

    def __getattr__(self, name):
        return getattr(self.source, name)


def ending_source(samples, fit, *, at, flag):
    """The answers, until the second worker is ended."""
    source = table_source(samples, fit)
    if torch.distributed.get_rank() == 0:
        return source
    return Ending(source, at, flag)


def in_groups(tmp_path, samples, fit, name, make_source):
    heard = []
    mailbox = Mailbox(heard.append)
    work = Work(samples=ray.put(samples), fits=ray.put([fit]), make_source=make_source, run=RunFolder(tmp_path / name),
                emit=mailbox.sender, depth=2)  # fmt: skip
    try:
        run_fits(work, [fit], StudentCluster(workers=2, strategy="fsdp"))
    finally:
        mailbox.close()
    folder = work.reports.folder(fit.fit_id)
    assert not (folder.path / "sharded").exists()
    weights = {which: load_weights(folder.weights(which), key="test") for which in ("last", "best")}
    return weights, heard


def test_a_killed_worker_of_a_student_in_parts_costs_no_bit(tmp_path, samples, make_fit, equal):
    fit = make_fit(samples, model="cnn", train={"batch_size": 25, "ema": 0.9, "clip_norm": 1.0, "epochs": 4})  # fmt: skip
    whole, _ = in_groups(tmp_path, samples, fit, "whole", table_source)
    alone = FolderReporter(RunFolder(tmp_path / "alone"), lambda *_: None)
    train(fit, samples, table_source(samples, fit), alone, World())
    expected = load_weights(alone.folder(fit.fit_id).weights("last"), key="test")
    for key, tensor in expected.items():
        torch.testing.assert_close(whole["last"][key], tensor, rtol=0, atol=1e-5, msg=key)
    for at in (3, 4):  # by when a checkpoint is whole: the next one waits for it
        make = partial(ending_source, at=at, flag=tmp_path / f"ended{at}")
        found, heard = in_groups(tmp_path, samples, fit, f"killed{at}", make)
        assert (tmp_path / f"ended{at}").exists()
        assert all(equal(found[which], whole[which]) for which in whole)
        told = [one.values for one in heard if one.kind == "fit"]
        assert any(one["state"] == "resumed" for one in told)
