"""The confidence of a case equals sums over its voxels, on any number of threads and pieces."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import f1_score

from mbls.metrics import CaseConfidence, ConfidenceSums
from mbls.metrics.confidence import NEAR_MM

UNIONS = {"both": (1, 2)}
SPACING = (1.5, 2.0, 6.0)


def volumes(cases: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities with a rare last class, and labels with ignored voxels."""
    torch.manual_seed(1)
    logits = torch.randn(cases, 3, 12, 11, 5).mul(2)
    logits[:, 1:] -= 3
    label = torch.randint(3, (cases, 12, 11, 5))
    label[:, 0] = -100
    return logits.softmax(1), label


def updated(probs, label, order=(0, 1, 2), **settings) -> CaseConfidence:
    metric = CaseConfidence(3, num_cases=3, unions=UNIONS)
    for n in order:
        where = {"index": torch.tensor([n]), "spacing": torch.tensor([SPACING])}
        own = {k: [e[n : n + 1] for e in v] if isinstance(v, list) else v[n : n + 1]
               for k, v in settings.items()}  # fmt: skip
        metric.update(probs[n : n + 1], label[n : n + 1], **where, **own)
    return metric


def by_voxels(probs, label, n: int, members: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Probability and predicted mask of the voxels of a case that are not ignored."""
    keep = (label[n] != -100).numpy()
    p = probs[n, list(members)].sum(0).numpy().astype(np.float64)
    return p[keep], np.isin(probs[n].argmax(0).numpy(), members)[keep]


def test_soft_dice_is_that_of_all_voxels_one_by_one() -> None:
    probs, label = volumes()
    found = updated(probs, label).compute().numpy()
    assert found.shape == (3, 4)
    for n in range(3):
        for place, members in enumerate(((0,), (1,), (2,), (1, 2))):
            p, mask = by_voxels(probs, label, n, members)
            expected = 2 * (p * mask).sum() / (p.sum() + mask.sum())
            assert found[n, place] == pytest.approx(expected, abs=1e-6)


def test_entropy_is_that_of_all_voxels_and_of_those_near_the_prediction() -> None:
    probs, label = volumes()
    sums = updated(probs, label).sums()
    for n in range(3):
        p = probs[n].double().numpy()
        entropy, keep = -(p * np.log(p)).sum(0), (label[n] != -100).numpy()
        near = distance_transform_edt(p.argmax(0) == 0, sampling=SPACING) <= NEAR_MM
        assert sums.mean_entropy(near=False)[n] == pytest.approx(entropy[keep].mean(), abs=1e-6)
        expected = entropy[keep & near].mean()
        assert sums.mean_entropy(near=True)[n] == pytest.approx(expected, abs=1e-6)


def test_certain_voxels_have_confidence_one_and_no_entropy() -> None:
    _, label = volumes()
    probs = torch.nn.functional.one_hot(label.clamp_min(0), 3).movedim(-1, 1).float()
    sums = updated(probs, label).sums()
    np.testing.assert_array_equal(sums.soft_dice(), 1)
    np.testing.assert_array_equal(sums.expected_dice(), 1)
    np.testing.assert_array_equal(sums.mean_entropy(near=False), 0)


def test_a_structure_that_is_not_predicted_is_confident_if_less_than_a_voxel_is_expected() -> None:
    p = torch.tensor([[0.1, 0.2, 0.1], [0.3, 0.4, 0.4]])  # 0.4 and 1.1 voxels
    metric = CaseConfidence(2, num_cases=2)
    metric.update(torch.stack([1 - p, p], 1), torch.zeros(2, 3, dtype=torch.long),
                  index=torch.arange(2), spacing=torch.ones(2, 1))  # fmt: skip
    np.testing.assert_allclose(metric.compute()[:, 1], [0.6, 0], atol=1e-7)
    np.testing.assert_allclose(metric.sums().expected_dice()[:, 1], [0.6, 0], atol=1e-7)


def exact_dice(p: np.ndarray, mask: np.ndarray) -> float:
    """Expected Dice of a mask over all labels of independent voxels."""
    total = 0.0
    for label in itertools.product((0, 1), repeat=len(p)):
        y = np.array(label)
        weight = np.where(y == 1, p, 1 - p).prod()
        total += weight * 2 * (mask * y).sum() / (mask.sum() + y.sum())
    return total


def test_expected_dice_is_closer_to_all_labels_than_soft_dice() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(20):
        p = rng.uniform(0, 1, 10)
        p[:4] = rng.uniform(0.6, 1, 4)
        mask = p > 0.5
        inside = [(p * mask).sum(), p.sum(), (p * p * mask).sum(), (p * p).sum(), mask.sum()]
        sums = ConfidenceSums(np.array(inside)[None, None], np.ones((1, 4)))
        truth = exact_dice(p, mask)
        errors.append([sums.expected_dice()[0, 0] - truth, sums.soft_dice()[0, 0] - truth])
    second, first = np.abs(errors).mean(0)
    assert second < first / 5
    assert np.abs(errors)[:, 0].max() < 0.005


def test_agreement_is_the_mean_dice_of_pairs() -> None:
    probs, label = volumes()
    torch.manual_seed(2)
    members = [torch.randint(3, label.shape) for _ in range(3)]
    assert updated(probs, label).sums().agreement is None
    found = updated(probs, label, members=members).sums().agreement
    keep = label[1] != -100
    for place, chosen in enumerate(((0,), (1,), (2,), (1, 2))):
        pairs = itertools.combinations([np.isin(each[1][keep], chosen) for each in members], 2)
        expected = np.mean([f1_score(a, b) for a, b in pairs])
        assert found[1, place] == pytest.approx(expected, abs=1e-9)


def test_a_structure_in_no_member_is_unknown_and_in_one_is_a_full_disagreement() -> None:
    probs, label = volumes()
    empty = torch.zeros_like(label)
    one = empty.clone()
    one[:, 3:5] = 1
    found = updated(probs, label, members=[empty, empty, one]).sums().agreement
    np.testing.assert_array_equal(found[:, 1], 0)  # of the two pairs with a voxel
    assert np.isnan(found[:, 2]).all()


def test_a_decided_mask_is_the_one_that_counts() -> None:
    probs, label = volumes()
    own = updated(probs, label, classes=probs.argmax(1)).compute()
    assert torch.equal(own, updated(probs, label).compute())
    other = updated(probs, label, classes=torch.ones_like(label)).compute()
    keep = label[0] != -100
    p = probs[0, 1][keep].double()
    assert float(other[0, 1]) == pytest.approx(float(2 * p.sum() / (p.sum() + len(p))), abs=1e-6)


def test_order_and_threads_change_no_bit() -> None:
    probs, label = volumes()
    first = updated(probs, label)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        other = updated(probs.movedim(1, -1).contiguous().movedim(-1, 1), label, order=(2, 0, 1))
    finally:
        torch.set_num_threads(before)
    for name in ("probability", "entropy"):
        assert torch.equal(getattr(first, name), getattr(other, name))


def test_sums_come_back_from_their_arrays() -> None:
    probs, label = volumes()
    sums = updated(probs, label, members=[probs.argmax(1), label.clamp_min(0)]).sums()
    again = ConfidenceSums.from_arrays(sums.arrays())
    for name in ("probability", "entropy", "agreement"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sums, name))
    assert ConfidenceSums.from_arrays({}) is None


def test_invalid_batches_are_refused() -> None:
    probs, label = volumes()
    metric = CaseConfidence(3, num_cases=3)
    with pytest.raises(ValueError, match="pass spacing"):
        metric.update(probs, label, index=torch.arange(3))
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.2"):
        metric.update(probs, label, index=torch.arange(1, 4), spacing=torch.ones(3, 3))
    assert not metric.probability.any()
