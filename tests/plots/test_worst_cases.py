"""The worst cases are the same for any number of processes, and come back from disk."""

import numpy as np
import pytest
import torch

from mbls.plots import worst_figure
from mbls.plots.worst_cases import IGNORED, WorstPictures, load_pictures, save_pictures, worst_of

DICE = [0.5, 0.2, 0.9, float("nan"), 0.2, 0.7, 0.4]


def case(index):
    generator = torch.Generator().manual_seed(index)
    label = torch.randint(0, 3, (1, 5, 6, 4), generator=generator)
    label[0, 0, 0] = -100
    probs = torch.randn(1, 3, 5, 6, 4, generator=generator).softmax(1)
    image = torch.randn(1, 2, 5, 6, 4, generator=generator)
    spacing = torch.tensor([[1.5, 2.0, 8.0]])
    batch = {"case": [f"case{index}"], "index": torch.tensor([index]), "label": label,
             "spacing": spacing, "image": image}  # fmt: skip
    return batch, probs


def seen(indices, number=3):
    worst = WorstPictures(number)
    for index in indices:
        worst.update(*case(index), DICE[index])
    return worst.kept


def test_the_lowest_are_kept_and_the_first_among_equals():
    assert [p.index for p in seen(range(7))] == [1, 4, 6]
    assert [p.index for p in seen([6, 5, 4, 3, 2, 1, 0], number=2)] == [1, 4]


def test_the_least_confident_are_kept_whatever_their_dice(tmp_path):
    unsure = WorstPictures(2, by="soft_dice")
    for index, soft in enumerate([0.9, 0.3, 0.8, 0.1, 0.2, float("nan")]):
        unsure.update(*case(index), DICE[index], soft_dice=soft)
    assert [p.index for p in unsure.kept] == [3, 4]
    save_pictures(tmp_path / "unsure.npz", unsure.kept)
    assert [p.soft_dice for p in load_pictures(tmp_path / "unsure.npz")] == [0.1, 0.2]
    assert np.isnan(unsure.kept[0].dice)  # no structure is labeled: unsure all the same
    assert [p.index for p in worst_of(unsure.kept[::-1], 1, by="soft_dice")] == [3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_that_numpy_lacks_are_kept_as_half(dtype, tmp_path):
    batch, probs = case(0)
    worst = WorstPictures(1)
    worst.update(batch | {"image": batch["image"].to(dtype)}, probs.to(dtype), 0.5)
    save_pictures(tmp_path / "worst.npz", worst.kept)
    (picture,) = load_pictures(tmp_path / "worst.npz")
    expected = batch["image"].to(dtype)[0, 0, ..., picture.slice].half().numpy()
    np.testing.assert_array_equal(picture.image, expected)
    assert picture.confidence.dtype == np.float16


def test_any_number_of_processes_keeps_the_same():
    dealt = [p for rank in range(3) for p in seen(range(rank, 7, 3))]
    one, many = seen(range(7)), worst_of(dealt, 3)
    assert [p.index for p in one] == [p.index for p in many]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.confidence, b.confidence)


def test_it_is_the_slice_with_most_wrong_voxels(tmp_path):
    (picture,) = seen([1], number=1)
    batch, probs = case(1)
    wrong = (probs.argmax(1) != batch["label"]) & (batch["label"] != -100)
    assert picture.slice == int(wrong[0].sum((0, 1)).argmax())
    assert (picture.label == IGNORED).sum() == 1
    assert picture.spacing == (1.5, 2.0)
    save_pictures(tmp_path / "worst.npz", [picture])
    (again,) = load_pictures(tmp_path / "worst.npz")
    for name, value in vars(picture).items():
        np.testing.assert_array_equal(getattr(again, name), value)


def test_the_figure_names_phantom_and_cases():
    meta = {"dataset": "acdc", "origin": "phantom", "class_names": ["bg", "ring", "core"]}
    figure = worst_figure(seen(range(7)), meta=meta)
    assert "PHANTOM" in figure.get_suptitle()
    assert any(axes.get_title().startswith("case1, slice ") for axes in figure.axes[:3])
    with pytest.raises(ValueError, match="one picture"):
        worst_figure([], meta=meta)


def test_a_grid_without_an_image_is_drawn_all_the_same():
    worst = WorstPictures(1)
    batch, probs = case(0)
    del batch["image"]
    worst.update(batch, probs, 0.5)
    assert worst.kept[0].image.size == 0
    meta = {"dataset": "acdc", "origin": "real", "class_names": ["bg", "ring", "core"]}
    assert worst_figure(worst.kept, meta=meta)
