"""Training of one model: plan, step, loop, checkpoints; `launch` runs it on Ray Train."""

from raykd.train.checkpoint import FolderReporter, Reporter
from raykd.train.fit import Fit
from raykd.train.loop import train
from raykd.train.plan import Plan
from raykd.train.world import World

__all__ = ["Fit", "FolderReporter", "Plan", "Reporter", "World", "train"]
