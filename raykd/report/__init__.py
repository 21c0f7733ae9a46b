"""The report of a run, written from its folder; see `raykd.report.verdict.verdict` for the words alone."""

from raykd.report.page import write_report
from raykd.report.verdict import Row, result_cells, result_table

__all__ = ["Row", "result_cells", "result_table", "write_report"]
