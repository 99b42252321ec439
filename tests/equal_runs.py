"""Whether two runs ended with the same bits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch


def assert_equal(run: Path, whole: Path) -> None:
    """Weights, optimiser, loss state, logged values and test results are the same bits."""
    for name in ("last", "previous", "best"):
        ours, theirs = (
            torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
            for folder in (run, whole)
        )
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            assert_same(ours[part], theirs[part], f"{name}/{part}")
    for name in ("metrics.csv", "test/best/metrics.json", "test/best/cases.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = (dict(np.load(folder / "test/best/bins.npz")) for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Two nests of tensors and values are the same bits."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for k, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}/{k}")
    else:
        assert ours == theirs, where
