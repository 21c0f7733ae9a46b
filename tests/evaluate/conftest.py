from collections.abc import Callable

import pytest
import torch

from raykd.evaluate import Evaluation, SplitOutputs


def noisy(labels_N: torch.Tensor, classes: int, strength: float, seed: int) -> torch.Tensor:
    """Log-probabilities [N, C] that favour the label by `strength` over unit noise."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels_N), classes, generator=generator)
    logits += strength * torch.nn.functional.one_hot(labels_N.clamp(min=0), classes)
    return logits.log_softmax(dim=1)


def split_outputs(samples: int, seed: int, replicas: int, controls: tuple[str, ...]):
    classes = 4
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    strengths = {"student": 2.4, "labels": 1.4, "best_teacher": 2.2, "hard": 2.3}
    teachers = {
        name: noisy(labels, classes, 2.0 + 0.3 * index, seed + 10 + index)
        for index, name in enumerate(("wide", "deep", "vit"))
    }
    students = {
        role: torch.stack(
            [noisy(labels, classes, strengths[role], seed + 100 * r + k) for r in range(replicas)]
        )
        for k, role in enumerate(("student", *controls))
    }
    return SplitOutputs(
        labels_N=labels,
        ids_N=torch.arange(samples),
        teachers=teachers,
        ensemble=torch.stack(list(teachers.values())).exp().mean(dim=0).log(),
        students=students,
        students_last={role: tensor.clone() for role, tensor in students.items()},
    )


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    def make(replicas=5, controls=("labels", "best_teacher", "hard")):
        return Evaluation(
            splits={
                "validation": split_outputs(120, 1, replicas, controls),
                "test": split_outputs(200, 2, replicas, controls),
            },
            classes=("ant", "bee", "cat", "dog"),
        )

    return make


@pytest.fixture
def costs() -> dict:
    def one(parameters, milliseconds):
        return {
            "parameters": parameters,
            "flops": 2 * parameters,
            "bytes": 4 * parameters,
            "latency_ms": {"1": milliseconds, "256": 20 * milliseconds},
        }

    return {
        "student": one(1000, 0.5),
        "wide": one(4000, 1.0),
        "deep": one(5000, 2.0),
        "vit": one(6000, 3.0),
    }
