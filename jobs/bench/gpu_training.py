"""A student's training on a device: the same bits again, where the recipe asks for that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from jobs.bench.gpu_recipes import CLASSES, Result, Smoke
from jobs.bench.synthetic import AtHand, logits
from raykd.folders import RunFolder
from raykd.models.weights import load_weights
from raykd.tracking import Event
from raykd.train import FolderReporter, World, train

_TEACHER = "t0"
_EPOCHS = 2


def repeated_training(smoke: Smoke) -> list[Result]:
    """Two fits of one seed: with `train.deterministic` the same bits, without it nearly so on a GPU."""
    found = {fixed: [_weights(smoke, fixed=fixed) for _ in range(2)] for fixed in (True, False)}
    differ = {fixed: _largest_difference(*two) for fixed, two in found.items()}
    exact = differ[True] == 0.0
    return [
        Result("training again, deterministic: difference", differ[True], "", "= 0", exact),
        Result("training again, as it is: difference", differ[False], "", "told"),
    ]


def _weights(smoke: Smoke, *, fixed: bool) -> dict[str, torch.Tensor]:
    """What a student's weights are after a few epochs."""
    with TemporaryDirectory() as root:
        bench = smoke.bench(Path(root))
        fit = bench.fit("again", [_TEACHER])
        changed = {"deterministic": fixed, "epochs": _EPOCHS}
        fit = replace(fit, training=fit.training.model_copy(update=changed))
        heard: list[Event] = []
        reporter = FolderReporter(RunFolder(Path(root) / "run"), heard.append)
        said = AtHand({_TEACHER: logits(len(bench.samples), CLASSES, 0)})
        train(fit, bench.samples, said, reporter, World(device=smoke.device))
        return load_weights(reporter.folder(fit.fit_id).weights("last"), key="smoke test")


def _largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[n].double() - other[n].double()).abs().max()) for n in one)
