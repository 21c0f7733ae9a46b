"""Benchmarks behind the figures of the README: ratios within one run, each with its spread."""

from raykd.bench.driver_traffic import driver
from raykd.bench.live_targets import live
from raykd.bench.mapped_data import stream
from raykd.bench.measuring import Row, Sizes
from raykd.bench.objective_cost import objective
from raykd.bench.searches import sweep
from raykd.bench.shared_cores import shared
from raykd.bench.stored_targets import memory, store, stored
from raykd.bench.whole_runs import end_to_end

BENCHMARKS = {
    "objective": objective,
    "store": store,
    "stored": stored,
    "memory": memory,
    "live": live,
    "shared": shared,
    "driver": driver,
    "stream": stream,
    "sweep": sweep,
    "end_to_end": end_to_end,
}
"""Name -> what measures it."""

__all__ = ["BENCHMARKS", "Row", "Sizes"]
