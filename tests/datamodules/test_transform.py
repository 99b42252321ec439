"""The ``transform`` hook: MONAI's for real, the others' where they are installed."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from monai.transforms import Compose, RandGaussianNoised, RandZoomd

from datamodules import ACDCDataModule, BatchgeneratorsTransform, TorchIOTransform
from datamodules.loading.transform import TransformError
from tests.datamodules.test_base import digest, ready

DEEP = {"spatial_dims": 3, "patch_size": (16, 12, 6)}
MONAI = """
class_path: monai.transforms.Compose
init_args:
  transforms:
    - class_path: monai.transforms.RandZoomd
      init_args: {keys: [image, label], prob: 1.0, mode: [bilinear, nearest]}
    - {class_path: monai.transforms.RandGaussianNoised, init_args: {keys: image, prob: 1.0}}
"""
TORCHIO = """
class_path: datamodules.TorchIOTransform
init_args:
  transform:
    class_path: torchio.Compose
    init_args:
      transforms:
        - {class_path: torchio.RandomFlip, init_args: {axes: [0, 1]}}
        - {class_path: torchio.RandomNoise}
"""
BATCHGENERATORS = """
class_path: datamodules.BatchgeneratorsTransform
init_args:
  transform:
    class_path: batchgeneratorsv2.transforms.utils.compose.ComposeTransforms
    init_args:
      transforms:
        - class_path: batchgeneratorsv2.transforms.spatial.mirroring.MirrorTransform
          init_args: {allowed_axes: [0, 1]}
        - class_path: batchgeneratorsv2.transforms.intensity.gaussian_noise.GaussianNoiseTransform
"""


def parsed(text: str):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ACDCDataModule, "data")
    config = {"class_path": "datamodules.ACDCDataModule"}
    config["init_args"] = {"root": None, "transform": yaml.safe_load(text)}
    return parser.instantiate_classes(parser.parse_object({"data": config})).data.transform


def noise(sample: dict) -> dict:
    """Draw from every global generator."""
    drawn = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
    return sample | {"image": sample["image"] + drawn}


def monai() -> Compose:
    zoom = RandZoomd(["image", "label"], prob=1.0, mode=["bilinear", "nearest"])
    return Compose([zoom, RandGaussianNoised("image", prob=1.0)])


@pytest.mark.parametrize("settings", [{}, DEEP], ids=["2d", "3d"])
@pytest.mark.parametrize(
    ("text", "library"),
    [(MONAI, "monai"), (TORCHIO, "torchio"), (BATCHGENERATORS, "batchgeneratorsv2")],
)
def test_libraries_by_yaml(module, settings: dict, text: str, library: str) -> None:
    pytest.importorskip(library)
    plain, changed = (
        ready(module(**settings, transform=transform)).train_dataset()
        for transform in (None, parsed(text))
    )
    key, other = (0, 1, False), (1, 1, False)
    sample, again = changed[key], changed[key]
    assert torch.equal(sample["image"], again["image"])
    assert torch.equal(sample["label"], again["label"])
    assert not torch.equal(sample["image"], changed[other]["image"])
    assert not torch.equal(sample["image"], plain[key]["image"])
    assert set(sample["label"].unique().tolist()) <= {-100, 0, 1, 2, 3}
    assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("transform", [noise, monai()], ids=["global", "monai"])
def test_draws_are_of_seed_epoch_and_index(module, transform) -> None:
    """For any number of workers and any draws before; and no other draws change."""
    built = ready(module(transform=transform))
    loader = built.train_dataloader()
    torch.manual_seed(1)
    following = torch.rand(3)
    torch.manual_seed(1)
    dataset = built.train_dataset()
    dataset[(0, 0, False)]
    assert torch.equal(torch.rand(3), following)
    first = digest(loader)
    assert digest(loader) == first
    assert digest(ready(module(transform=transform, num_workers=2)).train_dataloader()) == first
    assert digest(ready(module(transform=transform, seed=1)).train_dataloader()) != first


def test_others_conventions() -> None:
    """batchgeneratorsv2 takes keywords, TorchIO a subject of volumes, and both give theirs back."""
    sample = {"image": torch.ones(2, 4, 5), "label": torch.ones(1, 4, 5, dtype=torch.int64)}

    def keywords(*, image, segmentation):
        return {"image": 2 * image, "segmentation": segmentation * 0}

    changed = BatchgeneratorsTransform(keywords)(sample)
    assert (changed["image"] == 2).all()
    assert (changed["label"] == 0).all()


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 4, 5, 3)], ids=["2d", "3d"])
def test_torchio_sees_volumes(shape: tuple[int, ...]) -> None:
    torchio = pytest.importorskip("torchio")
    seen = []

    def note(subject):
        seen.append((subject["image"].shape, subject["label"].shape, type(subject["label"])))
        return subject

    sample = {"image": torch.rand(shape), "label": torch.ones(1, *shape[1:], dtype=torch.int64)}
    changed = TorchIOTransform(note)(sample)
    deep = (*shape[1:], 1)[:3]
    assert seen == [((2, *deep), (1, *deep), torchio.LabelMap)]
    assert torch.equal(changed["image"], sample["image"])
    assert changed["label"].shape == sample["label"].shape


@pytest.mark.parametrize(
    ("transform", "facts"),
    [
        (lambda sample: sample["image"], r"must return a dict .* Tensor"),
        (lambda sample: {"image": sample["image"]}, r"got \['image'\]"),
        (lambda s: s | {"image": s["image"][:, :3]}, r"shape of the image, \(1, 16, 16\), got"),
        (lambda s: s | {"label": s["label"][..., :3]}, r"shape of the label, \(16, 16\), got"),
        (lambda s: s | {"label": s["label"] + 0.5}, "labels integers"),
        (lambda s: s | {"image": s["image"] / 0}, "finite real numbers, got others in image"),
    ],
    ids=["no dict", "no label", "image", "label", "fractions", "infinite"],
)
def test_a_transform_that_returns_no_sample_is_refused(module, transform, facts: str) -> None:
    dataset = ready(module(transform=transform)).train_dataset()
    with pytest.raises(TransformError, match=facts):
        dataset[(0, 0, False)]


def test_a_label_may_come_without_its_channel(module) -> None:
    plain, squeezed = (
        ready(module(transform=transform)).train_dataset()
        for transform in (None, lambda sample: sample | {"label": sample["label"][0].numpy()})
    )
    assert torch.equal(plain[(0, 0, False)]["label"], squeezed[(0, 0, False)]["label"])


def test_configs_state_that_there_is_no_transform() -> None:
    for name in ("acdc", "brats", "flare"):
        text = Path(f"experiments/configs/data/{name}.yaml").read_text()
        assert yaml.safe_load(text)["data"]["init_args"]["transform"] is None
