"""The frame in which a dataset's phantom is drawn and written, one patient after another."""

from __future__ import annotations

import errno
import glob
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from datamodules.cache.leftovers import clear_leftovers
from datamodules.parallel import console, in_parallel
from datamodules.phantom.posterior import Annotation, draw_labels, posterior, stream
from datamodules.reading.posterior import save_posterior

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class PhantomSettings:
    """Settings of a phantom; shapes, signals and the usual shares are in its dataset's table.

    Args:
        release: Whose folders, file names and label values are written; empty for the usual one.
        full_size: If True, grids have the dataset's own size (those of ACDC always do).
        coarsen: Factor on the voxel size, which ACDC's slice distances do not follow.
        sigma_scale: Factor on the standard deviations of the annotated boundaries.
        bias_share: Share of the standard deviation that a whole boundary has in common.
        noise_scale: Factor on the noise of the images.
        quirks: Share of the patients with a property that not all have, by its name in the
            dataset's table, which has the others.

    Raises:
        ValueError: A setting is out of its range.
    """

    release: str = ""
    full_size: bool = False
    coarsen: float = 1.0
    sigma_scale: float = 1.0
    bias_share: float = 0.4
    noise_scale: float = 1.0
    quirks: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("coarsen", "sigma_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}.")
        if not self.noise_scale >= 0:
            raise ValueError(f"noise_scale must be >= 0, got {self.noise_scale}.")
        for name, share in {"bias_share": self.bias_share, **self.quirks}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}.")


@dataclass(frozen=True)
class Patient:
    """A patient to be written.

    Args:
        number: From 1; with the seed it decides on everything that is drawn.
        part: ``train``, ``val`` or ``test``.
        name: Name in the dataset.
        quirks: Properties that not all patients have.
    """

    number: int
    part: str = "train"
    name: str = ""
    quirks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Scan:
    """A case to be written.

    Args:
        name: Name of the case, which its posterior is filed under.
        images: Volumes ``(X, Y, Z)`` by their path under the root.
        label: Path of the label file under the root.
        annotation: What draws the labels.
        affine: From the indices to RAS, mm.
        sform: What the files give in its place as sform, or None.
        values: Value in the file of each class, or None for 0, 1, 2, ...
        axes: Axis codes of the files, as nibabel names them, or None for those of ``affine``.
    """

    name: str
    images: Mapping[str, np.ndarray]
    label: str
    annotation: Annotation
    affine: np.ndarray
    sform: np.ndarray | None = None
    values: tuple[int, ...] | None = None
    axes: str | None = None

    @property
    def turn(self) -> np.ndarray:
        """From the annotation's axes to those of the files, as nibabel's orientation."""
        if self.axes is None:
            return np.array([(0, 1), (1, 1), (2, 1)])
        codes = nib.aff2axcodes(self.affine), tuple(self.axes)
        turn = nib.orientations.ornt_transform(*map(nib.orientations.axcodes2ornt, codes))
        return np.asarray(turn)

    def write(self, root: Path, patient: str, rng: np.random.Generator) -> None:
        """Draw the labels, and write images, labels and posterior under ``root``."""
        ornt = self.turn
        affine = self.affine @ nib.orientations.inv_ornt_aff(ornt, self.annotation.shape)
        labels = draw_labels(self.annotation, rng)
        if self.values is not None:
            labels = np.array(self.values, dtype=np.uint8)[labels]
        for name, volume in {**self.images, self.label: labels}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = np.ascontiguousarray(nib.orientations.apply_orientation(volume, ornt))
            save_nifti(path, turned, affine, affine if self.sform is None else self.sform)
        probs = np.moveaxis(posterior(self.annotation), 0, -1)  # the classes are not turned
        probs = np.moveaxis(nib.orientations.apply_orientation(probs, ornt), -1, 0)
        truth = root / "posterior" / patient
        truth.mkdir(parents=True, exist_ok=True)
        save_posterior(truth / f"{self.name}.npz", probs)


Files = dict[str, str]  # text of a file by its path under the root


@dataclass(frozen=True)
class Phantom:
    """What the phantom of a dataset is made of.

    Args:
        dataset: ``acdc``, ``brats`` or ``flare``.
        title: The dataset's name in messages.
        version: Of the tables and of the construction: raised whenever the same settings give
            other files.
        releases: The releases whose layout can be written, the usual one first.
        patients: Usual number of patients of each part.
        quirks: Usual share of the patients with each property that not all have.
        name: Makes a patient's name of release and number.
        draw: Draws the scans of a patient, and the texts that go with them.
        lists: Makes the texts about all patients.
    """

    dataset: str
    title: str
    version: int
    releases: tuple[str, ...]
    patients: Mapping[str, int]
    quirks: Mapping[str, float]
    name: Callable[[str, int], str]
    draw: Callable[[Patient, PhantomSettings, int], tuple[list[Scan], Files]]
    lists: Callable[[Sequence[Patient], PhantomSettings, int], Files] = lambda *_: {}

    def settled(self, settings: PhantomSettings) -> PhantomSettings:
        """Return ``settings`` with this dataset's release and shares where they give none.

        Raises:
            ValueError: The release or property is unknown.
        """
        release = settings.release or self.releases[0]
        if release not in self.releases:
            known = ", ".join(self.releases)
            raise ValueError(f"release must be one of {known}, got {settings.release!r}.")
        if unknown := sorted(set(settings.quirks) - set(self.quirks)):
            raise ValueError(f"quirks must be of {', '.join(self.quirks)}, got {unknown[0]!r}.")
        return replace(settings, release=release, quirks={**self.quirks, **settings.quirks})


def write_phantom(
    phantom: Phantom,
    root: Path,
    *,
    patients: Mapping[str, int] | None = None,
    settings: PhantomSettings | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write a phantom to ``root``, or leave it alone if it is there with the same settings.

    The files depend on ``patients``, ``settings`` and ``seed`` alone, not on ``workers``. They
    are written next to ``root`` and moved there at the end, so that what an interruption leaves
    is never taken for a phantom. A phantom of an earlier version is replaced.

    Args:
        phantom: The dataset's phantom.
        root: Folder to write.
        patients: Number of patients of each part, ``train``, ``val`` and ``test``; None takes the
            dataset's.
        settings: Settings; None takes the defaults.
        seed: Seed of every draw, >= 0.
        workers: Threads; None takes one for each usable core. The work is in numpy and in zlib,
            which release Python's lock, and processes would each import torch again.
        progress: If True, show a progress bar.

    Raises:
        ValueError: ``root`` contains a phantom with other settings, or an argument is out of range.
        FileExistsError: ``root`` contains other files, or is a file.
        OSError: ``root`` cannot be written (permission, disk full); the message names it.
    """
    root = Path(root)
    settings = phantom.settled(settings or PhantomSettings())
    counts = _checked(phantom.patients if patients is None else patients, seed, workers)
    card = {
        "origin": "phantom",
        "dataset": phantom.dataset,
        "note": f"Synthetic images and labels in {phantom.title}'s layout. "
        f"They are not {phantom.title}.",
        "version": phantom.version,
        "seed": seed,
        "patients": counts,
        "settings": asdict(settings),
    }
    everyone = _patients(phantom, counts, settings, seed)
    part = root.with_name(f".{root.name}.partial-{uuid.uuid4().hex[:12]}")
    with _errors_named(root):
        try:
            clear_leftovers(root.parent, f".{glob.escape(root.name)}.partial-*")
            if _is_written(root, card):
                return
            part.mkdir(parents=True)
            work = partial(_write_patient, part, phantom, settings, seed)
            title = f"Writing the {phantom.title} phantom"
            for _ in in_parallel(
                work, everyone, workers=workers, description=title, progress=progress
            ):
                pass
            split = {key: [p.name for p in everyone if p.part == key] for key in counts}
            texts = phantom.lists(everyone, settings, seed)
            _write_texts(part, texts | {"split.json": _json(split), "phantom.json": _json(card)})
            _move(part, root, card)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def rewritten(phantom: Phantom, card: Mapping[str, Any], patient: str) -> tuple[int, list[Scan]]:
    """Return the number of a patient of a phantom that was written, and the scans drawn again.

    Args:
        phantom: The dataset's phantom.
        card: The content of its ``phantom.json``.
        patient: The patient's name.

    Raises:
        ValueError: The phantom is of another version, or has no such patient.
    """
    if card["version"] != phantom.version:
        raise ValueError(
            f"the phantom is of version {card['version']}, and can be drawn again only by that "
            f"version, not by {phantom.version}"
        )
    settings, seed = PhantomSettings(**card["settings"]), card["seed"]
    everyone = _patients(phantom, card["patients"], settings, seed)
    found = next((one for one in everyone if one.name == patient), None)
    if found is None:
        raise ValueError(f"the phantom has no patient {patient}")
    return found.number, phantom.draw(found, settings, seed)[0]


def _checked(patients: Mapping[str, int], seed: int, workers: int | None) -> dict[str, int]:
    """Return the patients of each part, in order; raise ValueError on a wrong argument."""
    if set(patients) != set(PARTS):
        raise ValueError(f"patients must name {', '.join(PARTS)}, got {sorted(patients)}.")
    for part, count in patients.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"patients[{part!r}] must be an integer >= 1, got {count!r}.")
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be >= 1 or None, got {workers}.")
    return {part: patients[part] for part in PARTS}


def _patients(
    phantom: Phantom, counts: Mapping[str, int], settings: PhantomSettings, seed: int
) -> list[Patient]:
    """Return the patients; each quirk has its share of them, drawn at random."""
    parts = [part for part, count in counts.items() for _ in range(count)]
    having: dict[int, set[str]] = {number: set() for number in range(1, len(parts) + 1)}
    for name, share in settings.quirks.items():
        order = stream(seed, 0, name).permutation(len(parts)) + 1
        for number in order[: round(share * len(parts))].tolist():
            having[number].add(name)
    return [
        Patient(number, part, phantom.name(settings.release, number), frozenset(having[number]))
        for number, part in enumerate(parts, start=1)
    ]


def _write_patient(
    root: Path, phantom: Phantom, settings: PhantomSettings, seed: int, patient: Patient
) -> None:
    scans, texts = phantom.draw(patient, settings, seed)
    for scan in scans:
        scan.write(root, patient.name, stream(seed, patient.number, f"labels {scan.name}"))
    _write_texts(root, texts)


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _write_texts(root: Path, texts: Files) -> None:
    for name, text in texts.items():
        (root / name).write_text(text)


@contextmanager
def _errors_named(root: Path) -> Iterator[None]:
    """Add ``root`` and a fix to disk errors."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        hint = ". Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        reason = f"The phantom cannot be written: {error.strerror or error}{hint}"
        raise OSError(error.errno, reason, str(root)) from error


def _is_written(root: Path, card: Mapping[str, Any]) -> bool:
    """Return True if ``root`` is the phantom of ``card``, False if it may be written.

    Raises:
        ValueError: It is a phantom of other settings.
        FileExistsError: It is anything else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = dict(json.loads((root / "phantom.json").read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        raise FileExistsError(
            errno.EEXIST, "Not a phantom, and not overwritten; name another folder", str(root)
        ) from None
    if found == card:
        return True
    other = [key for key in card if found.get(key) != card[key]]
    old, new = found.get("settings", {}), card["settings"]
    if found.get("version", 0) < card["version"]:  # its settings may have had other names
        if other == ["version"] or (other == ["version", "settings"] and old.keys() != new.keys()):
            return False
    elif other == ["settings"]:
        other = [key for key in new if old.get(key) != new[key]]
    raise ValueError(
        f"{root} contains a phantom with other {', '.join(other) or 'contents'}. "
        f"Delete it, or name another folder."
    )


def _move(part: Path, root: Path, card: Mapping[str, Any]) -> None:
    """Rename ``part`` to ``root``, unless another process has just put the same there."""
    aside = root.with_name(f"{part.name}-replaced")  # clear_leftovers finds it if we are killed
    if (root / "phantom.json").is_file() and not _is_written(root, card):
        message = f"{root} is a phantom of an earlier version, and is replaced."
        console.print(message, style="yellow", markup=False, highlight=False)
        root.rename(aside)
    try:
        part.rename(root)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_written(root, card):
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_nifti(path: Path, data: np.ndarray, qform: np.ndarray, sform: np.ndarray) -> None:
    """Write ``data`` with both affines, in mm."""
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(qform, code=1)
    header.set_sform(sform, code=1)
    nib.save(nib.Nifti1Image(data, None, header), path)
