"""Small learnable data of values and of labels; also what recipes of the tests name as factories."""

from __future__ import annotations

import numpy as np
import torch

from raykd.config.data import Data, Splits
from raykd.config.sources import FactorySource
from raykd.data import Dataset
from raykd.data.texts import encode_texts
from raykd.types import TEXT


def data_of(**given) -> Data:
    source = FactorySource(path="tests_tasks_data:values_data")
    return Data.model_validate(
        {"source": source, "splits": Splits(validation=30, test=40), **given}
    )


def values_data(count: int = 200) -> Dataset:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(count, 5)).astype(np.float32)
    labels = 1000 + 50 * inputs[:, 0] - 30 * inputs[:, 1] * (inputs[:, 2] > 0)
    return Dataset(
        inputs,
        (labels + generator.normal(size=count)).astype(np.float32),
        task="regression",
        classes=("grams",),
    )


def marks_data(count: int = 200) -> Dataset:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(count, 5)).astype(np.float32)
    marks = inputs[:, :3] + 0.3 * inputs[:, 3:4] > np.array([0.0, 0.5, 1.0])
    return Dataset(inputs, marks, task="multilabel", classes=("big", "round", "rare"))


def bare_data(count: int = 300) -> Dataset:
    generator = np.random.default_rng(0)
    return Dataset(generator.normal(size=(count, 5)).astype(np.float32), task="embedding")


def encoder(length: int, inputs: int = 5) -> torch.nn.Module:
    """A fixed map of some numbers to a vector."""
    torch.manual_seed(length)
    first = torch.nn.Linear(inputs, 16)
    return torch.nn.Sequential(
        torch.nn.Flatten(), first, torch.nn.Tanh(), torch.nn.Linear(16, length)
    )


def text_data(count: int = 60) -> Dataset:
    """Texts of two domains, of other words and lengths."""
    generator = np.random.default_rng(0)
    words = (
        ["if", "then", "else", ":=", "begin", "end", "while", "do", "return", "void"],
        [
            "the",
            "quick",
            "brown",
            "fox",
            "jumps",
            "over",
            "a",
            "lazy",
            "dog",
            "in",
            "warm",
            "houses",
        ],
    )
    labels = np.arange(count) % 2
    texts = [
        " ".join(generator.choice(words[label], generator.integers(1, 14))) for label in labels
    ]
    return Dataset({TEXT: encode_texts(texts, 200)}, labels, classes=("code", "prose"))
