"""Write predictions: label maps as NIfTI or PNG, and optionally class probabilities."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import nibabel as nib
import numpy as np
import pandas as pd
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from torch import Tensor

from mbls.callbacks.post_hoc import PostHoc
from mbls.data import CONTRACT, PICTURE, DataModule, datamodule_of
from mbls.decisions.guarantee import Guarantee
from mbls.decisions.masks import mask_names, promised_masks
from mbls.module import SegmentationModule
from mbls.posthoc.ensemble import UNCERTAINTIES, mean_log_probs, pairwise_dice, uncertainty
from mbls.runtime.errors import OutputError, RunFolderError
from mbls.runtime.files import clear_incoming, replace_file, replacing
from mbls.runtime.locks import LOCK, try_lock_folder, unlock
from mbls.runtime.rank_zero import share_errors

__all__ = ["PredictionWriter"]

MARK = "mbls prediction"
"""Description in the header of every prediction, which identifies files that may be replaced.

A label map's description also has the CRC-32 of its voxels, to detect manual corrections.
"""

LABEL_TYPES = (np.uint8, np.int16, np.int32, np.int64)  # the first are the most widely readable
GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
)


class PredictionWriter(BasePredictionWriter):
    """Write predictions on the grid and affine of each input.

    Logits are resampled linearly to the native grid before the softmax; the reverse order gives
    different probabilities at boundaries.

    Args:
        output: Folder for ``<case>.nii.gz``, a label map with the values of the dataset's own files
            (BraTS 2021: 4 for the last of four classes) in uint8, or the smallest of int16, int32
            and int64 that fits, and ``<case>_prob.nii.gz``, float32 with classes on the last axis.
            The label map of a picture is ``<case>.png``, of 8 or 16 bits, or of the labels' colors.
            Only one process at a time can write there.
        probabilities: If True, write the probabilities as well.
        overwrite: If True, replace files that are not predictions of this writer, such as labels
            or manually corrected predictions; its own files are always replaced.
        uncertainty: If True, write the maps of :func:`mbls.posthoc.ensemble.uncertainty`, float32,
            as ``<case>_entropy.nii.gz`` and, of an ensemble, ``<case>_mutual_information.nii.gz``
            and ``<case>_variance.nii.gz``; and ``uncertainty.csv``, with their means and the
            pairwise Dice of each case. They are those before calibration.

    With a guarantee (:class:`mbls.callbacks.PostHoc`) it writes ``<case>_outer_<structure>.nii.gz``
    and ``<case>_inner_<structure>.nii.gz``, a file each, since the masks overlap.
    """

    def __init__(
        self,
        *,
        output: Path | None = None,
        probabilities: bool = False,
        overwrite: bool = False,
        uncertainty: bool = False,
    ) -> None:
        super().__init__(write_interval="batch")
        self.uncertainty = uncertainty
        self._maps: tuple[str, ...] = ()
        self._masks: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self.output = None if output is None else Path(output)
        self.probabilities, self.overwrite = probabilities, overwrite
        self._error: OutputError | RunFolderError | None = None
        self._lock: IO[str] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check and lock the output folder before any work is done.

        Raises:
            OutputError: The folder is missing from the settings, contains the input or files that
                must not be replaced, cannot be written, or is locked by another process.
        """
        if stage != "predict":
            return
        if self.output is None:
            raise OutputError("predict needs a folder to write to: --predictions.output FOLDER.")
        data = datamodule_of(trainer)
        if data is None:
            raise OutputError(
                "predict needs a datamodule that knows the grid of each case's file: one with "
                f"{', '.join(CONTRACT)} (mbls/data.py)."
            )
        if data.predict_input is not None:
            taken = Path(data.predict_input).resolve()
            if self.output.resolve() in (taken, taken.parent if taken.is_file() else taken):
                raise OutputError(
                    f"The output folder {self.output} contains the input, which a prediction of "
                    "the same name would replace. Choose another: OUTPUT=FOLDER (--output)."
                )
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output):
                pass
        except OSError as error:
            self._error = OutputError(
                f"The output folder {self.output} cannot be written ({error.strerror}). "
                "Choose another: OUTPUT=FOLDER (--output)."
            )
        calibrator = None
        if isinstance(pl_module, SegmentationModule):
            calibrator = pl_module.post_hoc.calibrator
        if self.uncertainty and calibrator is not None and calibrator.needs_image:
            raise OutputError(
                f"Maps of the uncertainty are those before calibration, but {calibrator.method} "
                "already calibrates on the grid of the image: leave out UNCERTAINTY "
                "(--uncertainty) or CALIBRATOR (--calibrator)."
            )
        callbacks = getattr(trainer, "callbacks", None) or ()  # set by Lightning, untyped
        post_hoc = next((each for each in callbacks if isinstance(each, PostHoc)), None)
        several = post_hoc is not None and bool(post_hoc.members)
        promised = None if post_hoc is None else post_hoc.guarantee
        self._masks = [] if promised is None else mask_names(Guarantee.load(promised))
        self._maps = UNCERTAINTIES if several else UNCERTAINTIES[:1]
        self._rows = []
        if trainer.is_global_zero and self._error is None:
            try:
                self._claim(data)
            except (OutputError, RunFolderError) as error:
                self._error = error
        share_errors(trainer, self._error)

    def _claim(self, data: DataModule) -> None:
        """Lock the folder, and check that no foreign file would be replaced."""
        folder = Path(str(self.output))
        self._lock = try_lock_folder(folder)
        if self._lock is None:
            raise OutputError(
                f"Another process is writing to the output folder {folder}. Wait for it to end, or "
                "choose another: OUTPUT=FOLDER (--output)."
            )
        cases = data.cases("predict")
        names = [name for c in cases for name in self._names(c, data.source_header(c))]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise OutputError(
                f"{twice[0]} would be the label map of one input and the probabilities of another. "
                "Rename one of them, or predict without probabilities."
            )
        own = [] if self.overwrite else [name for name in names if _is_foreign(folder / name)]
        if own:
            raise OutputError(
                f"The output folder {folder} contains {len(own)} of the {len(names)} files to be "
                f"written, such as {own[0]}, which are not predictions of mbls, or were edited. "
                "Choose another: OUTPUT=FOLDER (--output), or replace them: OVERWRITE=1 "
                "(--overwrite)."
            )
        clear_incoming(folder, "*.nii.gz.*")
        clear_incoming(folder, "*.png.*")

    def _names(self, case: str, header: nib.Nifti1Header) -> Iterator[str]:
        """Yield the file names of a case."""
        yield f"{case}.png" if _is_picture(header) else f"{case}.nii.gz"
        if self.probabilities:
            yield f"{case}_prob.nii.gz"
        if self.uncertainty:
            yield from (f"{case}_{name}.nii.gz" for name in self._maps)
        yield from (f"{case}_{name}.nii.gz" for name in self._masks)

    def _note(self, case: str, logits: Sequence[Tensor], maps: Mapping[str, Tensor]) -> None:
        """Keep the numbers of a case for ``uncertainty.csv``."""
        labels = [each.argmax(dim=0) for each in logits]
        means = {f"mean_{name}": float(values.mean()) for name, values in maps.items()}
        agreement = pairwise_dice(labels, len(logits[0]))
        self._rows.append({"case": case, **means, "pairwise_dice": agreement})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlock the folder."""
        self._release()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Unlock the folder: there is no teardown after an error."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            # unlink before unlocking, or it could be the next process's lock
            (Path(str(self.output)) / LOCK).unlink(missing_ok=True)
            unlock(self._lock)
            self._lock = None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor | Sequence[Tensor],
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the cases of a batch, except those that only pad a rank.

        ``prediction`` has the logits ``(N, C, *S)``, of an ensemble those of each network.
        """
        networks = [prediction] if isinstance(prediction, Tensor) else prediction
        for n, case in enumerate(batch["case"] if self._error is None else ()):
            if bool(batch["scored"][n]):
                data = datamodule_of(trainer)
                assert data is not None  # checked in setup
                restored = [data.restore(case, logits[n].cpu()) for logits in networks]
                logits, affine = [each for each, _ in restored], restored[0][1]
                header, values = data.source_header(case), data.label_values(case)
                maps = uncertainty(logits) if self.uncertainty else {}
                if self.uncertainty:
                    self._note(case, logits, maps)
                probs, classes = _estimate(pl_module, logits)
                masks = _promised(pl_module, probs, _spacing(affine, header))
                try:
                    self._write(case, probs, classes, maps, masks, affine, header, values)
                except OutputError as error:  # raised at the end, on all ranks
                    self._error = error
        if trainer.world_size == 1:
            share_errors(trainer, self._error)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise the error of any rank on all ranks."""
        share_errors(trainer, self._error)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``uncertainty.csv``, and print the output folder."""
        ranks = range(trainer.world_size)
        rows = [row for rank in ranks for row in trainer.strategy.broadcast(self._rows, rank)]
        if trainer.is_global_zero:
            if rows:
                table = pd.DataFrame(rows).sort_values("case")
                replace_file(Path(str(self.output)) / "uncertainty.csv", _csv(table))
            Console().print(
                f"Predictions: {self.output}", soft_wrap=True, highlight=False, markup=False
            )

    def _write(
        self,
        case: str,
        probs: Tensor,
        classes: Tensor,
        maps: Mapping[str, Tensor],
        masks: Mapping[str, np.ndarray],
        affine: np.ndarray,
        header: nib.Nifti1Header,
        values: Sequence[int],
    ) -> None:
        label = label_values(values)[classes.numpy()]
        label = label.reshape(header.get_data_shape()[:3])  # the image may have two axes
        arrays = [label, *([probs.movedim(0, -1).numpy()] if self.probabilities else [])]
        arrays += [values.numpy().reshape(label.shape) for values in maps.values()]
        estimates = len(arrays)
        arrays += [mask.astype(np.uint8).reshape(label.shape) for mask in masks.values()]
        for place, (name, array) in enumerate(zip(self._names(case, header), arrays, strict=True)):
            if name.endswith(".png"):
                self._save_picture(name, array[:, :, 0].T, largest=max(values))
            else:
                is_label = place == 0 or place >= estimates
                self._save(name, array, affine, header, "label" if is_label else "estimate")

    def _save_picture(self, name: str, label: np.ndarray, *, largest: int) -> None:
        """Write a label map ``(H, W)`` as a PNG, of one kind for all cases of a dataset.

        It has colors if the largest value of a class has more than 16 bits.
        """
        if largest > 0xFFFF:
            shifts = np.array([16, 8, 0])
            label = (label.astype(np.int32)[..., None] >> shifts & 0xFF).astype(np.uint8)
        else:
            label = label.astype(np.uint8 if largest <= 0xFF else np.uint16)
        about = PngInfo()
        about.add_text("Description", _mark(label.tobytes()))
        with replacing(Path(str(self.output)) / name) as file:
            Image.fromarray(label).save(file, "PNG", pnginfo=about)

    def _save(
        self,
        name: str,
        array: np.ndarray,
        affine: np.ndarray,
        header: nib.Nifti1Header,
        intent: Literal["label", "estimate"],
    ) -> None:
        image = nib.Nifti1Image(array, np.asarray(affine), dtype=array.dtype)
        for field in GEOMETRY:  # copy qform and sform as they are, even if they disagree
            image.header[field] = header[field]
        image.header["pixdim"][:4] = header["pixdim"][:4]
        image.header.set_intent(intent)
        image.header.set_xyzt_units(_unit_of_length(header))
        image.header["descrip"] = MARK if intent == "estimate" else _mark(array.tobytes(order="F"))
        with (
            replacing(Path(str(self.output)) / name) as file,
            gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
        ):
            image.to_stream(packed)


def label_values(values: Sequence[int]) -> np.ndarray:
    """Return the value of each class, in the smallest type of :data:`LABEL_TYPES` that fits.

    Not every program reads uint16 and int8.
    """
    low, high = min(values), max(values)
    fits = (t for t in LABEL_TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.array(values, dtype=next(fits))


def _estimate(module: LightningModule, logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return probabilities ``(C, *S)`` and classes ``(*S)`` of a case."""
    batch = [each[None].float() for each in logits]
    if isinstance(module, SegmentationModule):
        probs = module.probabilities(batch)
        return probs[0], module.predicted(probs)[0]
    probs = mean_log_probs(batch)[0].exp()
    return probs, probs.argmax(dim=0)


def _promised(
    module: LightningModule, probs: Tensor, spacing: Sequence[float]
) -> dict[str, np.ndarray]:
    """Return the masks of the module's guarantee, if it has one."""
    if not isinstance(module, SegmentationModule) or module.post_hoc.guarantee is None:
        return {}
    return promised_masks(module.post_hoc.guarantee, probs, unions=module.unions, spacing=spacing)


def _spacing(affine: np.ndarray, header: nib.Nifti1Header) -> list[float]:
    """Return the voxel size of a file in mm: its ``pixdim``, or that of the affine if it is 1."""
    unit = {"meter": 1e3, "micron": 1e-3}.get(_unit_of_length(header), 1.0)
    size = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    if np.allclose(size, 1, rtol=1e-3):
        size = voxel_sizes(np.asarray(affine))
    return [float(unit * one) for one in size]


def _csv(table: pd.DataFrame) -> bytes:
    return str(table.to_csv(index=False, lineterminator="\n")).encode()


def _mark(voxels: bytes) -> str:
    return f"{MARK} {zlib.crc32(voxels):08x}"


def _is_foreign(path: Path) -> bool:
    """Return True if the file exists and was not written by this writer, or was edited."""
    if not path.exists() and not path.is_symlink():
        return False
    if path.suffix == ".png":
        return _is_foreign_picture(path)
    try:
        with gzip.open(path) as file:
            header = nib.Nifti1Header.from_fileobj(file, check=False)
            found = header["descrip"].item().decode("latin-1")
            if found == MARK:  # probabilities
                return False
            file.seek(header.get_data_offset())
            return not found.startswith(MARK) or bool(found != _mark(file.read()))
    except (OSError, EOFError, ValueError, zlib.error, HeaderDataError, WrapStructError):
        return True


def _is_foreign_picture(path: Path) -> bool:
    """Return True if a PNG was not written by this writer, or was edited."""
    try:
        with Image.open(path) as image:
            return bool(image.info.get("Description") != _mark(np.asarray(image).tobytes()))
    except (OSError, ValueError):
        return True


def _is_picture(header: nib.Nifti1Header) -> bool:
    """Return True if a case was read from a picture."""
    return bool(header["descrip"].item().decode("latin-1") == PICTURE)


def _unit_of_length(header: Any) -> str:
    """Return the unit of length of a file's geometry, by default mm."""
    names = {1: "meter", 3: "micron"}
    return "mm" if header is None else names.get(int(header["xyzt_units"]) & 7, "mm")
