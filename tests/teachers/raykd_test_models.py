"""Data and models that recipes of the tests name as `raykd_test_models:function`."""

import os
import time
import uuid
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from raykd.data import Dataset
from raykd.errors import PreemptedError, TeacherError
from raykd.targets import NoTargets
from raykd.testing.sources import Killing, TableTargets

BLOBS = "raykd_test_models:blobs"
SHAPES = {"blocks.0": (8, 8, 8)}


def blobs(count=144, classes=3, noise=0.35, weighted=False, shape=(1, 8, 8)):
    """One bright patch per class, with noise."""
    rng = np.random.default_rng(7)
    labels = np.arange(count) % classes
    prototypes = rng.random((classes, *shape)).astype(np.float32)
    inputs = prototypes[labels] + noise * rng.standard_normal((count, *shape)).astype(np.float32)
    return Dataset(
        inputs=inputs.astype(np.float32),
        labels=labels,
        ids=rng.permutation(10 * count)[:count],
        weights=rng.random(count).astype(np.float32) + 0.5 if weighted else None,
    )


class Linear(nn.Module):
    """Flat inputs to logits; deterministic weights."""

    def __init__(self, classes=3, inputs=64, seed=0):
        super().__init__()
        self.linear = nn.Linear(inputs, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.normal_(generator=generator)
            self.linear.bias.zero_()

    def forward(self, x):
        return self.linear(x.flatten(1))


def linear(classes=3, inputs=64, seed=0):
    return Linear(classes, inputs, seed)


def normed(classes=10, inputs=64):
    """With batch norm over samples."""
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(inputs), nn.Linear(inputs, classes))


class Probabilities(Linear):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


def probabilities():
    return Probabilities()


class Recorder(Linear):
    """Writes the pixels of every call into a folder."""

    def __init__(self, folder, classes, inputs):
        super().__init__(classes, inputs)
        self.folder = Path(folder)

    def forward(self, x):
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / f"{uuid.uuid4().hex}.npy", x.detach().numpy())
        return super().forward(x)


def recorder(folder="seen", classes=3, inputs=64):
    return Recorder(folder, classes, inputs)


class Random(Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


def random():
    return Random()


class Broken(Linear):
    """NaN for every sample."""

    def forward(self, x):
        return super().forward(x) * float("nan")


def broken():
    return Broken()


class Raising(Linear):
    def forward(self, x):
        raise RuntimeError("no kernel for this")


def raising():
    return Raising()


class Slow(Linear):
    """Takes its time, so that a request is under way when its actor is killed."""

    def forward(self, x):
        time.sleep(0.1)
        return super().forward(x)


def slow():
    return Slow()


class Suicidal(Linear):
    """Ends its process at the first call after the file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = Path(file)

    def forward(self, x):
        if self.file.exists():
            os._exit(1)
        return super().forward(x)


def suicidal(file="gone"):
    return Suicidal(file)


class Drifting(Linear):
    """Code that reads another behaviour from the environment, as an edit of a module would give it."""

    def forward(self, x):
        out = super().forward(x)
        return -out if os.environ.get("RAYKD_TEST_DRIFT") else out


def drifting(classes=3, inputs=64):
    return Drifting(classes, inputs)


def mean_pixel():
    """A student of images that answers their mean."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def chance(classes=10, inputs=64):
    """Says the same of every sample."""
    model = Linear(classes, inputs)
    nn.init.zeros_(model.linear.weight)
    return model


def exploding():
    """A student whose outputs are infinite."""
    model = Linear()
    nn.init.constant_(model.linear.weight, 1e38)
    return model


class FailingOn(TableTargets):
    """As the table, but the worker that trains on `row` loses its teacher."""

    def __init__(self, names, samples, row):
        super().__init__(names, samples)
        self.row = row

    def collect(self, ticket, timeout_s):
        if self.row in ticket.batch.rows.tolist():
            raise TeacherError(f"no answer for row {self.row}")
        return super().collect(ticket, timeout_s)


def table_source(samples, fit):
    """Targets of a fit, made in the worker."""
    names = tuple(info.name for info in fit.teacher_infos)
    if not names:
        return NoTargets()
    if fit.fit_id.startswith("failing"):
        first, _ = fit.plan.batch(1, 0)
        return FailingOn(names, samples, int(first[-1]))
    return TableTargets(names, samples, maps=SHAPES if fit.objective.features else None)


class Mortal(Linear):
    """Ends its process at call number `calls`, but never the process `spared`."""

    def __init__(self, calls, spared):
        super().__init__(10, 64)
        self.left = calls
        self.spared = spared

    def forward(self, x):
        self.left -= 1
        if self.left <= 0 and os.getpid() != self.spared:
            os._exit(1)
        return super().forward(x)


def mortal(calls, spared):
    return Mortal(calls, spared)


def four_outputs():
    return Linear(4, 64)


def ten_outputs():
    return Linear(10, 64)


class Poisoned(Linear):
    """Dies of, raises on, or answers NaN for samples with a glaring pixel."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        glaring = x.flatten(1).amax(1) > 20
        if glaring.any() and self.how == "die":
            os._exit(1)
        if glaring.any() and self.how == "raise":
            raise RuntimeError("no kernel for this")
        return torch.where(glaring[:, None], torch.nan, super().forward(x))


def poisoned(how="die"):
    return Poisoned(how)


VIEWED = [0]
"""Views that `noticed` has made in this process."""


def noticed(inputs, generator):
    """A view that changes nothing, and counts."""
    VIEWED[0] += 1
    return inputs


class Awaiting(Linear):
    """Answers a batch once a view of the next one is made; the last of `batches` at once."""

    def __init__(self, batches, patience_s):
        super().__init__()
        self.left, self.patience_s, self.seen = batches, patience_s, 0

    def forward(self, x):
        self.left, self.seen = self.left - 1, self.seen + len(x)
        until = time.monotonic() + self.patience_s
        while self.left and VIEWED[0] <= self.seen:
            if time.monotonic() > until:
                raise RuntimeError("nobody makes the inputs of the next batch")
            time.sleep(0.002)
        return super().forward(x)


def awaiting(batches, patience_s=30.0):
    return Awaiting(batches, patience_s)


class Ponderous(Linear):
    """Answers well, `seconds` late, for as long as the file is there."""

    def __init__(self, file, seconds):
        super().__init__()
        self.file, self.seconds = Path(file), seconds

    def forward(self, x):
        if self.file.exists():
            time.sleep(self.seconds)
        return super().forward(x)


def ponderous(file="late", seconds=1.0):
    return Ponderous(file, seconds)


def _is_last():
    """Whether this worker has the highest rank of those that train together."""
    return not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1


def killing_source(at, file, samples, fit):
    """Targets of a fit, made in the workers, of which they are going to kill the last one."""
    if not _is_last():
        return table_source(samples, fit)
    return Killing(table_source(samples, fit), (at,), Path(file))


class Once(TableTargets):
    """As the table; at answer number `at` of whichever process is first, something happens."""

    def __init__(self, names, samples, at, file, happens):
        super().__init__(names, samples)
        self.at, self.file, self.happens = at, Path(file), happens

    def collect(self, ticket, timeout_s):
        if self.collected == self.at and not self.file.exists():
            self.file.touch()
            self.happens()
        return super().collect(ticket, timeout_s)


def _leave():
    raise PreemptedError("saved before")


def _notice():
    """What Ray's watcher says of a node that is drained."""
    from ray.train import PreemptionInfo  # a second that other processes need not pay
    from ray.train.v2._internal.execution.context import get_train_context

    notice = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a node": [1]})
    get_train_context().preemption_context.preemption_info = notice


def interrupted_source(at, file, how, samples, fit):
    """Targets of a fit that interrupt it once: by the end of its process, or by a notice."""
    if not fit.teacher_infos:
        return NoTargets()
    if how == "kill":
        return Killing(table_source(samples, fit), (at,), Path(file))
    return Once(tuple(info.name for info in fit.teacher_infos), samples, at, file, _leave)


def noticing_source(at, file, samples, fit):
    """Targets of a fit, made in the workers, of which the last one hears of a notice."""
    if not _is_last():
        return table_source(samples, fit)
    return Once(tuple(info.name for info in fit.teacher_infos), samples, at, file, _notice)
