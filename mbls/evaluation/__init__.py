"""Results of a test: metrics.json, cases.csv, bins.npz, protocols and tables."""

from mbls.evaluation.protocols import PROTOCOLS, Protocol, protocol_values
from mbls.evaluation.results import Results, from_bins, load_results, write_results
from mbls.evaluation.run import TestRun
from mbls.evaluation.table import regions_table, results_table, summary_table

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Results",
    "TestRun",
    "from_bins",
    "load_results",
    "protocol_values",
    "regions_table",
    "results_table",
    "summary_table",
    "write_results",
]
