"""What there is to find out of a teacher's model before it is hosted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from raykd.config import Config
from raykd.config.models import SklearnModel, Teacher
from raykd.data import Samples
from raykd.errors import InputError, Problem
from raykd.models.network import Network
from raykd.models.preprocess import Preprocessing
from raykd.models.taps import probe
from raykd.models.zoo.estimator import examples_of
from raykd.seeding import derive
from raykd.types import ORIGINAL_VIEW

Shape = tuple[int, ...]
_PROBED = 32


def examples(
    config: Config, teacher: Teacher, preprocessing: Preprocessing, samples: Samples
) -> dict[str, Tensor] | None:
    """What an estimator is fitted on: the untransformed samples whose labels it may see; None for networks."""
    if not isinstance(teacher.model, SklearnModel):
        return None
    rows = samples.labelled_rows("train", teacher.labels)
    batch = samples.batch(rows, ORIGINAL_VIEW, labels=teacher.labels)
    (inputs,) = batch.inputs.values()
    labels = batch.labels if samples.scale is None else samples.scale.standardised(batch.labels)
    seed = derive(config.seed, "teacher", teacher.name)
    return examples_of(preprocessing(inputs), labels, batch.weight_B, seed=seed)


def vector_length(
    teacher: Teacher, network: Network, inputs: Mapping[str, Tensor], answer: Shape, key: str
) -> int:
    """Length of a teacher's embedding."""
    where = f"{key}.embedding"
    found = answer
    if teacher.embedding is not None:
        found = probe(network, inputs, (teacher.embedding,), key=where)[teacher.embedding]
    if len(found) != 1:
        what = teacher.embedding or "the model"
        raise InputError(
            Problem(where, f"{what} puts out {list(found)} for a sample; name a module that puts out a vector [D], "
                    "such as the one before the classifier (`raykd inspect` prints shapes)")
        )  # fmt: skip
    return found[0]


def known_by_answers(teacher: Teacher, weights: Mapping[str, Tensor] | None) -> bool:
    """Whether what it has of weights does not decide its answers: a function, or a version of scikit-learn does."""
    if isinstance(teacher.model, SklearnModel):
        return True
    return not weights and teacher.fit is None


@torch.no_grad()
def behaviour(network: Network, samples: Samples) -> str:
    """Hash of the answers to a few samples, to the digits that other machines agree on."""
    rows = samples.splits["train"][:_PROBED]
    answers = network.eval()(samples.batch(rows, ORIGINAL_VIEW).inputs)
    rounded = np.round(answers.double().numpy(), 3) + 0.0
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:32]
