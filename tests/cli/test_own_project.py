"""A user's own data, teacher and student in one file of at most 60 lines outside the repository, from YAML alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

FILE = '''\
"""My digits, my teacher, my student."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import interpolate

from raykd.data import Dataset

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SORTED = sorted(WORDS)


def load():
    """Colour images [N, 12, 12, 3] of bytes, and words."""
    digits = load_digits()
    gray = interpolate(torch.from_numpy(digits.images)[:, None], size=12)[:, 0].numpy() * 255 / 16
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=3), [WORDS[y] for y in digits.target]


def data():
    images, words = load()
    labels = np.array([SORTED.index(word) for word in words])
    return Dataset(images.transpose(0, 3, 1, 2).copy(), labels, classes=tuple(SORTED))


class Teacher(nn.Module):
    """Least squares on gray images of 16 by 16 pixels, channels last; its classes count from nine to zero."""

    def __init__(self):
        super().__init__()
        images, words = load()
        pixels = torch.from_numpy(images[..., 0] / np.float32(255))[:, None]
        x = interpolate(pixels, size=16, mode="bilinear", antialias=True).flatten(1).double()
        y = torch.eye(10).double()[[9 - WORDS.index(word) for word in words]]
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        solved = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(257).double(), x.T @ y)
        self.weights = nn.Parameter(10 * solved.float())

    def forward(self, pixels):
        last = pixels.permute(0, 2, 3, 1)
        assert last.shape[1:] == (16, 16, 1)
        return last.flatten(1) @ self.weights[:-1] + self.weights[-1]


def teacher():
    return Teacher()


def student(channels):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 25, 10)
    )
'''
RECIPE = """\
data:
  source: {type: factory, path: "my_digits:data"}
  splits: {validation: 100, test: 0.2}
  labels: 100
  views: {count: 2, policy: [{type: shift, pixels: 1}]}
teachers:
  - name: squares
    model: {type: factory, path: "my_digits:teacher"}
    preprocess: {size: 16, channels: 1, normalize: none}
    label_map: [nine, eight, seven, six, five, four, three, two, one, zero]
    expect: {accuracy: 0.85}
student:
  model: {type: factory, path: "my_digits:student", kwargs: {channels: 8}}
train: {epochs: 6, batch_size: 64, optimizer: {type: adamw, lr: 0.01}}
evaluate: {controls: [], require: ["student.test.accuracy >= 0.8"]}
tracking: {wandb: {mode: disabled}}
"""


@pytest.fixture
def project(folder):
    (folder / "my_digits.py").write_text(FILE)
    (folder / "mine.yaml").write_text(RECIPE)
    assert len(FILE.splitlines()) <= 60
    return folder


def test_check_finds_it_ready_and_a_forgotten_map(project, call):
    ended = call("check", "mine.yaml")
    assert ended.code == 0, ended
    (row,) = [line for line in ended.out.splitlines() if "squares" in line and "%" in line]
    assert float(re.search(r"([\d.]+) ?%", row)[1]) > 85
    forgotten = call("check", "mine.yaml", "teachers.squares.label_map=null")
    assert forgotten.code == 2
    (proposed,) = re.findall(r"label_map=(\[.*?\])", forgotten.err)
    order = ["eight", "five", "four", "nine", "one", "seven", "six", "three", "two", "zero"]
    words = ["nine", "eight", "seven", "six", "five", "four", "three", "two", "one", "zero"]
    assert json.loads(proposed) == [order.index(word) for word in words]


@pytest.mark.soak
def test_the_whole_run(project):
    """In a process of its own, which knows nothing of the tests."""
    home = {"RAYKD_HOME": str(project / "home")}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | home
    command = [sys.executable, "-m", "raykd", "run", "mine.yaml", "--output", "run"]
    ended = subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, timeout=230
    )
    assert ended.returncode == 0, ended.stderr
    summary = json.loads((project / "run" / "summary.json").read_text())
    assert summary["status"] == "complete"
    assert summary["teachers"]["squares"]["test"]["accuracy"] > 0.85
    assert summary["student"]["test"]["accuracy"]["mean"] > 0.8
