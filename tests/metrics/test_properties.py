"""For random voxels, the sums do not depend on order and batches."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbls.metrics import CalibrationHistogram, DiceScore, FineHistogram
from tests.metrics.test_histogram import assert_same


@st.composite
def voxels(draw, classes):
    """Rows of sixtieths: every value is on an edge, ties and zeros are common."""
    count = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    cuts = torch.randint(61, (count, classes - 1), generator=generator).sort(1)[0]
    ends = torch.tensor([[60]]).expand(count, 1)
    rows = torch.cat([cuts, ends], 1).diff(dim=1, prepend=0 * ends)
    target = torch.randint(-1, classes, (count,), generator=generator)
    target[target < 0] = -100
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    probs = rows.to(dtype) / 60
    # Float32 sixtieths, so that a float64 value is on the edge it is meant to be on.
    return probs.float().to(dtype), target


@given(voxels(classes=3), st.data())
@settings(max_examples=8, deadline=None)
def test_any_batches_in_any_order_merged_from_any_shards(case, data):
    probs, target = case
    count = len(target)
    order = data.draw(st.permutations(range(count)))
    owner = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    cases = data.draw(st.integers(1, 4))
    number = torch.tensor([i % cases for i in range(count)])

    def build():
        union = {"u": (2, 1)}
        return [
            CalibrationHistogram(3, unions=union),
            CalibrationHistogram(3, unions=union, num_cases=cases),
        ], [FineHistogram(3), DiceScore(3, num_cases=cases)]

    def feed(built, chosen):
        (pooled, apart), (fine, dice) = built
        rows = torch.tensor(chosen, dtype=torch.long)
        if len(rows):
            pooled.update(probs[rows], target[rows], posterior=probs[rows].flip(1))
            apart.update(probs[rows], target[rows], index=number[rows])
            fine.update(probs[rows], target[rows])
            dice.update(probs[rows], target[rows], index=number[rows])

    whole, merged, *others = [build() for _ in range(4)]
    feed(whole, list(range(count)))
    for shard, built in enumerate((merged, *others)):
        mine = [i for i in order if owner[i] == shard]
        half = len(mine) // 2
        feed(built, mine[:half])
        feed(built, mine[half:])
    for built in others:
        for group in (0, 1):
            for one, other in zip(merged[group], built[group], strict=True):
                one.merge_state(other)
    for one, other in zip(whole[0], merged[0], strict=True):
        assert_same(one, other)
    assert torch.equal(whole[1][0].cells, merged[1][0].cells)
    assert torch.equal(whole[1][1].counts, merged[1][1].counts)
