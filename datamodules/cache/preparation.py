"""Checks cases, and reads them into the cache, many at a time."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datamodules.cache.foreground import class_places, class_slices
from datamodules.cache.preprocessing import Preprocessing, prepare_case, slice_fault
from datamodules.cache.store import Cache, CachedCase, content_key
from datamodules.case import Case, DataError, Problem
from datamodules.memory import free_memory, return_memory
from datamodules.parallel import console, default_workers, in_parallel
from datamodules.reading.checks import OUTSIDE, RawCase, read_case
from datamodules.reading.examination import CaseFacts, Examination, case_facts, spread_over
from datamodules.reading.volumes import NiftiError, case_grid

Result = TypeVar("Result")

_LARGE = 10**9  # voxels whose verification takes long enough for a bar
_SHARE = 0.5  # of the free memory, for the cases that are read at once
_AT_WORK = 28  # bytes a voxel of one case, besides its images and posterior, as measured
CACHE_VERSION = 4  # part of the cache's key: raise it when the same settings give other numbers


class Preparer:
    """Reads a dataset's cases under one choice of settings.

    Args:
        dataset: The dataset's name.
        cache_dir: Folder of all caches.
        preprocessing: What is done to the cases.
        label_map: Class index of each label value.
        num_classes: Number of classes.
        in_channels: Number of channels of an image; None for one a file.
        planar: True for 2D networks, whose slices must be along the last axis.
        workers: Number of threads; None for one per CPU. Each needs a few volumes of one case in
            memory; there are fewer if half of the free memory is too small.
        amend: Corrections of the dataset to a valid case.
        zero_background: If True, voxels that are 0 in every modality are outside the patient.
        reader_version: Part of the cache's key: a dataset raises it when ``amend`` or the way it
            finds its files gives other numbers.
    """

    def __init__(
        self,
        dataset: str,
        cache_dir: Path,
        *,
        preprocessing: Preprocessing,
        label_map: Mapping[int, int],
        num_classes: int,
        in_channels: int | None = None,
        planar: bool,
        workers: int | None,
        amend: Callable[[Case, RawCase], RawCase] | None = None,
        zero_background: bool = False,
        reader_version: int = 1,
    ) -> None:
        self.preprocessing, self.workers = preprocessing, workers
        self.label_map, self.num_classes, self.planar = dict(label_map), num_classes, planar
        self.in_channels = in_channels
        self.amend, self.zero_background = amend, zero_background
        settings = {
            "version": CACHE_VERSION,
            "reader": reader_version,
            "labels": sorted(label_map.items()),
            "planar": planar,
            "zero_background": zero_background,
        }
        self.cache = Cache(cache_dir, dataset, asdict(preprocessing) | settings)
        self._verified: set[str] = set()  # cases whose checksums were compared

    def read(self, case: Case) -> tuple[RawCase | None, list[Problem]]:
        """Return the case as it is in its files, None if it has problems, and the problems.

        The label is as the dataset amends it, with background outside the patient marked.
        """
        raw, problems = read_case(
            case,
            label_map=self.label_map,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
        )
        if raw is None:
            return raw, problems
        fault = slice_fault(raw.affine, self.preprocessing) if self.planar else None
        if fault is not None:
            return None, [Problem(case.id, str(case.images[0]), *fault)]
        if self.amend is not None:
            raw = self.amend(case, raw)
        if self.zero_background and raw.label is not None:
            raw = replace(raw, label=marked_outside(raw.image, raw.label))
            if raw.readers is not None:
                marked = [marked_outside(raw.image, label) for label in raw.readers]
                raw = replace(raw, readers=np.stack(marked))
        return raw, problems

    def examine(self, cases: Sequence[Case], *, pictures: int, progress: bool) -> Examination:
        """Read every case from its files; return problems and facts in the order of the cases."""
        pictured = spread_over(cases, pictures)

        def look(case: Case) -> tuple[list[Problem], CaseFacts | None]:
            raw, problems = self.read(case)
            if raw is None:
                return problems, None
            box = self.preprocessing.box(raw.image)
            facts = case_facts(
                case,
                raw,
                prepared=self.preprocessing.grid(raw.image.shape[1:], raw.affine, box).shape,
                num_classes=self.num_classes,
                pictured=case.id in pictured,
                zero_background=self.zero_background,
                window=self.preprocessing.window_of,
            )
            return problems, facts

        results = self._at_once(look, cases, description="Checking cases", progress=progress)
        found = {case.id: result for case, result in results}
        problems = [problem for case in cases for problem in found[case.id][0]]
        facts = (found[case.id][1] for case in cases)
        return Examination(tuple(problems), tuple(fact for fact in facts if fact is not None))

    def claim(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases that are not in the cache; if there are any, open it for writing.

        A complete cache may be on a read-only disk.

        Raises:
            DataError: The cache lacks cases and cannot be written to.
        """
        missing = [case for case in cases if self.cache.find(case) is None]
        if missing:
            self.cache.open_for_writing()
        return missing

    def fill(self, cases: Sequence[Case], *, progress: bool) -> None:
        """Read the cases that are not in the cache into it, and again those that are damaged there.

        Each case's bytes are compared with their checksums once, and not where that was done
        within a day and no file was touched since.

        Raises:
            DataError: All problems of all cases; or at once, if the cache cannot be written.
        """
        damaged = self._damaged(cases, progress=progress)
        missing = [case for case in self.claim(cases) if case not in damaged] + damaged
        if not missing:
            return
        if damaged:
            self.cache.open_for_writing()
        results = self._at_once(self._fill, missing, description="Reading cases", progress=progress)
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

    def _damaged(self, cases: Sequence[Case], *, progress: bool) -> list[Case]:
        """Return the cases whose cached files changed since they were written, and print it."""
        unverified = [case for case in cases if case.id not in self._verified]
        cached = [self.cache.find(case) for case in unverified]
        size = sum(math.prod(a.shape) for entry in cached if entry for a in entry.arrays.values())
        results = in_parallel(
            self.cache.damaged,
            unverified,
            workers=self.workers,
            description="Verifying the cache",
            progress=progress and size > _LARGE,
        )
        damaged = {case: files for case, files in results if files}
        self._verified.update(entry.id for entry in cached if entry)
        for case, files in damaged.items():
            text = f"{case.id}: {', '.join(files)} in the cache changed since it was written "
            console.print(
                f"{text}(a faulty disk?); the case is read again.", style="yellow", markup=False
            )
        return [case for case in unverified if case in damaged]

    def _at_once(
        self, work: Callable[[Case], Result], cases: Sequence[Case], **shown: Any
    ) -> Iterator[tuple[Case, Result]]:
        """Call ``work`` in parallel, for as many cases at once as fit into the free memory."""
        size, largest = _SHARE * free_memory(), max(map(self._memory_for, cases), default=0)
        workers = self.workers or default_workers()
        fit = max(1, int(size / largest)) if largest else workers
        if fit < min(workers, len(cases)):
            console.print(
                f"A case takes up to {largest / 1e9:.1f} GB, and {size / 1e9:.1f} GB are free for "
                f"them: {fit} at a time are read.",
                style="yellow",
            )

        def work_and_return(case: Case) -> Result:
            result = work(case)
            return_memory()
            return result

        return in_parallel(work_and_return, cases, workers=min(workers, fit), **shown)

    def _memory_for(self, case: Case) -> int:
        """Return the approximate bytes for reading and preparing a case, from a header."""
        try:
            shape, _, affine = case_grid(case)
        except NiftiError:
            return 0  # the case will be rejected anyway
        native = math.prod(shape)
        prepared = math.prod(self.preprocessing.grid(shape, affine).shape)
        kept = 4 * (self.in_channels or len(case.images)) + 2 * self.num_classes * (
            case.posterior is not None
        )
        kept += 2 * len(case.readers)  # uint8, of which stacking makes a copy
        return kept * (native + prepared) + _AT_WORK * max(native, prepared)

    def _fill(self, case: Case) -> list[Problem]:
        raw, problems = self.read(case)
        if raw is None:
            return problems
        for text in raw.notes:
            console.print(text, style="yellow", markup=False, highlight=False)
        prepared = prepare_case(raw, self.preprocessing)
        del raw
        volumes = {"image": prepared.image, "label": prepared.label}
        volumes |= {"posterior": prepared.posterior, "readers": prepared.readers}
        arrays = {
            name: np.moveaxis(array, -1, 0) if self.planar else array
            for name, array in volumes.items()
            if array is not None
        }
        facts: dict[str, Any] = {
            "spacing": prepared.spacing,
            "content": content_key(case),
            "planar": self.planar,
            "box": prepared.box,
        }
        if prepared.label is not None:
            arrays["slices"] = class_slices(prepared.label, self.num_classes)
            arrays["places"], facts["places"] = class_places(prepared.label, self.num_classes)
        self.cache.write(case, arrays, facts)
        return []


def marked_outside(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the label with 254 for background that is 0 in every modality of ``(M, X, Y, Z)``."""
    outside = label == 0
    for channel in image:
        outside &= channel == 0
    return np.where(outside, np.uint8(OUTSIDE), label)
