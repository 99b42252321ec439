"""Audit of a large case: seconds and peak memory, next to reading its file alone.

``python -m experiments.benchmarks.audit`` writes one case of 256 x 256 x 150 voxels and 14 classes
(550 MB as float32; ``--shape 512,512,300`` is a whole CT, 4.4 GB) to a temporary folder, in the
form of nnU-Net's ``.npz`` and of a NIfTI file, and reads or scores it in a process of its own. The
peak is the process's resident memory over that of its imports, also in multiples of the map.
"""

import argparse
import gzip
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from rich.console import Console
from rich.table import Table

from mbls.commands.audit import audit_card, audit_meta, score
from mbls.predictions import open_predictions
from mbls.predictions.stored import load_map

CASE = "case"
FORMATS = ("npz", "nifti")


def slices(shape: Sequence[int], classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield label and confidence of each slice, ``(Y, X)``: shells around the center."""
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    limits = 0.55 * np.sqrt(np.arange(classes - 1, 0, -1, dtype=np.float32) / (classes - 1))
    for level in z:
        radius = np.sqrt(level**2 + y[:, None] ** 2 + x[None] ** 2)
        shell = (radius[None] < limits[:, None, None]).sum(0).astype(np.uint8)
        near = np.abs(radius[None] - limits[:, None, None]).min(0)
        yield shell, 1 - 0.5 * np.exp(-40 * near) * (1 + 0.3 * np.sin(91 * radius + 57 * x[None]))


def channels(shape: Sequence[int], classes: int) -> Iterator[bytes]:
    """Yield the float32 map slice by slice, class by class, the order in which both files keep it.

    The label's class has the confidence, and the others share the rest.
    """
    for k in range(classes):
        for shell, confidence in slices(shape, classes):
            yield np.where(shell == k, confidence, (1 - confidence) / (classes - 1)).tobytes()


def write_case(folder: Path, shape: Sequence[int], classes: int, form: str) -> None:
    """Write ``maps/case.*`` and ``labels/case.nii.gz``, in the memory of a few slices."""
    maps, labels = folder / "maps", folder / "labels"
    maps.mkdir(parents=True)
    labels.mkdir()
    label = np.stack([shell for shell, _ in slices(shape, classes)]).transpose()
    nib.save(nib.Nifti1Image(label, np.eye(4)), labels / f"{CASE}.nii.gz")
    if form == "npz":
        header = {"descr": "<f4", "fortran_order": False, "shape": (classes, *shape[::-1])}
        with (
            zipfile.ZipFile(
                maps / f"{CASE}.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
            ) as archive,
            archive.open("probabilities.npy", "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for part in channels(shape, classes):
                file.write(part)
        return
    image = nib.Nifti1Image(np.broadcast_to(np.float32(0), (*shape, classes)), np.eye(4))
    with gzip.open(maps / f"{CASE}.nii.gz", "wb", compresslevel=1) as packed:
        image.header["vox_offset"] = 352
        packed.write(image.header.binaryblock + bytes(4))
        for part in channels(shape, classes):
            packed.write(part)


def work(what: str, folder: Path, axes: str) -> dict[str, float]:
    """Read or score the case in this process; return seconds and peak memory in bytes."""
    source = open_predictions(folder / "maps", labels=folder / "labels", axes=axes)
    before, start = peak(), time.perf_counter()
    if what == "read":
        load_map(source.found[CASE].stored)
    else:
        meta = audit_meta(source, audit_card(source, name="bench"))
        score(map(source.read, source.cases), source, meta)
    return {"seconds": time.perf_counter() - start, "bytes": peak() - before}


def peak() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux


def measure(what: str, folder: Path, form: str) -> dict[str, float]:
    """Return the result of :func:`work` in a process of its own."""
    axes = "czyx" if form == "npz" else "xyzc"
    command = [sys.executable, "-m", "experiments.benchmarks.audit"]
    command += ["--only", what, "--folder", str(folder), "--axes", axes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(arguments: list[str] | None = None) -> None:
    """Write the case, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--shape", default="256,256,150", help="voxels along X, Y and Z")
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--only", choices=("read", "audit"), help=argparse.SUPPRESS)
    parser.add_argument("--axes", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        sys.stdout.write(json.dumps(work(options.only, options.folder, options.axes)) + "\n")
        return
    shape = tuple(int(size) for size in options.shape.split(","))
    size = 4 * options.classes * math.prod(shape)
    table = Table(title=f"{shape}, {options.classes} classes, float32: {size / 1e9:.2f} GB")
    for head in ("", "", "seconds", "peak GB", "times the map"):
        table.add_column(head, justify="right" if head else "left")
    for form in options.formats.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_case(folder, shape, options.classes, form)
            for what in ("read", "audit"):
                found = measure(what, folder, form)
                memory = found["bytes"]
                row = (f"{found['seconds']:.1f}", f"{memory / 1e9:.2f}", f"{memory / size:.2f}")
                table.add_row(form, what, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
