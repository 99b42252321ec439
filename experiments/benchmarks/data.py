"""Samples a second of one worker: from our cache, and from what others read.

``python -m experiments.benchmarks.data`` writes synthetic cases of ACDC's size (slices of 216 x
256) and of BraTS's (four modalities of 240 x 240 x 155), prepares them, and draws slices of 192 x
192 and patches of 128 x 128 x 128 in batches, in one process of one thread. Times are of the
processor, medians of interleaved rounds; files are in the system's page cache for all methods.

- NIfTI: every sample reads its volume from ``.nii.gz``, normalizes it and cuts the sample out;
- whole volume: the same from an HDF5 file of the normalized volume (``h5py``), as published code
  does; without h5py an uncompressed ``.npz`` of the same arrays replaces it, as the table states;
- MONAI's ``PersistentDataset`` (a file of the transformed volume) and ``CacheDataset`` (the volume
  in memory), then ``RandSpatialCropd``.

The second table is the memory of a process that has drawn an epoch, with few and with many cases.
"""

import argparse
import importlib
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, RandSpatialCropd
from rich.console import Console
from rich.table import Table

from datamodules.cache.preparation import Preparer
from datamodules.cache.preprocessing import Preprocessing
from datamodules.cache.store import CachedCase
from datamodules.case import Case
from datamodules.loading.augmentation import Augmentation
from datamodules.loading.datasets import PatchDataset, SliceDataset
from datamodules.loading.loaders import training_loader

OFF = Augmentation()
CHANGES_2D = Augmentation(flip=0.5, rotation=15, scale=0.1, gamma=0.3, noise=0.05)
CHANGES_3D = Augmentation(
    flip=0.5, rotation=15, tilt=15, scale=0.2, gamma=0.3, noise=0.1, probability=0.3
)
H5PY = importlib.util.find_spec("h5py") is not None
Draw = Callable[[int], Any]  # draws that many samples


@dataclass(frozen=True)
class Material:
    """Cases on disk.

    Attributes:
        name: What they represent.
        folder: Where they are.
        cases: Their files.
        cached: The same cases in our cache.
        size: Size of a sample, ``(H, W)`` or ``(X, Y, Z)``.
    """

    name: str
    folder: Path
    cases: tuple[Case, ...]
    cached: tuple[CachedCase, ...]
    size: tuple[int, ...]


def write_case(folder: Path, name: str, shape: Sequence[int], modalities: int, seed: int) -> Case:
    """Write an ellipsoid of noise in zeros as int16 ``.nii.gz``, and a label of four classes."""
    rng = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    radius = sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij", sparse=True))
    files = []
    for index in range(modalities):
        values = 500 + 40 * rng.standard_normal(tuple(shape), np.float32) - 300 * radius
        files.append(folder / f"{name}_{index}.nii.gz")
        _save(np.where(radius < 0.7, values, 0).astype(np.int16), files[-1])
    bands = np.stack([radius < limit for limit in (0.3, 0.15, 0.05)])
    _save(bands.sum(0).astype(np.uint8), folder / f"{name}_label.nii.gz")
    return Case(id=name, patient=name, images=tuple(files), label=folder / f"{name}_label.nii.gz")


def _save(array: np.ndarray, path: Path) -> None:
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def prepare(
    folder: Path,
    name: str,
    cases: Sequence[Case],
    size: tuple[int, ...],
    preprocessing: Preprocessing,
) -> Material:
    """Read the cases into a cache in ``folder``."""
    preparer = Preparer(
        name,
        folder / "cache",
        preprocessing=preprocessing,
        label_map={k: k for k in range(4)},
        num_classes=4,
        planar=len(size) == 2,
        workers=2,
        zero_background=len(size) == 3,
    )
    preparer.fill(cases, progress=False)
    return Material(name, folder, tuple(cases), tuple(preparer.open(cases)), size)


def ours(material: Material, augmentation: Augmentation, batch: int) -> Draw:
    """Draw from our cache, through the training loader."""
    settings: dict[str, Any] = {"crop": "random", "augmentation": augmentation, "seed": 0}
    if augmentation.is_off and len(material.size) == 2:
        settings["crop"] = "center"

    dataset: SliceDataset | PatchDataset
    if len(material.size) == 2:
        dataset = SliceDataset(material.cached, patch_size=material.size[:2], **settings)
    else:
        dataset = PatchDataset(
            material.cached, patch_size=material.size, samples_per_case=32, **settings
        )
    epoch = 0

    def draw(count: int) -> None:
        nonlocal epoch
        drawn = 0
        while drawn < count:
            loader = training_loader(
                dataset, batch_size=batch, seed=0, epoch=epoch, start=(0, 0), num_workers=0
            )
            for found in loader:
                drawn += len(found["image"])
                if drawn >= count:
                    break
            epoch += 1  # the next call sees other samples of other cases

    return draw


def from_nifti(material: Material) -> Draw:
    """Read the whole case from its ``.nii.gz`` for each sample."""

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        image = np.stack([np.asarray(nib.load(p).dataobj, np.float32) for p in case.images])
        for channel in image:
            channel -= channel.mean()
            channel /= channel.std()
        return image, np.asarray(nib.load(case.label).dataobj)

    return _whole(material, read)


def from_archive(material: Material) -> Draw:
    """Read the whole normalized case from HDF5, or from ``.npz`` where there is no h5py."""
    paths: dict[str, Path] = {}
    for case, cached in zip(material.cases, material.cached, strict=True):
        arrays = {name: np.array(cached.volume(name), order="C") for name in ("image", "label")}
        arrays["image"] = arrays["image"].astype(np.float32)
        paths[case.id] = material.folder / f"{case.id}.{'h5' if H5PY else 'npz'}"
        if H5PY:
            with importlib.import_module("h5py").File(paths[case.id], "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array)
        else:
            np.savez(paths[case.id], image=arrays["image"], label=arrays["label"])

    def read(case: Case) -> tuple[np.ndarray, np.ndarray]:
        if H5PY:
            with importlib.import_module("h5py").File(paths[case.id], "r") as file:
                return file["image"][:], file["label"][:]
        with np.load(paths[case.id], allow_pickle=False) as file:
            return file["image"], file["label"]

    return _whole(material, read)


def _whole(material: Material, read: Callable[[Case], tuple[np.ndarray, np.ndarray]]) -> Draw:
    rng = np.random.default_rng(0)

    def draw(count: int) -> None:
        for n in range(count):
            image, label = read(material.cases[n % len(material.cases)])
            spare = [n - m for n, m in zip(label.shape, material.size, strict=False)]
            box = [
                slice(first, first + m)
                for first, m in zip(rng.integers(np.add(spare, 1)), material.size, strict=True)
            ]
            if len(material.size) == 2:
                z = int(rng.integers(label.shape[2]))
                image, label = image[..., z], label[..., z]
            torch.from_numpy(np.array(image[(slice(None), *box)]))
            torch.from_numpy(label[(*box,)].astype(np.int64))

    return draw


def from_monai(material: Material, *, in_memory: bool) -> Draw:
    """Draw from a dataset of MONAI's, whose volumes are transformed once."""
    keys = ["image", "label"]
    size = material.size if len(material.size) == 3 else (*material.size, 1)
    transform = Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            NormalizeIntensityd("image", channel_wise=True),
            RandSpatialCropd(keys, roi_size=size, random_size=False),
        ]
    )
    items = [{"image": list(c.images), "label": c.label} for c in material.cases]
    dataset = (
        CacheDataset(items, transform, progress=False)
        if in_memory
        else PersistentDataset(items, transform, cache_dir=material.folder / "persistent")
    )
    for n in range(len(items)):
        dataset[n]  # fills the cache

    def draw(count: int) -> None:
        for n in range(count):
            dataset[n % len(items)]

    return draw


def rates(methods: dict[str, tuple[Draw, int]], rounds: int) -> dict[str, list[float]]:
    """Return each method's seconds of processor a sample, one number a round.

    Args:
        methods: What draws samples, and how many a round.
        rounds: Rounds after one to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(-1, rounds):
        for name, (draw, count) in methods.items():
            start = time.process_time()
            draw(count)
            if turn >= 0:
                seconds[name].append((time.process_time() - start) / count)
    return seconds


def compare(material: Material, *, batch: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Measure all methods; those that read whole cases draw fewer samples a round."""
    changes = CHANGES_2D if len(material.size) == 2 else CHANGES_3D
    whole = max(1, count // 100)  # of what reads a whole case for each sample
    archive = "HDF5" if H5PY else "npz in place of HDF5 (no h5py)"
    methods = {
        "our cache": (ours(material, OFF, batch), count),
        "our cache, augmented": (ours(material, changes, batch), max(16, count // 8)),
        "NIfTI for each sample": (from_nifti(material), whole),
        f"whole volume, {archive}": (from_archive(material), whole),
        "MONAI PersistentDataset": (from_monai(material, in_memory=False), whole),
        "MONAI CacheDataset": (from_monai(material, in_memory=True), whole),
    }
    return rates(methods, rounds)


def show(title: str, seconds: dict[str, list[float]]) -> Table:
    """Return a table of medians; ratios are medians over rounds."""
    table = Table(title=title)
    for head in ("", "ms a sample", "samples a second", "times our cache"):
        table.add_column(head, justify="right" if head else "left")
    base = next(iter(seconds.values()))
    for name, found in seconds.items():
        middle = statistics.median(found)
        ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
        table.add_row(name, f"{1000 * middle:.3f}", f"{1 / middle:,.0f}", f"{ratio:.1f}")
    return table


def memory(material: Material, which: str, cases: int, batch: int) -> tuple[float, float]:
    """Return by how many MB an epoch of the first cases grows a process: in the end, at its peak.

    Both are proportional set sizes; the peak is the largest after a batch.
    """
    part = Material(
        material.name,
        material.folder,
        material.cases[:cases],
        material.cached[:cases],
        material.size,
    )
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_grown, (part, which, batch))


def _grown(material: Material, which: str, batch: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    draws = {"our cache": lambda m: ours(m, OFF, batch), "MONAI CacheDataset": _monai_in_memory}
    one = Material(
        material.name, material.folder, material.cases[:1], material.cached[:1], material.size
    )
    draws[which](one)(batch)  # imports and buffers
    before = peak = proportional_set()
    draw = draws[which](material)
    for _ in range(len(material.cases)):
        draw(batch)
        peak = max(peak, proportional_set())
    return proportional_set() - before, peak - before


def _monai_in_memory(material: Material) -> Draw:
    return from_monai(material, in_memory=True)


def proportional_set() -> float:
    """Return this process's proportional set size in MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def memory_table(materials: Sequence[Material], counts: tuple[int, int], batch: int) -> Table:
    """Return the growth of a process with few and with many cases."""
    table = Table(title="MB that an epoch adds to a process: in the end (peak)")
    for head in ("", *(f"{n} cases" for n in counts)):
        table.add_column(head, justify="right" if head else "left")
    for material in materials:
        for which in ("our cache", "MONAI CacheDataset"):
            found = [memory(material, which, n, batch) for n in counts]
            cells = [f"{end:.0f} ({peak:.0f})" for end, peak in found]
            table.add_row(f"{material.name}, {which}", *cells)
    return table


def sizes(text: str) -> tuple[int, ...]:
    """Return the numbers of a text such as ``216,256,10``."""
    return tuple(int(size) for size in text.split(","))


def main(arguments: list[str] | None = None) -> None:
    """Write the cases, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", type=sizes, default=(216, 256, 10), help="of a case with slices")
    parser.add_argument("--slice", type=sizes, default=(192, 192))
    parser.add_argument("--volume", type=sizes, default=(240, 240, 155))
    parser.add_argument("--patch", type=sizes, default=(128, 128, 128))
    parser.add_argument("--cases", type=sizes, default=(2, 10), help="few and many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true", help="leave out the second table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = max(options.cases)
        stacks = [write_case(folder, f"stack{n}", options.stack, 1, n) for n in range(many)]
        flat = prepare(folder, "slices", stacks, options.slice, Preprocessing())
        # One case's files under many names: writing twenty would take minutes.
        files = write_case(folder, "volume0", options.volume, 4, 0)
        copies = [Case(f"volume{n}", f"volume{n}", files.images, files.label) for n in range(many)]
        settings = Preprocessing(normalize="zscore_nonzero", dtype="float16", crop_above=0.0)
        deep = prepare(folder, "patches", copies, options.patch, settings)
        few = min(options.cases)
        pair = Material(deep.name, folder, deep.cases[:few], deep.cached[:few], deep.size)
        slices = compare(flat, batch=8, count=800, rounds=options.rounds)
        console.print(show(f"Slices of {flat.size}", slices))
        patches = compare(pair, batch=2, count=16, rounds=options.rounds)
        console.print(show(f"Patches of {deep.size}, 4 modalities", patches))
        if not options.no_memory:
            console.print(memory_table((flat, deep), options.cases, 2))


if __name__ == "__main__":
    main()
