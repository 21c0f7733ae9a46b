"""Where samples come from: one function for each `type` of `data.source`."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

from raykd.config.sources import Source
from raykd.data.dataset import Dataset

# A new source is its settings, in the union `Source` of raykd/config/sources.py, a function from these settings and
# the task to a `Dataset`, in a file of its own, and a row here.
SOURCES = {
    "digits": "raykd.data.named.scikit_learn:load_digits",
    "diabetes": "raykd.data.named.scikit_learn:load_diabetes",
    "diamonds": "raykd.data.named.diamonds:load_diamonds",
    "newsgroups": "raykd.data.named.newsgroups:load_newsgroups",
    "corpora": "raykd.data.named.corpora:load_corpora",
    "keel": "raykd.data.named.keel:load_keel",
    "optdigits": "raykd.data.named.keel:load_optdigits",
    "digit_scenes": "raykd.data.named.digit_scenes:load_digit_scenes",
    "fashion_mnist": "raykd.data.named.idx:load_mnist",
    "mnist": "raykd.data.named.idx:load_mnist",
    "idx": "raykd.data.named.idx:load_idx",
    "arrays": "raykd.data.arrays:load_arrays",
    "parquet": "raykd.data.decoding:load_files",
    "csv": "raykd.data.decoding:load_files",
    "images": "raykd.data.decoding:load_files",
    "webdataset": "raykd.data.decoding:load_files",
    "hf": "raykd.data.decoding:load_files",
    "gymnasium": "raykd.data.transitions:refuse_unrolled",
    "transitions": "raykd.data.transitions:load_transitions",
    "coco": "raykd.data.named.box_files:load_coco",
    "voc": "raykd.data.named.box_files:load_voc",
    "yolo": "raykd.data.named.box_files:load_yolo",
    "factory": "raykd.data.arrays:load_factory",
    "object": "raykd.data.decoding:load_files",
}
"""`type` -> `module:function`, which is imported when it is asked for."""


def load_source(source: Source, task: str = "classification") -> Dataset:
    """Load the samples that `data.source` describes.

    Args:
        source: which samples.
        task: what an `arrays` file's labels are for, or `digits` are to have.

    Raises:
        InputError: the files are missing or damaged, or the samples are not what `Dataset` asks for.
    """
    load: Callable[[Any, str], Dataset] = resolve_name(SOURCES[source.type])
    return load(source, task)
