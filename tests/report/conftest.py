"""A synthetic but realistic run: handwritten digits, three teachers, noisy students."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from raykd.evaluate import Evaluation, SplitOutputs, choose_examples, summarise

CLASSES = 10
# How strongly each model favours the label over noise, part of which all models share.
TEACHERS = {"wide": 4.6, "deep": 4.3, "vit": 3.7}
STUDENTS = {"student": 4.5, "labels": 3.3, "best_teacher": 4.3, "hard": 4.45}
SECONDS = {
    "data_s": 0.4,
    "teachers_s": 48.2,
    "targets_s": 3.1,
    "students_s": 73.9,
    "evaluate_s": 2.2,
    "total_s": 127.8,
}


def said(labels_N, strength, seed, own=1.0):
    """Log-probabilities that favour the label, less so for an 8, which looks like a 3."""
    shape = (len(labels_N), CLASSES)
    shared = torch.randn(shape, generator=torch.Generator().manual_seed(len(labels_N)))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    truth = torch.nn.functional.one_hot(labels_N, CLASSES)
    logits = 1.2 * shared + own * noise + strength * truth
    logits[:, 3] += 1.2 * (labels_N == 8)
    return (1.3 * logits).log_softmax(dim=1)


def outputs(labels, seed, replicas, controls, strengths):
    teachers = {
        name: said(labels, strength, seed + index, own=0.8)
        for index, (name, strength) in enumerate(TEACHERS.items())
    }
    students = {
        role: torch.stack(
            [said(labels, strengths[role], seed + 31 * r + 7 * k + 5) for r in range(replicas)]
        )
        for k, role in enumerate(("student", *controls))
    }
    return SplitOutputs(
        labels_N=labels,
        ids_N=torch.arange(len(labels)),
        teachers=teachers,
        ensemble=torch.stack(list(teachers.values())).exp().mean(dim=0).log(),
        students=students,
        students_last={role: tensor.flip(0) for role, tensor in students.items()},
    )


def cost(parameters, milliseconds):
    return {
        "parameters": parameters,
        "flops": 61 * parameters,
        "bytes": 4 * parameters,
        "latency_ms": {"1": milliseconds, "256": 41.0 * milliseconds},
    }


def epoch_lines(replicas, roles, epochs=30):
    ends = {"student": 0.955, "labels": 0.885, "best_teacher": 0.945, "hard": 0.95}
    generator = torch.Generator().manual_seed(0)
    for role in roles:
        for replica in range(replicas):
            for epoch in range(1, epochs + 1):
                noise = 0.012 * float(torch.randn((), generator=generator))
                accuracy = ends[role] * (1 - 0.85 * 2.718 ** (-epoch / 3.5)) + noise
                yield {
                    "time": 1.8e9 + epoch,
                    "stage": "student",
                    "kind": "epoch",
                    "fit": f"{role}/replica{replica}",
                    "step": 10 * epoch,
                    "epoch": epoch,
                    "train_loss": 3 * 0.9**epoch,
                    "lr": 0.05,
                    "validation": {"accuracy": accuracy, "nll": 2.2 * (1.02 - accuracy)},
                    "terms": {"soft_targets": 2 * 0.9**epoch},
                    "weights": {
                        "wide": 0.33 + 0.004 * epoch,
                        "deep": 0.34,
                        "vit": 0.33 - 0.004 * epoch,
                    },
                }


@pytest.fixture(scope="session")
def digits():
    data = load_digits()
    return torch.tensor(data.images / 16.0).float()[:, None], torch.tensor(data.target).long()


@pytest.fixture(scope="session")
def make_run(tmp_path_factory, digits) -> Callable[..., Path]:
    images, labels = digits

    def make(
        replicas=5,
        controls=("labels", "best_teacher", "hard"),
        status="complete",
        strengths=None,
        classes=(),
        name="digits-20260731T101500Z",
        samples=360,
    ):
        strengths = {**STUDENTS, **(strengths or {})}
        splits = {
            "validation": outputs(labels[500:770], 1000, replicas, controls, strengths),
            "test": outputs(labels[:samples], 2000, replicas, controls, strengths),
        }
        rows = choose_examples(splits["test"])
        evaluation = Evaluation(
            splits=splits, classes=classes, examples_rows=rows, examples_inputs=images[rows]
        )
        summary = summarise(
            evaluation,
            {
                "student": cost(23_400, 0.21),
                "wide": cost(176_000, 0.71),
                "deep": cost(272_000, 1.32),
                "vit": cost(211_000, 0.94),
            },
            task="classification",
            status=status,
            labels_used={"student": 200, "validation": 270, "teachers": {"wide": 200}},
            test_scored_times=1,
            timing=SECONDS,
            targets={
                "mode": "stored",
                "teacher_samples_scored": 13_816,
                "retries": 0,
                "store_bytes": 331_776,
                "hit_rate": 0.91,
                "teacher_wait_fraction": 0.004,
            },
        )
        run = tmp_path_factory.mktemp("runs") / name
        (run / "teachers").mkdir(parents=True)
        config = {"task": "classification", "data": {"source": {"type": "digits"}}}
        write(run / "config.json", config)
        write(run / "summary.json", summary)
        for teacher in TEACHERS:
            card = {"spec": {"type": "resnet"}, "fingerprint": "8c1f", "metrics": {"nll": 0.1}}
            write(run / "teachers" / f"{teacher}.json", card)
        lines = [json.dumps(line) for line in epoch_lines(replicas, ("student", *controls))]
        torn = lines[0][:40]  # as a killed writer leaves it
        (run / "metrics.jsonl").write_text("\n".join([*lines, torn]))
        (run / "events.jsonl").write_text("")
        evaluation.save(run / "evaluation.safetensors")
        return run

    return make


def write(path: Path, value) -> None:
    path.write_text(json.dumps(value))
