"""The report of a run or of a comparison, written from its folder alone."""

from raykd.report.page import write_report
from raykd.report.verdicts import Row, result_cells, result_table, verdict

__all__ = ["Row", "result_cells", "result_table", "verdict", "write_report"]
