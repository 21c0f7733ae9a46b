"""Every loss and every weighting as a row of plain data: nothing here needs torch or pydantic.

A stateless loss or weighting is one function and one row. Its settings in a recipe, its place in the
unions of `raykd.config`, the registry of functions and the documented table follow from the row.
"""

from raykd.methods.losses import LOSS_ROWS, feature_losses, losses_of, soft_losses
from raykd.methods.rows import Combine, Knob, LossRow, WeightingRow
from raykd.methods.tables import loss_table, weighting_table
from raykd.methods.weightings import WEIGHTING_ROWS

__all__ = [
    "LOSS_ROWS",
    "WEIGHTING_ROWS",
    "Combine",
    "Knob",
    "LossRow",
    "WeightingRow",
    "feature_losses",
    "loss_table",
    "losses_of",
    "soft_losses",
    "weighting_table",
]
