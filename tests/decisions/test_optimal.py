"""Dice-optimal masks beside exhaustive search and the exact expectation of independent voxels."""

import itertools

import numpy as np
import pytest
import torch

from mbls.decisions import OptimalDice, Thresholds, label_map, optimal_dice

SHAPES = {  # of the probabilities of a structure's voxels
    "uniform": lambda rng, n: rng.uniform(size=n),
    "sure": lambda rng, n: rng.beta(0.2, 0.5, size=n),
    "faint": lambda rng, n: rng.uniform(0, 0.2, size=n),
    "mostly out": lambda rng, n: rng.beta(0.5, 5, size=n),
}


def mask_of(probs: np.ndarray) -> np.ndarray:
    """Return the mask of a structure ``(n,)``."""
    both = torch.from_numpy(np.stack([1 - probs, probs]))[None]
    return OptimalDice().label_map(both)[0].numpy() == 1


def exhaustive(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return all masks, the expected Dice of each over all labels, and P(the label is empty)."""
    masks = np.array(list(itertools.product([0, 1], repeat=len(probs))), dtype=float)
    chance = np.where(masks == 1, probs, 1 - probs).prod(axis=1)
    sizes = masks.sum(axis=1)
    dice = 2 * masks @ masks.T / np.maximum(sizes[:, None] + sizes, 1)  # an empty label adds 0
    return masks, dice @ chance, float(chance[0])


def sizes_of(probs: np.ndarray) -> np.ndarray:
    """Return the Poisson-binomial distribution of the number of labeled voxels."""
    found = np.ones(1)
    for p in probs:
        found = np.convolve(found, [1 - p, p])
    return found


def expected_dice(probs: np.ndarray, mask: np.ndarray) -> float:
    """Return the exact expected Dice of a mask over independent voxels."""
    inside, outside = sizes_of(probs[mask]), sizes_of(probs[~mask])
    both, missed = np.arange(len(inside))[:, None], np.arange(len(outside))
    dice = 2 * both / np.maximum(mask.sum() + both + missed, 1)
    return float((np.outer(inside, outside) * dice).sum())


def best_dice(probs: np.ndarray) -> float:
    """Return the highest expected Dice of the masks of the likeliest voxels."""
    order = np.argsort(-probs)
    ranks = np.argsort(order)
    return max(expected_dice(probs, ranks < size) for size in range(1, len(probs) + 1))


@pytest.mark.parametrize("name", SHAPES)
def test_against_all_masks_and_all_labels(name: str) -> None:
    rng = np.random.default_rng(0)
    lost = []
    for n in (4, 6, 8, 8, 10, 10, 11):
        probs = SHAPES[name](rng, n)
        masks, dice, empty = exhaustive(probs)
        ours = mask_of(probs)
        own = dice[(masks == ours).all(axis=1)].item()
        assert own == pytest.approx(expected_dice(probs, ours), abs=1e-12)
        assert dice.max() == pytest.approx(best_dice(probs), abs=1e-12)  # by rank
        assert dice.argmax() == (dice / (1 - empty)).argmax()  # given that there is a structure
        lost.append(dice.max() - own)
    assert max(lost) < 0.03
    assert np.mean(lost) < 0.01


@pytest.mark.parametrize("name", SHAPES)
def test_against_the_poisson_binomial(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        probs = SHAPES[name](rng, 60)
        ours, likeliest = mask_of(probs), probs > 0.5
        assert best_dice(probs) - expected_dice(probs, ours) < 2e-3
        assert expected_dice(probs, ours) > expected_dice(probs, likeliest) - 2e-3
        if name == "faint":  # what argmax leaves out as a whole
            assert expected_dice(probs, ours) > expected_dice(probs, likeliest) + 0.2


def test_twelve_voxels_exhaustively() -> None:
    probs = np.random.default_rng(3).uniform(size=12)
    masks, dice, _ = exhaustive(probs)
    assert dice.max() - dice[(masks == mask_of(probs)).all(axis=1)].item() < 2e-3


@pytest.mark.parametrize("shape", [(3, 2, 500), (2, 3, 12, 9), (2, 2, 6, 7, 5)])
def test_is_the_largest_of_all_volumes(shape: tuple[int, ...]) -> None:
    probs = torch.rand(shape) ** 3
    for case, found in zip(probs.flatten(2).double(), optimal_dice(probs), strict=True):
        for p, dice in zip(case, found, strict=True):
            ordered = p.sort(descending=True).values
            sizes = torch.arange(1, len(p) + 1)
            ratio = 2 * ordered.cumsum(0) / (sizes + p.sum())
            torch.testing.assert_close(dice, ratio.max())
            mask = p.float() > (dice / 2).float()
            assert mask.sum() == ratio.argmax() + 1


def test_expected_dice_of_many_voxels_is_that_of_drawn_labels() -> None:
    probs = torch.rand(4000, dtype=torch.float64) ** 2
    dice = optimal_dice(probs[None, None]).item()
    mask = probs > dice / 2
    labels = torch.rand(400, 4000, dtype=torch.float64) < probs
    drawn = 2 * (labels & mask).sum(1) / (mask.sum() + labels.sum(1))
    assert drawn.mean().item() == pytest.approx(dice, abs=4 * drawn.std().item() / 20)


def test_sure_voxels_and_absent_structures() -> None:
    label = torch.randint(3, (2, 8, 9))
    sure = torch.nn.functional.one_hot(label, 4).movedim(-1, 1).float()  # class 3 is nowhere
    assert torch.equal(OptimalDice().label_map(sure), label)
    torch.testing.assert_close(
        optimal_dice(sure), torch.tensor([[1.0, 1, 1, 0]] * 2, dtype=torch.float64)
    )


def test_equal_probabilities_are_all_in() -> None:
    flat = torch.full((1, 1, 50), 0.3)
    dice = optimal_dice(flat)
    assert dice.item() == pytest.approx(2 * 15 / 65)
    assert (flat > dice / 2).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    probs = torch.rand(2, 3, 10, 11).softmax(1).to(dtype)
    own, wide = (OptimalDice().label_map(each) for each in (probs, probs.double()))
    assert (own == wide).float().mean() > 0.99


def test_cases_do_not_depend_on_each_other() -> None:
    probs = (3 * torch.randn(3, 4, 6, 7, 5)).softmax(1)
    together = OptimalDice().label_map(probs)
    for n in range(3):
        assert torch.equal(together[n], OptimalDice().label_map(probs[n : n + 1])[0])


def test_overlapping_masks_go_to_the_largest_multiple() -> None:
    probs = torch.tensor([[[0.1, 0.1, 0.9], [0.5, 0.3, 0.1], [0.4, 0.6, 0.0]]])
    thresholds = torch.tensor([[0.4, 0.2]])
    assert label_map(probs, thresholds).tolist() == [[2, 2, 0]]  # 1.25 or 2, and 3 alone
    assert label_map(probs, torch.tensor([0.1, 0.2])).tolist() == [[1, 1, 0]]


def test_same_rule_as_thresholds() -> None:
    chosen = Thresholds(
        "dice", ("background", "a", "b"), {"a": 0.3, "b": 0.0}, {}, {}, ("c",), ("p",)
    )
    probs = torch.randn(2, 3, 9, 9).softmax(1)
    expected = label_map(probs, torch.tensor([[0.3, 0.0]] * 2))
    assert torch.equal(chosen.label_map(probs), expected)
