"""Packed sums and counts, against integer arithmetic."""

import pytest
import torch

from mbls.metrics._kernel.fixed_point import (
    FIXED_BITS,
    MAX_PACKED,
    packed,
    to_fixed,
    unpacked,
    unpacked_overflow,
)

LARGEST = 27.7 / 16  # a logarithm, in units of 2**-26


def test_a_packed_sum_contains_count_and_total() -> None:
    values = torch.rand(MAX_PACKED, dtype=torch.float64) * LARGEST
    values[:3] = torch.tensor([0.0, LARGEST, 2.0 ** -(FIXED_BITS + 1)])  # a tie: to even, 0
    count, total = unpacked(packed(values.clone()).sum())
    assert int(count) == MAX_PACKED
    assert int(total) == sum(to_fixed(values).tolist())


@pytest.mark.parametrize("number", [0, 1, 2, MAX_PACKED])
def test_the_largest_values_leave_room(number: int) -> None:
    values = torch.full((number,), LARGEST, dtype=torch.float64)
    count, total = unpacked(packed(values).sum())
    assert (int(count), int(total)) == (number, number * round(LARGEST * 2**FIXED_BITS))


def test_marks_above_the_total_are_counted_apart() -> None:
    values = torch.rand(1000).double() * LARGEST
    marked = torch.arange(1000) % 7 == 0
    sums = packed(values + marked * 2.0 ** (47 - FIXED_BITS)).sum()
    assert int(unpacked_overflow(sums, torch.tensor(1000))) == int(marked.sum())
    assert int(unpacked(sums)[1]) == sum(to_fixed(values).tolist())
