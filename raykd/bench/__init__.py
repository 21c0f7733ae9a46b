"""Benchmarks behind the figures of the README: ratios within one run, each with its spread."""

from raykd.bench.live_targets import live
from raykd.bench.measuring import Row, Sizes
from raykd.bench.objective_cost import objective
from raykd.bench.stored_targets import memory, store, stored

BENCHMARKS = {
    "objective": objective,
    "store": store,
    "stored": stored,
    "memory": memory,
    "live": live,
}
"""Name -> what measures it."""

__all__ = ["BENCHMARKS", "Row", "Sizes"]
