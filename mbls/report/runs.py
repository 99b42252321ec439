"""Runs on disk: which there are, which count, and why others are left out.

Reads JSON, CSV, YAML and ``bins.npz``, which holds no pickle.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbls.callbacks.run_logger import read_rows
from mbls.errors import ReportError
from mbls.metrics.bins import CalibrationBins
from mbls.metrics.summary import load_bins

__all__ = ["LeftOut", "Run", "find_runs"]


@dataclass(frozen=True)
class Run:
    """One finished and tested run.

    Attributes:
        folder: The run folder.
        tag: Which of its tests, a folder below ``test/``.
        card: Content of ``run.json``.
        config: Content of ``config.yaml``.
        metrics: Content of the test's ``metrics.json``.
        epochs: Rows of ``metrics.csv``; none where it is missing.
        cases: Name of each test case.
        patients: Patient of each test case.
    """

    folder: Path
    tag: str
    card: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any]
    epochs: list[dict[str, Any]]
    cases: tuple[str, ...]
    patients: tuple[str, ...]

    @property
    def meta(self) -> dict[str, Any]:
        """What the test says of itself."""
        return dict(self.metrics["meta"])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.card["seed"])

    @property
    def test(self) -> Path:
        """Folder of the test's files."""
        return self.folder / "test" / self.tag

    def bins(self) -> tuple[CalibrationBins, np.ndarray, dict[str, Any]]:
        """Return the content of ``bins.npz``: histogram, Dice counts and the rest."""
        return load_bins(self.test / "bins.npz")


@dataclass(frozen=True)
class LeftOut:
    """A run that no table holds.

    Attributes:
        folder: The run folder.
        reason: Why, and what would change it.
    """

    folder: Path
    reason: str


def find_runs(places: Sequence[Path], *, tag: str = "best") -> tuple[list[Run], list[LeftOut]]:
    """Return the finished runs in or below some folders, and those left out.

    Args:
        places: Run folders, or folders above them.
        tag: Which test to read.

    Raises:
        ReportError: A folder is not there, or none holds a run that is finished and tested.
    """
    folders: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise ReportError(f"{place} is no folder. RUNS are run folders or folders above them.")
        for name in ("config.yaml", "run.json"):
            folders |= dict.fromkeys(path.parent for path in sorted(place.rglob(name)))
    found = [_read(folder, tag) for folder in sorted(folders, key=natural)]
    runs = [one for one in found if isinstance(one, Run)]
    left_out = [one for one in found if isinstance(one, LeftOut)]
    if not runs:
        reasons = "".join(f"\n  {out.folder}: {out.reason}" for out in left_out[:10])
        raise ReportError(
            f"No finished run with a test {tag!r} in {', '.join(map(str, places))}. A run folder "
            f"is runs/<dataset>/<network>-<loss>/seed<k>, as `mbls train` writes it.{reasons}"
        )
    return runs, left_out


def natural(path: Path) -> list[tuple[int, float, str]]:
    """Return a key that sorts ``margin=5`` before ``margin=10``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(path))
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def _read(folder: Path, tag: str) -> Run | LeftOut:
    """Read a run folder, or say what is wrong with it."""
    test = folder / "test" / tag
    if not (folder / "run.json").is_file():
        return LeftOut(folder, "no run.json: its training never began")
    try:
        card = json.loads((folder / "run.json").read_text())
        config = yaml.safe_load((folder / "config.yaml").read_text())
        if not card.get("finished"):
            return LeftOut(folder, f"not finished; go on: mbls train --run {folder} --resume")
        if not (test / "metrics.json").is_file():
            which = "" if tag == "best" else f" --ckpt {tag}"
            return LeftOut(folder, f"not tested: no test/{tag}; mbls evaluate {folder}{which}")
        metrics = json.loads((test / "metrics.json").read_text())
        _, _, about = load_bins(test / "bins.npz")
        rows = folder / "metrics.csv"
        run = Run(
            folder, tag, card, config, metrics, read_rows(rows) if rows.is_file() else [],
            tuple(about["cases"]), tuple(about["patients"]),
        )  # fmt: skip
        if about["meta"] != {k: run.meta[k] for k in about["meta"]}:
            return LeftOut(folder, f"test/{tag}: metrics.json and bins.npz are of different tests")
        int(card["seed"]), config["model"]["loss"], run.meta["n_bins"]
    except Exception as error:  # whatever a broken file raises
        reason = str(error).splitlines()[0][:160] if str(error) else ""
        return LeftOut(folder, f"cannot be read: {type(error).__name__}: {reason}")
    return run
