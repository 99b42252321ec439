"""Each corruption changes what it says by its level, and is the same for a case everywhere."""

import pytest
import torch

from mbls.evaluation.corruptions import CORRUPTIONS, LEVELS, Corrupted
from mbls.runtime.errors import SettingError

SPACING = [1.5, 1.5, 8.0]
RANDOM_OR_NOT = [name for name in CORRUPTIONS if name != "missing"]


def image(channels: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    smooth = torch.nn.functional.avg_pool3d(torch.randn(1, channels, 44, 52, 8), 5, 1, 2)[0]
    return smooth * torch.tensor([3.0, 0.7])[:channels, None, None, None] - 0.4


def corrupted(text: str, case: str = "patient001") -> torch.Tensor:
    return Corrupted.parse(text).apply(image(), case, SPACING)


def change(text: str) -> float:
    return float((corrupted(text) - image()).square().mean().sqrt())


@pytest.mark.parametrize("name", RANDOM_OR_NOT)
def test_a_level_changes_more_than_the_one_below(name: str) -> None:
    assert 0 < change(f"{name}:1") < change(f"{name}:2") < change(f"{name}:3")


@pytest.mark.parametrize("name", RANDOM_OR_NOT)
def test_no_strength_changes_nothing(name: str) -> None:
    none = {"gamma": 1.0, "resolution": 1.0, "blur": 1e-6}.get(name, 0.0)
    found = CORRUPTIONS[name].apply(image()[:1], none, SPACING, 3)
    torch.testing.assert_close(found, image()[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_a_case_is_the_same_in_each_run_and_its_input_is_kept(name: str) -> None:
    before, given = image(), image()
    torch.manual_seed(1)
    first = Corrupted.parse(f"{name}:2").apply(given, "patient001", SPACING)
    assert torch.equal(given, before)
    torch.manual_seed(2)
    torch.randn(3)
    assert torch.equal(first, corrupted(f"{name}:2"))
    assert type(first) is torch.Tensor
    half = Corrupted.parse(f"{name}:2").apply(image().half(), "patient001", SPACING)
    assert half.dtype == torch.float16
    assert (first == corrupted(f"{name}:2", "patient002")).all() == (name not in ("noise", "bias"))


def test_noise_has_its_standard_deviation_and_grows_without_changing() -> None:
    for level, strength in zip(LEVELS, CORRUPTIONS["noise"].strengths, strict=True):
        added = corrupted(f"noise:{level}") - image()
        for m in range(2):
            ratio = float(added[m].std() / image()[m].std(correction=0))
            assert ratio == pytest.approx(strength, rel=0.02)
    first, second = (corrupted(f"noise:{level}") - image() for level in (1, 2))
    torch.testing.assert_close(second, 2 * first, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(first[0] / first[0].std(), first[1] / first[1].std())


def high_frequencies(of: torch.Tensor, axis: int) -> float:
    """Share of the power above half of the Nyquist frequency along an axis."""
    power = torch.fft.rfft(of - of.mean(), dim=axis).abs().square()
    top = power.narrow(axis, power.shape[axis] // 2, power.shape[axis] - power.shape[axis] // 2)
    return float(top.sum())


def test_blur_lowers_high_frequencies_by_mm_and_thick_slices_less() -> None:
    torch.manual_seed(0)
    rough = torch.randn(1, 44, 52, 16)
    kept = []
    for level in LEVELS:
        smooth = Corrupted.parse(f"blur:{level}").apply(rough, "a", SPACING)
        kept.append([high_frequencies(smooth, a) / high_frequencies(rough, a) for a in (1, 3)])
    in_plane, through = zip(*kept, strict=True)
    assert in_plane[0] > in_plane[1] > in_plane[2]
    flat = CORRUPTIONS["blur"].apply(torch.ones(1, 9, 9, 2), 4.0, SPACING, 0)
    torch.testing.assert_close(flat, torch.ones(1, 9, 9, 2))  # also at the border
    impulse = torch.zeros(1, 41, 1, 1)
    impulse[0, 20] = 1
    kernel = CORRUPTIONS["blur"].apply(impulse, 4.0, [1.5, 1.0, 1.0], 0)[0, :, 0, 0]
    assert float(kernel.sum()) == pytest.approx(1, abs=0.01)
    place = (torch.arange(41) - 20) * 1.5
    assert float((kernel * place**2).sum().sqrt()) == pytest.approx(4.0, rel=0.03)  # mm
    assert all(a < b for a, b in zip(in_plane, through, strict=True))


def test_bias_is_a_smooth_factor_above_the_minimum() -> None:
    low = image()[0].min()
    factor = (corrupted("bias:2")[0] - low) / (image()[0] - low).clamp_min(1e-6)
    log = factor[image()[0] > low + 0.05].log()
    assert log.abs().max() > 0.1
    assert corrupted("bias:2")[0].min() == pytest.approx(float(low), abs=1e-5)
    whole = factor.clamp_min(1e-3).log()
    steps = (whole[1:] - whole[:-1]).abs()[(image()[0][1:] > low + 0.1)]
    assert steps.median() < 0.05


def test_gamma_keeps_the_range_and_darkens() -> None:
    found = corrupted("gamma:3")
    for m in range(2):
        scaled = (image()[m] - image()[m].min()) / (image()[m].max() - image()[m].min())
        after = (found[m] - image()[m].min()) / (image()[m].max() - image()[m].min())
        torch.testing.assert_close(after, scaled**2, rtol=0, atol=1e-4)


def test_resolution_keeps_thick_slices() -> None:
    flat = image().clone()
    flat[:, :] = flat[:, :1, :1]  # varies through the slices alone
    found = Corrupted.parse("resolution:3").apply(flat, "a", SPACING)
    torch.testing.assert_close(found, flat, rtol=0, atol=1e-5)  # 4 * 1.5 mm are less than 8 mm
    assert change("resolution:3") > 0.05


def test_a_missing_channel_is_constant_and_the_others_stay() -> None:
    found = corrupted("missing:2")
    assert torch.equal(found[0], image()[0])
    assert (found[1] == found[1, 0, 0, 0]).all()
    assert float(found[1].mean()) == pytest.approx(float(image()[1].mean()), abs=1e-5)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingError, match=r"no corruption 'nosie'. Did you mean 'noise'\?"):
        Corrupted.parse("nosie:1")
    for text in ("noise", "noise:0", "noise:4", "noise:x", "missing:0"):
        with pytest.raises(SettingError, match="with a level of"):
            Corrupted.parse(text)
    with pytest.raises(SettingError, match="have 1: choose another corruption"):
        Corrupted.parse("missing:1").apply(image(1), "a", SPACING)
    with pytest.raises(SettingError, match=r"have 2: choose one of 1 \.\.\. 2"):
        corrupted("missing:3")


def test_two_dimensional_images_are_corrupted_too() -> None:
    for name in CORRUPTIONS:
        found = Corrupted.parse(f"{name}:1").apply(image()[..., 0], "a", SPACING[:2])
        assert found.shape == (2, 44, 52)
        assert not torch.equal(found, image()[..., 0])
