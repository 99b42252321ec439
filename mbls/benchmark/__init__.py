"""Sweeps: losses and their settings, times seeds, times folds; each cell is one run.

Imports nothing heavy, so that a typo is answered at once.
"""

from mbls.benchmark.cells import Cell, State, make_cells
from mbls.config.specs import LossSpec, parse_losses
from mbls.runtime.locks import claim, log_file

__all__ = ["Cell", "LossSpec", "State", "claim", "log_file", "make_cells", "parse_losses"]
