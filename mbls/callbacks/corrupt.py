"""Corrupt the images of a test before the network sees them."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mbls.evaluation.corruptions import Corrupted

__all__ = ["Corrupt"]


class Corrupt(Callback):
    """Replace the images of a test by corrupted ones; validation and prediction keep theirs.

    Args:
        image: A corruption and its level, ``noise:3``, of :mod:`mbls.evaluation.corruptions`; None
            for the images as they are.

    Raises:
        SettingError: There is no such corruption or level.
    """

    def __init__(self, *, image: str | None = None) -> None:
        self.image = image
        self.corrupted = None if image is None else Corrupted.parse(image)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Replace the image of a case."""
        if self.corrupted is None:
            return
        image = batch["image"].clone()
        for n, case in enumerate(batch["case"]):
            image[n] = self.corrupted.apply(image[n], case, batch["spacing"][n].tolist())
        batch["image"] = image
