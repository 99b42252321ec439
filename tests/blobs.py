"""A datamodule without files: bright discs on noise, in the batches of the contract."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.loading.datasets import collate
from datamodules.loading.samplers import EvaluationSampler, TrainingSampler, rank_and_world


class Blobs(Dataset):
    """Discs of two classes; a slice ``(1, H, W)`` or a volume ``(1, X, Y, Z)`` an item."""

    def __init__(self, n: int, size: int, depth: int | None, offset: int, bad: int | None = None):
        self.n, self.size, self.depth, self.offset, self.bad = n, size, depth, offset, bad

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: tuple[int, int | bool]) -> dict[str, Any]:
        """A slice of an ``(epoch, index)``, or a volume of an ``(index, scored)``."""
        index, scored = (key[1], True) if self.depth is None else key
        generator = torch.Generator().manual_seed(1000 * self.offset + index)
        shape = (self.size, self.size) + (() if self.depth is None else (self.depth,))
        axes = torch.meshgrid(*[torch.arange(s, dtype=torch.float32) for s in shape], indexing="ij")
        center = self.size * (0.35 + 0.3 * torch.rand(2, generator=generator))
        radius = ((axes[0] - center[0]) ** 2 + (axes[1] - center[1]) ** 2).sqrt()
        label = (radius < self.size / 4).long() + (radius < self.size / 8).long()
        image = label.float() + 0.3 * torch.randn(shape, generator=generator)
        if self.bad is not None and index == self.bad:
            image = image * float("nan")
        return {
            "image": image[None],
            "label": label,
            "case": f"case{index:03d}",
            "index": index,
            "spacing": torch.ones(len(shape)),
            "scored": bool(scored),
        }


class BlobDataModule(LightningDataModule):
    num_classes = 3
    class_names = ("background", "ring", "core")
    class_keys = ("background", "ring", "core")
    in_channels = 1
    spatial_dims = 2
    unions = {"disc": (1, 2)}  # noqa: RUF012
    modalities = ()
    origin = "phantom"
    fingerprint = "blobs"
    patch_size = None
    crop = "random"
    predict_input = None

    def __init__(
        self,
        root: Path | None = None,
        *,
        batch_size: int = 4,
        train: int = 8,
        val: int = 2,
        test: int = 3,
        size: int = 30,
        bad: int | None = None,
        fold: int | None = None,
        adapt: str = "val",
        holdout: int = 2,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.root, self.fold, self.batch_size, self.bad = root, fold, batch_size, bad
        self.size, self.seed, self.num_workers = size, seed, num_workers
        self.sizes = {"train": train, "val": val, "test": test, "holdout": holdout}
        self.adapt = adapt
        self.start = (0, 0)
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def cases(self, split: str) -> list[str]:
        return [f"case{k:03d}" for k in range(self.sizes[split])]

    def patients(self, split: str) -> list[str]:
        return self.cases(split)

    def check(self) -> list[Any]:
        return []

    def restore(self, case_id: str, logits: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        return logits, np.eye(4)

    def truth(self, case_id: str) -> dict[str, torch.Tensor]:
        item = Blobs(3, self.size, 3, 2)[(int(case_id[4:]), True)]
        return {"label": item["label"][None], "spacing": item["spacing"][None]}

    def source_header(self, case_id: str) -> nib.Nifti1Header:
        header = nib.Nifti1Header()
        header.set_data_shape((self.size, self.size, 3))
        return header

    def label_values(self, case_id: str) -> tuple[int, ...]:
        return tuple(range(self.num_classes))

    def train_dataloader(self) -> DataLoader:
        rank, world = rank_and_world()
        size = self.sizes["train"]
        sampler = TrainingSampler(size, batch_size=self.batch_size, seed=self.seed, rank=rank,
                                  world=world, start=self.start)  # fmt: skip
        data = Blobs(size, self.size, None, 0, self.bad)
        return DataLoader(data, batch_sampler=sampler, collate_fn=collate,
                          num_workers=self.num_workers,
                          persistent_workers=self.num_workers > 0)  # fmt: skip

    def val_dataloader(self) -> list[DataLoader]:
        loaders = [self._volumes("val", 1)]
        return loaders if self.adapt == "val" else [*loaders, self._volumes("holdout", 3)]

    def test_dataloader(self) -> DataLoader:
        return self._volumes("test", 2)

    def _volumes(self, split: str, offset: int) -> DataLoader:
        rank, world = rank_and_world()
        size = self.sizes[split]
        sampler = EvaluationSampler(size, rank=rank, world=world)
        data = Blobs(size, self.size, 3, offset)
        return DataLoader(data, 1, sampler=sampler, collate_fn=collate)
