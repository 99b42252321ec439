"""The prediction writer: label maps, and class probabilities if asked, as NIfTI."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import nibabel as nib
import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from rich.console import Console
from torch import Tensor

from mbls.data import CONTRACT, datamodule_of
from mbls.runtime.errors import OutputError, RunFolderError
from mbls.runtime.files import clear_incoming, replacing
from mbls.runtime.locks import LOCK, try_lock_folder, unlock
from mbls.runtime.rank_zero import share_errors

__all__ = ["PredictionWriter"]

MARK = "mbls prediction"
"""The header's description of what is written: a file without it is somebody's own.

The CRC-32 of a label map's voxels follows, since who corrects one by hand may keep its header.
"""

LABEL_TYPES = (np.uint8, np.int16, np.int32, np.int64)  # what every reader of NIfTI takes, first
GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
)


class PredictionWriter(BasePredictionWriter):
    """Write predictions on each input's own grid and affine.

    The logits are resampled to the native grid, linearly, and the softmax is taken there: the
    other order gives other probabilities at boundaries.

    Args:
        output: Folder for ``<case>.nii.gz``, labels with the values that the dataset's own files
            have (BraTS 2021: 4 for the last of four classes) in uint8, or else in the smallest of
            int16, int32 and int64 that holds them, and ``<case>_prob.nii.gz``, float32 with the
            classes on the last axis. One process at a time may write there.
        probabilities: Whether to write the probabilities too.
        overwrite: Whether to replace files that are no predictions of this writer, such as labels
            or predictions that were corrected by hand; its own it always replaces.
    """

    def __init__(
        self,
        *,
        output: Path | None = None,
        probabilities: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__(write_interval="batch")
        self.output = None if output is None else Path(output)
        self.probabilities, self.overwrite = probabilities, overwrite
        self._error: OutputError | RunFolderError | None = None
        self._lock: IO[str] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to predict without a place for it, before any work is done.

        Raises:
            OutputError: There is none, it holds the input or files of somebody's own, it cannot be
                written to, or another process writes there.
        """
        if stage != "predict":
            return
        if self.output is None:
            raise OutputError("predict needs a folder to write to: --predictions.output FOLDER.")
        data = datamodule_of(trainer)
        if data is None:
            raise OutputError(
                "predict writes to the grid of each case's file, which dataloaders alone do "
                f"not know: give a datamodule with {', '.join(CONTRACT)} (mbls/data.py)."
            )
        if data.predict_input is not None:
            taken = Path(data.predict_input).resolve()
            if self.output.resolve() in (taken, taken.parent if taken.is_file() else taken):
                raise OutputError(
                    f"The output folder {self.output} holds the input, which a prediction of the "
                    "same name would replace. Choose another: OUTPUT=FOLDER (--output)."
                )
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output):
                pass
        except OSError as error:
            self._error = OutputError(
                f"The output folder {self.output} cannot be written to ({error.strerror}). "
                "Choose another: OUTPUT=FOLDER (--output)."
            )
        if trainer.is_global_zero and self._error is None:
            try:
                self._claim(data.cases("predict"))
            except (OutputError, RunFolderError) as error:
                self._error = error
        share_errors(trainer, self._error)

    def _claim(self, cases: Sequence[str]) -> None:
        """Lock the folder for this process, and refuse to replace files of others."""
        folder = Path(str(self.output))
        self._lock = try_lock_folder(folder)
        if self._lock is None:
            raise OutputError(
                f"Another process writes into the output folder {folder}. Wait for its end, or "
                "choose another: OUTPUT=FOLDER (--output)."
            )
        names = [name for case in cases for name in self._names(case)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise OutputError(
                f"{twice[0]} would be the label map of one input and the probabilities of another. "
                "Rename one of them, or predict without probabilities."
            )
        own = [] if self.overwrite else [name for name in names if _is_foreign(folder / name)]
        if own:
            raise OutputError(
                f"The output folder {folder} holds {len(own)} of the {len(names)} files to be "
                f"written, such as {own[0]}, and they are no predictions of mbls, or were changed. "
                "Choose another: OUTPUT=FOLDER (--output), or replace them: OVERWRITE=1 "
                "(--overwrite)."
            )
        clear_incoming(folder, "*.nii.gz.*")

    def _names(self, case: str) -> Iterator[str]:
        """The files of a case."""
        yield f"{case}.nii.gz"
        if self.probabilities:
            yield f"{case}_prob.nii.gz"

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
            # first, or it could be the next process's; who waits for it looks again
            (Path(str(self.output)) / LOCK).unlink(missing_ok=True)
            unlock(self._lock)
            self._lock = None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the cases of a batch; one that only pads a rank is left out."""
        for n, case in enumerate(batch["case"] if self._error is None else ()):
            if bool(batch["scored"][n]):
                data = datamodule_of(trainer)
                assert data is not None  # setup refuses
                logits, affine = data.restore(case, prediction[n].cpu())
                header, values = data.source_header(case), data.label_values(case)
                try:
                    self._write(case, logits, affine, header, values)
                except OutputError as error:  # raised at the end, on all ranks
                    self._error = error
        if trainer.world_size == 1:
            share_errors(trainer, self._error)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise on every rank what one could not write."""
        share_errors(trainer, self._error)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where they are."""
        if trainer.is_global_zero:
            Console().print(
                f"Predictions: {self.output}", soft_wrap=True, highlight=False, markup=False
            )

    def _write(
        self,
        case: str,
        logits: Tensor,
        affine: np.ndarray,
        header: nib.Nifti1Header,
        values: Sequence[int],
    ) -> None:
        probs = logits.float().softmax(dim=0)
        classes = probs.argmax(dim=0).numpy()  # also where rounding made a tie
        label = label_values(values)[classes]
        label = label.reshape(header.get_data_shape()[:3])  # of an image of two axes too
        arrays = [label, *([probs.movedim(0, -1).numpy()] if self.probabilities else [])]
        for name, array in zip(self._names(case), arrays, strict=True):
            self._save(name, array, affine, header, "label" if array is label else "estimate")

    def _save(
        self,
        name: str,
        array: np.ndarray,
        affine: np.ndarray,
        header: nib.Nifti1Header,
        intent: Literal["label", "estimate"],
    ) -> None:
        image = nib.Nifti1Image(array, np.asarray(affine), dtype=array.dtype)
        for field in GEOMETRY:  # both of its geometries, which may not agree, or not be sound
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
    """Return the value of each class, in the smallest type of :data:`LABEL_TYPES` that holds all.

    NIfTI's uint16 and int8 came later, and not every program reads them.
    """
    low, high = min(values), max(values)
    fits = (t for t in LABEL_TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return np.array(values, dtype=next(fits))


def _mark(voxels: bytes) -> str:
    return f"{MARK} {zlib.crc32(voxels):08x}"


def _is_foreign(path: Path) -> bool:
    """Return True if there is a file, and this writer has not written it, or it was changed."""
    if not path.exists() and not path.is_symlink():
        return False
    try:
        with gzip.open(path) as file:
            header = nib.Nifti1Header.from_fileobj(file, check=False)
            found = header["descrip"].item().decode("latin-1")
            if found == MARK:  # probabilities, which nobody corrects by hand
                return False
            file.seek(header.get_data_offset())
            return not found.startswith(MARK) or bool(found != _mark(file.read()))
    except (OSError, EOFError, ValueError, zlib.error, HeaderDataError, WrapStructError):
        return True


def _unit_of_length(header: Any) -> str:
    """Return the unit that a file's geometry is in: its own, mm where it has none."""
    names = {1: "meter", 3: "micron"}
    return "mm" if header is None else names.get(int(header["xyzt_units"]) & 7, "mm")
