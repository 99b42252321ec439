"""The posterior's file."""

import re
from pathlib import Path

import numpy as np
import pytest

from datamodules.reading.posterior import (
    load_posterior,
    load_shares,
    save_posterior,
    to_probs,
    to_shares,
)


def test_shares_on_paper() -> None:
    """Halves of an odd whole round to even, 32768; the first class gives back what is too much."""
    shares = to_shares(np.array([[0.5], [0.5]], np.float32))
    assert shares.tolist() == [[32767], [32768]]
    np.testing.assert_allclose(to_probs(shares).sum(0), 1, atol=1e-7)
    assert to_probs(np.array([[65535], [0]], np.uint16)).tolist() == [[1], [0]]


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([0.2] * 4, size=(5, 6, 7)).transpose(3, 0, 1, 2).astype(np.float32)
    save_posterior(tmp_path / "p.npz", probs)
    shares = load_shares(tmp_path / "p.npz")
    assert (shares.dtype, shares.shape) == (np.uint16, (4, 5, 6, 7))
    assert (shares.astype(int).sum(axis=0) == 65535).all()
    read = load_posterior(tmp_path / "p.npz")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, probs, atol=2.01 / 65535)
    np.testing.assert_array_equal(to_shares(read), shares)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"posterior": np.full((4, 2), 0.25)}, "must be uint16, got float64"),
        ({"posterior": np.full((4, 2), 9, np.uint16)}, "must sum to 65535 at every voxel"),
        ({"other": np.zeros(3)}, "must be an npz file with an array 'posterior' (KeyError"),
    ],
)
def test_bad_files(tmp_path: Path, arrays: dict[str, np.ndarray], text: str) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(text)):
        load_posterior(tmp_path / "p.npz")
    (tmp_path / "p.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="must be an npz file with an array 'posterior'"):
        load_posterior(tmp_path / "p.npz")
