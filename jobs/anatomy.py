"""A whole distillation, to be read from top to bottom: teachers, targets, objective, loop, evaluation.

    raykd teachers digits                                 # fits the recipe's teachers once, and keeps them
    python jobs/anatomy.py digits seeds=2 train.epochs=20

Every name below is public, so each step can be replaced by one of your own. The page does what `raykd run` does, in the
same order, for classification on one worker. What it leaves out is care: no resuming, no checkpoints, no store on
disk, no feature terms, no report.

Cost: with these two keys 23 seconds of a CPU core, once the teachers of `digits` are fitted.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raykd import Config, Fleet, load_config
from raykd.data import Samples
from raykd.ensemble import WEIGHTINGS, mean_probabilities
from raykd.errors import InputError
from raykd.evaluate import classification_metrics, paired_gain, spread
from raykd.models import build_model
from raykd.models.network import Network
from raykd.models.preprocess import resolve
from raykd.objective import DistillObjective, TeacherInfo, reduce_terms, training_role
from raykd.objective.controls import Role, TrainingRole
from raykd.seeding import derive
from raykd.targets import NoTargets, TargetSource, Ticket
from raykd.tasks import find_task
from raykd.train import Plan
from raykd.train.optim import make_optimizer, make_schedule
from raykd.types import Batch, TeacherOutputs


class Remembered:
    """A source of targets that asks the teachers once for each view of a sample, and remembers.

    A frozen teacher always says the same of the same view, so its answers are data. The target store keeps them on disk
    for all runs, this keeps them in memory for one; the loop below cannot tell: both are a `TargetSource`.
    """

    def __init__(self, fleet: Fleet, rows: np.ndarray) -> None:
        self.fleet, self.rows = fleet, rows
        self.answers: dict[int, TeacherOutputs] = {}

    def submit(self, batch: Batch) -> Ticket:
        """Nothing is asked ahead here; a live source sends the batch to its actors."""
        return Ticket(batch)

    def collect(self, ticket: Ticket, timeout_s: float) -> TeacherOutputs:  # noqa: ARG002
        """What each teacher says of the batch: its logits [B, C], and which samples it answered [B]."""
        view = int(ticket.batch.view_B[0])
        if view not in self.answers:
            self.answers[view] = self.fleet.score(self.rows, view)
        places = np.searchsorted(self.rows, ticket.batch.rows.numpy())
        return {
            name: replace(said, values_NC=said.values_NC[places], valid_N=said.valid_N[places])
            for name, said in self.answers[view].items()
        }


def make_student(config: Config, samples: Samples) -> Network:
    """The student with fresh weights, behind its own preprocessing."""
    student, shape = config.student, samples.input_shape
    preprocessing = resolve(
        student.preprocess, samples.statistics(), input_shape=shape, key="student.preprocess"
    )
    shape, classes = preprocessing.output_shape(shape), samples.class_count
    model = build_model(student.model, input_shape=shape, classes=classes, key="student.model")
    return Network(model, preprocessing)


def train(
    config: Config, samples: Samples, role: TrainingRole, targets: TargetSource, replica: int
) -> Network:
    """One student, as it is after its last epoch."""
    torch.manual_seed(derive(config.seed, "student", replica))
    network = make_student(config, samples)
    infos, rule = [TeacherInfo(name) for name in role.teachers], find_task(config.task).rule
    objective = DistillObjective(role.objective, infos, rule=rule, student_shapes={}, teacher_shapes={})  # fmt: skip
    everything = samples.splits["train"]
    plan = Plan(
        rows=samples.labelled_rows("train") if role.labelled_only else everything,
        epoch_rows=len(everything),  # a control gets as many updates as the student
        batch_size=config.train.batch_size,
        seed=derive(config.seed, "order", replica),
        views=config.data.views.count,
    )
    assert config.train.optimizer is not None, "a fleet has filled in what the recipe left out"
    optimizer = make_optimizer(network, config.train.optimizer, {}, key="train")
    schedule = make_schedule(optimizer, config.train, plan.steps_per_epoch)
    for epoch in range(config.train.epochs):
        for step in range(plan.steps_per_epoch):
            batch = samples.batch(*plan.batch(epoch, step))
            said = targets.collect(targets.submit(batch), timeout_s=60.0)
            terms, _ = objective(network(batch.inputs), {}, batch, said)  # unreduced, by sample
            losses = reduce_terms(terms, all_sum=lambda counts: counts, workers=1)
            optimizer.zero_grad()
            losses.total.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def distil(config: Config) -> dict[str, Any]:
    """Student and labels alone over paired replicas, and their teachers' ensemble, on test."""
    with Fleet(config) as fleet:  # an actor for each teacher, on Ray
        config, samples = fleet.config, fleet.samples
        if config.task != "classification" or config.objective.features or config.objective.choose:
            raise InputError.at("objective", "here it is for classes, without features and choose")
        test = samples.labelled_rows("test")
        logits_TNC = torch.stack([said.values_NC for said in fleet.score(test, -1).values()])
        mixed_NC = mean_probabilities(logits_TNC, WEIGHTINGS["uniform"](logits_TNC, None))
        shown, labels_N = samples.batch(test, -1).inputs, torch.from_numpy(samples.all_labels[test])
        remembered = Remembered(fleet, samples.splits["train"])
        sources: dict[Role, TargetSource] = {"student": remembered, "labels": NoTargets()}
        right: dict[Role, list[Tensor]] = {name: [] for name in sources}
        for replica in range(config.seeds):  # pairs share seed, order and views
            for name, source in sources.items():
                role = training_role(name, config.objective, fleet.teachers, best_teacher="")
                network = train(config, samples, role, source, replica)
                with torch.no_grad():
                    right[name].append(network(shown).argmax(dim=1) == labels_N)
    right_RN = {name: torch.stack(each).double().numpy() for name, each in right.items()}
    means_R = {name: each.mean(axis=1) for name, each in right_RN.items()}
    gain = paired_gain(*means_R.values(), *right_RN.values(), seed=config.seed)
    ensemble = {"ensemble": classification_metrics(mixed_NC, labels_N), "gain": gain}
    return ensemble | {name: spread(means_R[name].tolist()) for name in sources}


def main(words: Sequence[str]) -> dict[str, Any]:
    """Distil a recipe, named by the first word and changed by the others, and print what came of it."""
    found = distil(load_config(words[0], words[1:]))
    print(f"ensemble      {found['ensemble']['accuracy']:.1%} of test")
    print(f"student       {found['student']['mean']:.1%}")
    print(f"labels alone  {found['labels']['mean']:.1%}")
    print(
        f"gain          {100 * found['gain']['mean']:+.2f} points, interval {found['gain']['ci95']}"
    )
    return found


if __name__ == "__main__":
    main(sys.argv[1:] or ["digits"])
