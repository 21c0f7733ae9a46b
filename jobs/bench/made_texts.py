"""A small recipe of texts that are made up, for comparisons."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

_FIT = {"epochs": 6, "batch_size": 16, "optimizer": {"type": "adamw", "lr": 0.01}}
_TOPICS = {"food": "bread soup salt oven apple", "space": "orbit moon rocket star comet"}


def texts_recipe(folder: Path) -> dict[str, Any]:
    """A recipe of two teachers that cut 120 posts differently.

    Args:
        folder: where the posts are written to.
    """
    rng, path = np.random.default_rng(0), folder / "posts.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "post", "topic"])
        for row in range(120):
            topic = list(_TOPICS)[row % len(_TOPICS)]
            words = [*_TOPICS[topic].split(), "the", "and", "with"]
            rows.writerow([f"p{row}", " ".join(rng.choice(words, rng.integers(4, 12))), topic])
    hashed = {"tokenizer": {"type": "hashed", "size": 256, "length": 16}}
    cut = {"tokenizer": {"type": "words", "size": 50, "length": 16}}
    source = {"type": "csv", "path": str(path), "text": "post", "label": "topic", "id": "id"}
    return {
        "data": {
            "source": source,
            "splits": {"validation": 20, "test": 30},
            "labels": 40,
            "views": {"count": 2, "policy": [{"type": "drop_words", "probability": 0.2}]},
        },
        "teachers": [
            {"name": "bag", "model": {"type": "bag", "width": 0.5}, "fit": _FIT, "preprocess": hashed},
            {"name": "cnn", "model": {"type": "text_cnn", "width": 0.25}, "fit": _FIT, "preprocess": cut},
        ],
        "student": {"model": {"type": "bag", "width": 0.125}, "preprocess": hashed},
    }  # fmt: skip
