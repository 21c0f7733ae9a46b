"""View and source functions that the tests name by path."""

import numpy as np
import torch

from raykd.data import Dataset


def jitter(inputs, generator):
    return inputs + torch.rand(inputs.shape, generator=generator)


def in_place(inputs, generator):
    inputs.zero_()
    return inputs


def impure(inputs, generator):
    return inputs + torch.rand(inputs.shape)


def shrinking(inputs, generator):
    return inputs[..., 1:]


def of_mapping(inputs, generator):
    return {name: value * 2 for name, value in inputs.items()}


def make_dataset(count=40):
    return Dataset(inputs=np.ones((count, 3), np.float32), labels=np.arange(count) % 2)


def make_nothing():
    return None
