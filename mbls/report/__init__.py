"""Tables from the files of finished runs."""

from mbls.report.table import results_table, summary_table

__all__ = ["results_table", "summary_table"]
