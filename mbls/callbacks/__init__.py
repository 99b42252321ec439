"""Callbacks of a run: folder, run.json, logging, checkpoints, results and error checks."""

from mbls.callbacks.checkpoint_search import (
    find_checkpoint,
    has_checkpoint,
    last_checkpoint,
    read_checkpoint,
)
from mbls.callbacks.checkpoints import Checkpoints
from mbls.callbacks.corrupt import Corrupt
from mbls.callbacks.diagrams import Diagrams
from mbls.callbacks.graceful_stop import GracefulStop
from mbls.callbacks.multipliers import MultiplierFigure
from mbls.callbacks.nan_guard import NaNGuard
from mbls.callbacks.post_hoc import PostHoc
from mbls.callbacks.predictions import PredictionWriter
from mbls.callbacks.progress import EpochLines, ProgressBar
from mbls.callbacks.results import TestResults
from mbls.callbacks.resumption import Resumption
from mbls.callbacks.run_card import RunCard
from mbls.callbacks.run_folder import RunFolder, run_folder
from mbls.callbacks.speed import Speed
from mbls.callbacks.step_seed import StepSeed
from mbls.loggers.metrics_csv import MetricsCSV

__all__ = [
    "Checkpoints",
    "Corrupt",
    "Diagrams",
    "EpochLines",
    "GracefulStop",
    "MetricsCSV",
    "MultiplierFigure",
    "NaNGuard",
    "PostHoc",
    "PredictionWriter",
    "ProgressBar",
    "Resumption",
    "RunCard",
    "RunFolder",
    "Speed",
    "StepSeed",
    "TestResults",
    "find_checkpoint",
    "has_checkpoint",
    "last_checkpoint",
    "read_checkpoint",
    "run_folder",
]
