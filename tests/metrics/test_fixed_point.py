"""Numbers that carry their own count, against whole-number arithmetic."""

import pytest
import torch

from mbls.metrics._kernel.fixed_point import (
    FIXED_BITS,
    LOG_BITS,
    MAX_PACKED,
    packed,
    to_fixed,
    unpacked,
    unpacked_overflow,
)


@pytest.mark.parametrize(("bits", "largest"), [(FIXED_BITS, 1.0), (LOG_BITS, 27.7)])
def test_a_packed_sum_holds_count_and_total(bits: int, largest: float) -> None:
    values = torch.rand(MAX_PACKED, dtype=torch.float64) * largest
    values[:3] = torch.tensor([0.0, largest, 2.0 ** -(bits + 1)])  # the last is a tie: to even, 0
    count, total = unpacked(packed(values, bits, torch.empty_like(values)).sum(), bits)
    assert int(count) == MAX_PACKED
    assert int(total) == sum(to_fixed(values, bits).tolist())


@pytest.mark.parametrize(("bits", "largest"), [(FIXED_BITS, 1.0), (LOG_BITS, 27.7)])
@pytest.mark.parametrize("number", [0, 1, 2, MAX_PACKED])
def test_the_largest_values_leave_room(bits: int, largest: float, number: int) -> None:
    values = torch.full((number,), largest, dtype=torch.float64)
    count, total = unpacked(packed(values, bits, values).sum(), bits)
    assert (int(count), int(total)) == (number, number * round(largest * 2**bits))


def test_marks_above_the_total_are_counted_apart() -> None:
    values = torch.rand(1000).double() * 27
    marked = torch.arange(1000) % 7 == 0
    raised = values + marked * 2.0 ** (47 - LOG_BITS)
    sums = packed(raised, LOG_BITS, torch.empty_like(raised)).sum()
    marks, total = unpacked_overflow(sums, LOG_BITS, torch.tensor(1000))
    assert int(marks) == int(marked.sum())
    assert int(total) == sum(to_fixed(values, LOG_BITS).tolist())
