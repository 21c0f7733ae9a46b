"""Benchmarks behind the figures of `jobs/README.md`: ratios within one run, each with its spread."""

from jobs.bench.dense_features import dense
from jobs.bench.driver_traffic import driver
from jobs.bench.every_core import whole
from jobs.bench.few_classes import few
from jobs.bench.latencies import latency
from jobs.bench.live_targets import live
from jobs.bench.many_samples import scale
from jobs.bench.mapped_data import stream
from jobs.bench.measuring import Row, Sizes
from jobs.bench.objective_cost import objective
from jobs.bench.peer_runs import peer
from jobs.bench.rolling import rolling
from jobs.bench.searches import sweep
from jobs.bench.shared_cores import shared
from jobs.bench.short_runs import short
from jobs.bench.small_steps import small
from jobs.bench.stored_targets import memory, store, stored
from jobs.bench.token_training import token_training
from jobs.bench.view_steps import views
from jobs.bench.whole_runs import end_to_end

BENCHMARKS = {
    "objective": objective,
    "small": small,
    "short": short,
    "whole": whole,
    "store": store,
    "stored": stored,
    "memory": memory,
    "few": few,
    "tokens": token_training,
    "live": live,
    "dense": dense,
    "shared": shared,
    "driver": driver,
    "latency": latency,
    "stream": stream,
    "views": views,
    "rolling": rolling,
    "scale": scale,
    "sweep": sweep,
    "peer": peer,
    "end_to_end": end_to_end,
}
"""Name -> what measures it."""

__all__ = ["BENCHMARKS", "Row", "Sizes"]
