"""Samples: where they come from, how they are split, and the deterministic views shown of them."""

from raykd.data.check import check_data
from raykd.data.dataset import Dataset
from raykd.data.samples import Samples, build_samples
from raykd.data.sources import load_source
from raykd.data.texts import encode_texts

__all__ = ["Dataset", "Samples", "build_samples", "check_data", "encode_texts", "load_source"]
