"""The prediction writer: label maps, and class probabilities if asked, as NIfTI."""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from rich.console import Console
from torch import Tensor

from mbls.callbacks.rank_zero import share_errors
from mbls.errors import OutputError
from mbls.files import writing

__all__ = ["PredictionWriter"]


class PredictionWriter(BasePredictionWriter):
    """Write predictions on each input's own grid and affine.

    The logits are resampled to the native grid, linearly, and the softmax is taken there: the
    other order gives other probabilities at boundaries.

    Args:
        output: Folder for ``<case>.nii.gz``, uint8 labels with the values that the dataset's own
            files have (BraTS 2021: 4 for the last of four classes), and ``<case>_prob.nii.gz``,
            float32 with the classes on the last axis.
        probabilities: Whether to write the probabilities too.
    """

    def __init__(self, *, output: Path | None = None, probabilities: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.output = None if output is None else Path(output)
        self.probabilities = probabilities
        self._error: OutputError | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to predict without a place for it, before any work is done."""
        if stage != "predict":
            return
        if self.output is None:
            raise OutputError("predict needs a folder to write to: --predictions.output FOLDER.")
        source = getattr(trainer.datamodule, "predict_input", None)  # type: ignore[attr-defined]
        if source is not None:
            taken = Path(source).resolve()
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
        share_errors(trainer, self._error)

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
                data = trainer.datamodule  # type: ignore[attr-defined]
                logits, affine = data.restore(case, prediction[n].cpu())
                header = data.source_header(case) if hasattr(data, "source_header") else None
                values = data.label_values(case) if hasattr(data, "label_values") else None
                try:
                    self._write(case, logits, affine, header, values)
                except OutputError as error:  # raised when all ranks can be told
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
        header: Any,
        values: Sequence[int] | None,
    ) -> None:
        probs = logits.float().softmax(dim=0)
        label = probs.argmax(dim=0).numpy().astype(np.uint8)  # also where rounding made a tie
        if values is not None:
            label = np.array(values, dtype=np.uint8)[label]
        self._save(case, label, affine, header, "label")
        if self.probabilities:
            self._save(f"{case}_prob", probs.movedim(0, -1).numpy(), affine, header, "estimate")

    def _save(
        self,
        name: str,
        array: np.ndarray,
        affine: np.ndarray,
        header: Any,
        intent: Literal["label", "estimate"],
    ) -> None:
        image = nib.Nifti1Image(array, np.asarray(affine))
        if header is not None:  # both of its geometries, which do not always agree
            own = image.header
            own.set_zooms((*header.get_zooms()[:3], *own.get_zooms()[3:]))
            own.set_sform(header.get_sform(), int(header["sform_code"]))
            own.set_qform(header.get_qform(), int(header["qform_code"]))
        image.header.set_intent(intent)
        image.header.set_xyzt_units(_unit_of_length(header))
        incoming = Path(str(self.output)) / f".incoming-{name}.nii.gz"
        path = incoming.with_name(f"{name}.nii.gz")
        try:
            with writing(path):
                nib.save(image, incoming)
                incoming.replace(path)
        except OutputError:
            with contextlib.suppress(OSError):
                incoming.unlink()
            raise


def _unit_of_length(header: Any) -> str:
    """Return the unit that a file's geometry is in: its own, mm where it has none."""
    names = {1: "meter", 3: "micron"}
    return "mm" if header is None else names.get(int(header["xyzt_units"]) & 7, "mm")
