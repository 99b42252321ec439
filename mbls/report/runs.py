"""Find and read finished runs, and explain why others are left out.

Reads JSON, CSV, YAML and ``bins.npz``, never a pickle.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbls.config.moved import updated
from mbls.evaluation import TestRun
from mbls.evaluation.paired import unlike
from mbls.loggers.metrics_csv import read_rows
from mbls.loggers.selection import RULES
from mbls.metrics.confidence_sums import ConfidenceSums
from mbls.plots.worst_cases import load_pictures
from mbls.runtime.errors import ReportError

__all__ = ["LeftOut", "RuleTest", "Run", "find_runs"]


SHORT = {"temperature": "ts", "vector": "vs"}
"""Names of calibrators in tables, where the field has one."""


@dataclass(frozen=True)
class Run:
    """One finished and tested run.

    Attributes:
        folder: The run folder.
        tag: The test, a folder below ``test/``.
        card: Content of ``run.json``.
        config: Content of ``config.yaml``.
        metrics: Content of the test's ``metrics.json``.
        epochs: Rows of ``metrics.csv``; empty if it is missing or damaged.
        cases: Name of each test case.
        patients: Patient of each test case.
        labeled: Hash of the labeled voxels of each case and class.
        pictured: True if pictures of its worst cases can be read.
        by_rule: Test results of the checkpoints that each selection rule chose.
        damaged: Optional files that cannot be read.
        folds: The runs of a merged run; folder, settings and metrics are then those of the first,
            and epochs, pictures and tests by rule are only in :attr:`trainings`.
        pooled: True if the patients of the folds are disjoint and pooled.
    """

    folder: Path
    tag: str
    card: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, Any]
    epochs: list[dict[str, Any]]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    labeled: str = ""
    pictured: bool = False
    by_rule: dict[str, "RuleTest"] = field(default_factory=dict)
    damaged: "tuple[LeftOut, ...]" = ()
    folds: "tuple[Run, ...]" = ()
    pooled: bool = False

    @property
    def meta(self) -> dict[str, Any]:
        """Description of the test."""
        return dict(self.metrics["meta"])

    @property
    def post_hoc(self) -> str:
        """What was done with the trained networks, for a name: ``" x5+ts@dice"``, or nothing.

        A test of corrupted images has theirs too, ``"~noise:3"``.
        """
        networks, method = self.meta.get("networks", 1), self.meta.get("calibrator")
        kind = self.card.get("ensemble", "seeds")
        ensemble = "" if networks == 1 else f" x{networks}{'' if kind == 'seeds' else f' {kind}'}"
        calibrated = "" if method is None else f"+{SHORT.get(method, method)}"
        decision = self.meta.get("decision")
        corruption = self.meta.get("corruption")
        shifted = "" if corruption is None else f"~{corruption}"
        decided = "" if decision is None else f"@{decision}"
        return ensemble + shifted + calibrated + decided

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.card["seed"])

    @property
    def audited(self) -> bool:
        """True for predictions of another program, which ``mbls audit`` scored."""
        return "audit" in self.card

    @property
    def test(self) -> Path:
        """Folder of the test's files."""
        return self.folder / "test" / self.tag

    @property
    def trainings(self) -> "tuple[Run, ...]":
        """The runs on disk: the folds of a merged run, or the run itself."""
        return self.folds or (self,)

    @property
    def tests(self) -> "tuple[Run, ...]":
        """The runs whose values are averaged: folds that were tested on the same cases."""
        return self.folds if self.folds and not self.pooled else (self,)

    def counted(self) -> TestRun:
        """Return the counts of its test, the content of ``bins.npz``.

        The cases of pooled folds are concatenated.

        Raises:
            ValueError: The folds were tested on the same cases; use :attr:`tests`.
        """
        if self.pooled:
            return _joined([fold.counted() for fold in self.folds])
        if self.folds:
            raise ValueError(f"{self.folder} has several tests of the same cases; use .tests.")
        return TestRun.load(self.test / "bins.npz")


@dataclass(frozen=True)
class RuleTest:
    """Test results of the checkpoint that a selection rule chose.

    Attributes:
        dice: Mean of the foreground structures.
        nll: NLL over all voxels, pooled.
        ece: ECE over all voxels, pooled, not corrected.
    """

    dice: float
    nll: float
    ece: float


@dataclass(frozen=True)
class LeftOut:
    """A run that is not in any table, or a file that could not be read.

    Attributes:
        folder: The run folder, or the file.
        reason: The reason, and how to change it.
    """

    folder: Path
    reason: str


def find_runs(places: Sequence[Path], *, tag: str = "best") -> tuple[list[Run], list[LeftOut]]:
    """Return the finished runs in or below some folders, and those left out.

    Args:
        places: Run folders, or folders above them.
        tag: The test to read.

    Raises:
        ReportError: A folder does not exist, or none contains a finished and tested run.
    """
    folders: dict[Path, None] = {}
    seen: set[tuple[int, int]] = set()
    for place in places:
        if not place.is_dir():
            raise ReportError(
                f"{place} is not a folder. RUNS must be run folders or folders above them."
            )
        folders |= dict.fromkeys(run_folders(place, seen))
    found = [one for f in sorted(folders, key=natural_key) for one in _read_tests(f, tag)]
    runs = [one for one in found if isinstance(one, Run)]
    left_out = [one for one in found if isinstance(one, LeftOut)]
    left_out += [one for run in runs for one in run.damaged]
    if not runs:
        reasons = "".join(f"\n  {out.folder}: {out.reason}" for out in left_out[:10])
        raise ReportError(
            f"No finished run with a test {tag!r} in {', '.join(map(str, places))}. A run folder "
            f"is runs/<dataset>/<network>-<loss>/seed<k>, as `mbls train` writes it.{reasons}"
        )
    return runs, left_out


def run_folders(place: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield each run folder in or below a folder once, following symlinks.

    Args:
        place: The folder.
        seen: Device and inode of the visited folders; updated in place.
    """
    for folder, below, files in os.walk(place, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:  # another path to it, or a symlink loop
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        if {"config.yaml", "run.json"} & set(files):
            yield Path(folder)


def calibrated_tags(folder: Path, tag: str) -> list[str]:
    """Return the tests of a run that differ from ``tag`` in what follows, ``best+temperature``."""
    found = (folder / "test").glob(f"{glob.escape(tag)}+*/metrics.json")
    return sorted(path.parent.name for path in found)


def _read_tests(folder: Path, tag: str) -> "Iterator[Run | LeftOut]":
    """Yield a run's test, and those with a calibrator or thresholds on the same predictions."""
    base = _read(folder, tag)
    yield base
    for other in calibrated_tags(folder, tag):
        run = _read(folder, other)
        if isinstance(run, Run) and not {"calibrator", "decision"} & set(run.meta):
            continue  # a test of that name of a user's own
        if isinstance(run, Run) and isinstance(base, Run) and unlike(base.meta, run.meta):
            differing = "; ".join(unlike(base.meta, run.meta))
            yield LeftOut(run.test, f"not of the predictions in test/{tag}: {differing}; repeat it")
        else:
            yield run


def natural_key(path: Path | str) -> list[tuple[int, float, str]]:
    """Return a key that sorts ``margin=5`` before ``margin=10``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(path))
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def _read(folder: Path, tag: str) -> Run | LeftOut:
    """Read a run folder; return LeftOut if it cannot be used."""
    test = folder / "test" / tag
    if not (folder / "run.json").is_file():
        return LeftOut(folder, "no run.json: training did not start")
    try:
        card = json.loads((folder / "run.json").read_text())
        config = updated(yaml.safe_load((folder / "config.yaml").read_text()))
        if not card.get("finished"):
            return LeftOut(folder, f"not finished; resume it: mbls train --run {folder} --resume")
        if not (test / "metrics.json").is_file():
            which = "" if tag == "best" else f" --ckpt {tag}"
            return LeftOut(folder, f"not tested: no test/{tag}; mbls evaluate {folder}{which}")
        metrics = json.loads((test / "metrics.json").read_text())
        counted = TestRun.load(test / "bins.npz")
        run = Run(
            folder, tag, card, config, metrics, cases=tuple(counted.cases),
            patients=tuple(counted.patients), labeled=_labeled(counted),
            **_read_optional(folder, tag, config),
        )  # fmt: skip
        if run.post_hoc:  # the training's own rows have these
            run = replace(run, epochs=[], by_rule={})
        if counted.meta != {k: run.meta[k] for k in counted.meta}:
            return LeftOut(folder, f"test/{tag}: metrics.json and bins.npz are of different tests")
        int(card["seed"]), config["model"]["loss"], run.meta["n_bins"]
    except Exception as error:  # damaged files raise many kinds of errors
        return LeftOut(folder, _unreadable(error))
    return run


def _labeled(counted: TestRun) -> str:
    voxels = np.ascontiguousarray(counted.dice[:, : counted.bins.num_classes, 2], np.int64)
    return hashlib.sha256(voxels.tobytes()).hexdigest()


def _joined(parts: Sequence[TestRun]) -> TestRun:
    """Return one test with the cases of several."""
    first = parts[0]
    known = [part.bins.truth for part in parts if part.bins.truth is not None]
    readers = [part.bins.readers for part in parts if part.bins.readers is not None]
    bins = replace(
        first.bins,
        cells=np.concatenate([part.bins.cells for part in parts]),
        sums=np.concatenate([part.bins.sums for part in parts]),
        truth=np.concatenate(known) if len(known) == len(parts) else None,
        readers=np.concatenate(readers) if len(readers) == len(parts) else None,
    )
    sums = [part.confidence for part in parts if part.confidence is not None]
    volumes = [part.voxel_ml for part in parts if part.voxel_ml is not None]
    margins = [part.margins for part in parts if part.margins is not None]
    phases = [phase for part in parts for phase in part.meta.get("phases") or ()]
    shared = [name for name in first.surfaces if all(name in part.surfaces for part in parts)]
    return replace(
        first,
        meta={**first.meta, **({"phases": phases} if phases else {})},
        margins=np.concatenate(margins) if len(margins) == len(parts) else None,
        bins=bins,
        dice=np.concatenate([part.dice for part in parts]),
        cases=[case for part in parts for case in part.cases],
        patients=[patient for part in parts for patient in part.patients],
        surfaces={n: np.concatenate([part.surfaces[n] for part in parts]) for n in shared},
        fine=None,
        voxel_ml=np.concatenate(volumes) if len(volumes) == len(parts) else None,
        confidence=ConfidenceSums.joined(sums) if len(sums) == len(parts) else None,
    )


def _read_optional(folder: Path, tag: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the optional files of a run; a damaged one does not exclude the run."""
    damaged: list[LeftOut] = []

    def read(name: str, reader: Callable[[Path], Any], consequence: str) -> Any:
        if not (path := folder / name).is_file():
            return None
        try:
            return reader(path)
        except Exception as error:  # damaged files raise many kinds of errors
            damaged.append(LeftOut(path, f"{_unreadable(error)}; {consequence}"))
            return None

    tests = {rule: f"best-{rule}" for rule in RULES}
    own = _own_rule(config)
    if own is not None and not (folder / "test" / tests[own]).is_dir():
        tests[own] = "best"
    again = f"mbls evaluate {folder} --ckpt {{}} writes it again"
    pictured = bool(read(f"test/{tag}/worst.npz", load_pictures, again.format(tag)))
    by_rule = {
        rule: found
        for rule, name in tests.items()
        if (found := read(f"test/{name}/metrics.json", _rule_test, again.format(name)))
    }
    epochs = read("metrics.csv", _epochs, "its curves and choices are left out") or []
    return {"pictured": pictured, "by_rule": by_rule, "epochs": epochs, "damaged": tuple(damaged)}


def _own_rule(config: Mapping[str, Any]) -> str | None:
    """Return the rule that selected ``best.ckpt``, or None for a user's ``monitor``."""
    settings = config.get("checkpoint") or {}
    rule = settings.get("select")
    return rule if rule in RULES and settings.get("monitor") is None else None


def _epochs(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    for value in (value for row in rows for value in row.values()):
        float(value)
    return rows


def _rule_test(path: Path) -> RuleTest:
    metrics = json.loads(path.read_text())
    pooled = metrics["sound"]["all"]["pooled"]
    values = (metrics["dice"]["mean"]["value"], pooled["nll"]["value"], pooled["ece"]["value"])
    return RuleTest(*(float("nan") if v is None else float(v) for v in values))


def _unreadable(error: Exception) -> str:
    reason = str(error).splitlines()[0].partition(". ")[0][:160] if str(error) else ""
    return f"cannot be read: {type(error).__name__}: {reason}"
