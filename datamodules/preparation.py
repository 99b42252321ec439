"""Checks cases, and reads them into the cache, many at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from datamodules.cache import Cache, CachedCase, content_key
from datamodules.case import Case, DataError, Problem
from datamodules.checks import RawCase, read_case
from datamodules.parallel import in_parallel
from datamodules.preprocessing import Preprocessing, prepare_case, slice_fault

CACHE_VERSION = 2  # part of the cache's key: raise it when the same settings give other numbers


class Preparer:
    """Reads a dataset's cases under one choice of settings.

    Args:
        dataset: The dataset's name.
        cache_dir: Folder of all caches.
        preprocessing: What is done to the cases.
        label_map: Class index of each label value.
        num_classes: Number of classes.
        planar: Whether the network sees slices, which then must lie along the last axis.
        workers: Number of threads; None for one a CPU.
    """

    def __init__(
        self,
        dataset: str,
        cache_dir: Path,
        *,
        preprocessing: Preprocessing,
        label_map: Mapping[int, int],
        num_classes: int,
        planar: bool,
        workers: int | None,
    ) -> None:
        self.preprocessing, self.workers = preprocessing, workers
        self.label_map, self.num_classes, self.planar = dict(label_map), num_classes, planar
        settings = {"version": CACHE_VERSION, "labels": sorted(label_map.items())}
        self.cache = Cache(cache_dir, dataset, asdict(preprocessing) | settings)

    def read(self, case: Case) -> tuple[RawCase | None, list[Problem]]:
        """Return the case as it is in its files, None if it has problems, and the problems."""
        raw, problems = read_case(case, label_map=self.label_map, num_classes=self.num_classes)
        if raw is None or not self.planar:
            return raw, problems
        fault = slice_fault(raw.affine, self.preprocessing)
        if fault is None:
            return raw, problems
        return None, [Problem(case.id, str(case.images[0]), *fault)]

    def check(self, cases: Sequence[Case], *, progress: bool) -> list[Problem]:
        """Read every case from its files, and return all problems in the order of the cases."""
        results = in_parallel(
            lambda case: self.read(case)[1],
            cases,
            workers=self.workers,
            description="Checking cases",
            progress=progress,
        )
        found = {case.id: problems for case, problems in results}
        return [problem for case in cases for problem in found[case.id]]

    def claim(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases that are not in the cache; if there are any, open it for writing.

        A cache that holds every case may lie on a disk that cannot be written to.

        Raises:
            DataError: The cache lacks cases and cannot be written to.
        """
        missing = [case for case in cases if self.cache.find(case) is None]
        if missing:
            self.cache.open_for_writing()
        return missing

    def fill(self, cases: Sequence[Case], *, progress: bool) -> None:
        """Read the cases that are not in the cache into it.

        Raises:
            DataError: All problems of all cases; or at once, if the cache cannot be written.
        """
        missing = self.claim(cases)
        if not missing:
            return
        results = in_parallel(
            self._fill,
            missing,
            workers=self.workers,
            description="Reading cases",
            progress=progress,
        )
        found = {case.id: problems for case, problems in results}
        if any(found.values()):
            raise DataError(problem for case in missing for problem in found[case.id])

    def open(self, cases: Sequence[Case]) -> list[CachedCase]:
        """Return the cases as they are in the cache; raises DataError if one is not there."""
        found = {case.id: self.cache.find(case) for case in cases}
        lacking = [name for name, cached in found.items() if cached is None]
        if lacking:
            problem = Problem(
                lacking[0],
                str(self.cache.folder),
                "every case must be in the cache before it is loaded",
                f"{len(lacking)} of {len(cases)} cases missing",
                "Call prepare() first (make: `make data`).",
            )
            raise DataError([problem])
        return [cached for cached in found.values() if cached is not None]

    def _fill(self, case: Case) -> list[Problem]:
        raw, problems = self.read(case)
        if raw is None:
            return problems
        prepared = prepare_case(raw, self.preprocessing)
        arrays = {"image": prepared.image, "label": prepared.label, "posterior": prepared.posterior}
        self.cache.write(
            case,
            {name: np.moveaxis(a, -1, 0) for name, a in arrays.items() if a is not None},
            {"spacing": prepared.spacing, "content": content_key(case)},
        )
        return []
