"""The fast counting gives the integers of its definition, for random values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbls.metrics import CalibrationHistogram
from mbls.metrics._kernel import pieces
from mbls.metrics._kernel.definition import count_cells
from mbls.metrics._kernel.edges import grid_edges
from mbls.metrics.regions import CODE_REGIONS, MASK_REGIONS, REGIONS, region_masks

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def defined(probs, target, regions, unions, masks, ignore_index):
    """The states of the definition, from voxels in a row."""
    rows, labels = probs.movedim(1, 0).flatten(1), target.flatten().long()
    kept = labels != ignore_index
    chosen = [masks[r].flatten()[kept] if r in masks else r for r in regions]
    found = [count_cells(rows[:, kept], labels[kept], r, unions) for r in chosen]
    return [torch.stack(sums) for sums in zip(*found, strict=True)]


def drawn(classes, shape, dtype, kind):
    """Probabilities of a kind that is hard on cells and ties, and labels."""
    logits = torch.randn(shape[0], classes, *shape[1:], dtype=torch.float64)
    probs = {
        "softmax": lambda: (logits * 3).softmax(1),
        "ties": lambda: logits.round().softmax(1),
        "certain": lambda: (logits * 1000).softmax(1),
        "edges": lambda: edges_of(logits),
    }[kind]()
    return probs.to(dtype), torch.randint(classes, shape)


def edges_of(logits):
    """One class on an edge or next to it, the last takes the rest."""
    edges = torch.from_numpy(grid_edges()).float()
    near = torch.stack([torch.nextafter(edges, torch.tensor(end)) for end in (-1.0, 2.0)])
    values = torch.cat([edges[None], near]).clamp(0, 1).flatten().double()
    probs = torch.zeros_like(logits)
    probs[:, 0] = values[(logits[:, 0] * 1e6).long() % len(values)]
    probs[:, -1] = 1 - probs[:, 0]
    return probs


@settings(max_examples=30, deadline=None)
@given(
    classes=st.integers(2, 7),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["softmax", "ties", "certain", "edges"]),
    ignore_index=st.sampled_from([-100, -1, 255]),
    seed=st.integers(0, 999),
)
def test_the_integers_are_those_of_the_definition(classes, shape, dtype, kind, ignore_index, seed):
    torch.manual_seed(seed)
    probs, target = drawn(classes, shape, dtype, kind)
    target[torch.rand(target.shape) < 0.2] = ignore_index
    unions = {"first": (0, classes - 1), "last": (classes - 1,)}
    spacing = torch.ones(shape[0], len(shape) - 1)
    regions = REGIONS if len(shape) > 1 else CODE_REGIONS
    margins = {"dilated_mm": 1.5, "boundary_mm": 1.0}
    metric = CalibrationHistogram(
        classes, unions=unions, regions=regions, ignore_index=ignore_index, **margins
    )
    metric.update(probs, target, spacing=spacing)
    masks = {
        region: region_masks(target, spacing, [region], ignore_index=ignore_index, **margins) > 0
        for region in regions
        if region in MASK_REGIONS
    }
    cells, sums = defined(probs, target, regions, tuple(unions.values()), masks, ignore_index)
    assert torch.equal(metric.cells, cells)
    assert torch.equal(metric.sums, sums)


@pytest.mark.parametrize(
    ("classes", "slices", "dtype"),
    [*((4, 3, dtype) for dtype in DTYPES), (70, 1, torch.float16), (70, 1, torch.float32)],
)
def test_many_pieces_classes_and_full_sums(classes, slices, dtype):
    """More voxels than fit in a piece and a packed sum; several channels at once."""
    probs, target = drawn(classes, (1, slices, 180, 170), dtype, "softmax")
    assert target.numel() > pieces.MAX_VOXELS or classes > 4
    metric = CalibrationHistogram(classes, regions=("all",))
    metric.update(probs, target)
    cells, sums = defined(probs, target, ["all"], (), {}, -100)
    assert torch.equal(metric.cells, cells)
    assert torch.equal(metric.sums, sums)


def test_floored_voxels_of_full_pieces_are_counted_beside_their_logarithms():
    voxels = 2 * pieces.MAX_VOXELS + 1
    probs = torch.tensor([1.0, 0.0]).repeat(voxels, 1)
    metric = CalibrationHistogram(2, regions=("all",))
    metric.update(probs, torch.ones(voxels))
    _, sums = defined(probs, torch.ones(voxels), ["all"], (), {}, -100)
    assert torch.equal(metric.sums, sums)
    assert metric.sums[0, 3] == voxels
