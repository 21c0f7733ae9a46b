"""A small student's training step beside the loop that one would write for it, with everything in memory.

Shape suffixes: T teachers, N samples, B batch, C classes, D features of a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.bench.measuring import Row, Sizes, paired, rotated, row_of
from jobs.bench.synthetic import AtHand, Bench, logits, recipe
from raykd.config.objective import Objective
from raykd.ensemble import WEIGHTINGS
from raykd.folders import RunFolder
from raykd.models.projectors import make_projector
from raykd.objective import TeacherInfo
from raykd.targets import NoTargets
from raykd.train import Fit, FolderReporter, World, train
from raykd.train.fit import build_network

_CLASSES, _BATCH, _EPOCHS = 10, 128, 6
_STUDENT = {"type": "mlp", "width": 1 / 16, "depth": 1}
"""Of four units: 3,190 parameters."""
_TEACHERS = ("a", "b", "c")
_TAP, _STUDENT_SHAPE, _TEACHER_SHAPE = "blocks.0", (4,), (8,)
_TEMPERATURE, _HARD = 4.0, 0.1
_SOFT = {"soft_targets": {"temperature": _TEMPERATURE}, "labels": {"weight": _HARD}}
_FEATURE = {"loss": {"type": "hint"}, "teacher": "a", "student_tap": _TAP, "teacher_tap": _TAP}

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits [B, C], rows [B] and the tapped features [B, D] -> the loss."""


def small(sizes: Sizes) -> list[Row]:
    """A step of a student of 3,190 parameters, batch 128, three teachers, on one thread.

    Both sides have the same model, optimizer, schedule and batches. The loop by hand has its inputs normalised, and
    the teachers mixed, before it begins; raykd begins with what a store holds. Its first epoch, in which it makes the
    same, is left out as the loop's own preparation is. Validation is not in either figure.
    """
    with TemporaryDirectory() as root:
        config = recipe(sizes.samples, _CLASSES, [_PLACEHOLDER], _STUDENT, _BATCH, _EPOCHS)
        pair = _Pair.of(Bench.of(config, RunFolder(Path(root) / "run")))
        cases: dict[str, tuple[dict[str, Any], Loss, str]] = {
            "labels alone": ({"soft_targets": None}, pair.labels, "<= 1.4"),
            "labels and soft targets, settled": (_SOFT, pair.mixed, "<= 1.4"),
            "gradient weighting": ({**_SOFT, "weighting": {"type": "gradient"}}, pair.weighed, "<= 2"),
            "a feature term": ({**_SOFT, "features": [_FEATURE]}, pair.hinted, "<= 2"),
        }  # fmt: skip
        return [row for name, case in cases.items() for row in pair.rows(name, *case, sizes)]


_PLACEHOLDER = {"name": "t0", "model": {"type": "mlp", "width": 0.1}, "fit": {"epochs": 1}}
"""No teacher is ever asked: a recipe has to name one."""


@dataclass(frozen=True, eq=False)
class _Pair:
    """The same training by raykd and by hand.

    Attributes:
        bench: data and recipe.
        inputs: all samples as the model takes them.
        label_N: every label.
        logits_TNC: what the teachers say.
        mixed_NC: their mean at the temperature of the soft targets.
        features_ND: a teacher's features.
        projector: from the student's features to the teacher's.
    """

    bench: Bench
    inputs: Tensor
    label_N: Tensor
    logits_TNC: Tensor
    mixed_NC: Tensor
    features_ND: Tensor
    projector: nn.Module

    @classmethod
    def of(cls, bench: Bench) -> _Pair:
        """Everything that both sides need."""
        samples = bench.samples
        batch = samples.batch(np.arange(len(samples)), -1)
        (inputs,) = build_network(bench.fit("", ()), samples).prepare(batch.inputs).values()
        said = [logits(len(samples), _CLASSES, seed) for seed in range(len(_TEACHERS))]
        logits_TNC = torch.stack(said)
        return cls(
            bench,
            inputs,
            batch.labels,
            logits_TNC,
            F.softmax(logits_TNC / _TEMPERATURE, dim=2).mean(dim=0),
            logits(len(samples), _TEACHER_SHAPE[0], 99),
            make_projector(_STUDENT_SHAPE, _TEACHER_SHAPE, always=True),
        )

    def rows(
        self, name: str, objective: Mapping[str, Any], loss: Loss, bar: str, sizes: Sizes
    ) -> list[Row]:
        fit = self._fit(Objective.model_validate(objective))
        sides: dict[str, Callable[[int], float]] = {
            "raykd": partial(self._ours_ms, fit, name.replace(" ", "_")),
            "by hand": lambda _: self._loop_ms(fit, loss),
        }
        found: dict[str, list[float]] = {side: [] for side in sides}
        for repeat in range(1 + sizes.repeats):  # the first one warms up
            for side in rotated(list(sides), repeat):
                found[side].append(sides[side](repeat))
        ours, by_hand = (values[1:] for values in found.values())
        return [
            row_of(f"{name}: by hand", "ms per step", by_hand),
            row_of(f"{name}: raykd", "ms per step", ours),
            paired(f"{name}: raykd / by hand", ours, by_hand, bar=bar),
        ]

    def _fit(self, objective: Objective) -> Fit:
        names = _TEACHERS if objective.soft_targets else ()
        return replace(
            self.bench.fit("", names),
            objective=objective,
            teacher_infos=tuple(TeacherInfo(name) for name in names),
            student_shapes={_TAP: _STUDENT_SHAPE},
            teacher_shapes={(name, _TAP): _TEACHER_SHAPE for name in names},
        )

    def _ours_ms(self, fit: Fit, name: str, repeat: int) -> float:
        heard: list[Any] = []
        fit = replace(fit, fit_id=f"{name}/replica{repeat}")
        source = self._at_hand if fit.teacher_infos else NoTargets()
        train(
            fit,
            self.bench.samples,
            source,
            FolderReporter(self.bench.folder, heard.append),
            World(),
        )
        rates = [float(e.values["samples_per_s"]) for e in heard if e.kind == "epoch"][1:]
        return (
            sum(1000 * len(fit.plan.rows) / rate for rate in rates) / len(rates) / self._steps(fit)
        )

    def _loop_ms(self, fit: Fit, loss: Loss) -> float:
        network = build_network(fit, self.bench.samples)
        features: dict[str, Tensor] = {}
        network.model.get_submodule(_TAP).register_forward_hook(
            lambda _module, _inputs, output: features.update(tap=output)
        )
        projector = self.projector if loss == self.hinted else nn.Identity()
        chosen = fit.training.optimizer
        assert chosen is not None, "the recipe says so"
        parameters = [*network.model.parameters(), *projector.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=chosen.lr, momentum=0.9, fused=True)
        steps = fit.training.epochs * self._steps(fit)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        network.model.train()
        seconds, total = [], torch.zeros(())
        for epoch in range(fit.training.epochs):
            begun = time.perf_counter()
            for step in range(self._steps(fit)):
                rows_B = torch.from_numpy(fit.plan.batch(epoch, step)[0])
                logits_BC = network.model(self.inputs[rows_B])
                lost = loss(logits_BC, rows_B, features["tap"])
                optimizer.zero_grad()
                lost.backward()
                optimizer.step()
                schedule.step()
                total += lost.detach()
            seconds.append(time.perf_counter() - begun)
        assert total.isfinite(), "noise in small batches must not diverge"
        return 1000 * sum(seconds[1:]) / len(seconds[1:]) / self._steps(fit)

    @property
    def _at_hand(self) -> AtHand:
        said = dict(zip(_TEACHERS, self.logits_TNC, strict=True))
        return AtHand(said, {_TAP: self.features_ND})

    @staticmethod
    def _steps(fit: Fit) -> int:
        return fit.plan.steps_per_epoch

    def labels(self, logits_BC: Tensor, rows_B: Tensor, _features_BD: Tensor) -> Tensor:
        """Cross-entropy with the labels."""
        return F.cross_entropy(logits_BC, self.label_N[rows_B])

    def mixed(self, logits_BC: Tensor, rows_B: Tensor, features_BD: Tensor) -> Tensor:
        """Labels, and the teachers mixed beforehand."""
        log_q_BC = F.log_softmax(logits_BC / _TEMPERATURE, dim=1)
        soft = F.kl_div(log_q_BC, self.mixed_NC[rows_B], reduction="batchmean") * _TEMPERATURE**2
        return _HARD * self.labels(logits_BC, rows_B, features_BD) + 0.9 * soft

    def weighed(self, logits_BC: Tensor, rows_B: Tensor, features_BD: Tensor) -> Tensor:
        """Labels, and the teachers mixed by weights that look at the student: raykd's own function."""
        said_TBC = self.logits_TNC[:, rows_B]
        weights_TB = WEIGHTINGS["gradient"](
            said_TBC, None, student_logits=logits_BC.detach(), temperature=_TEMPERATURE
        )
        p_TBC = F.softmax(said_TBC / _TEMPERATURE, dim=2)
        mixed_BC = (weights_TB[:, :, None] * p_TBC).sum(dim=0)
        log_q_BC = F.log_softmax(logits_BC / _TEMPERATURE, dim=1)
        soft = F.kl_div(log_q_BC, mixed_BC, reduction="batchmean") * _TEMPERATURE**2
        return _HARD * self.labels(logits_BC, rows_B, features_BD) + 0.9 * soft

    def hinted(self, logits_BC: Tensor, rows_B: Tensor, features_BD: Tensor) -> Tensor:
        """As `mixed`, and the projected features of one teacher."""
        projected_BD = self.projector(features_BD)
        return self.mixed(logits_BC, rows_B, features_BD) + F.mse_loss(
            projected_BD, self.features_ND[rows_B]
        )
