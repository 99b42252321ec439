"""What a test counts of each case."""

from pathlib import Path

import pytest
import torch

from mbls.evaluation import TestRun
from mbls.evaluation.scoring import TestMetrics


def test_the_volume_of_a_voxel_is_kept_in_ml(tmp_path: Path) -> None:
    metrics = TestMetrics(2, 2)
    for number, spacing in ((1, [2.0, 2.0, 2.0]), (0, [1.5, 1.0, 2.0])):
        label = torch.zeros(1, 4, 4, 2, dtype=torch.int64)
        batch = {"label": label, "case": ["a"], "index": torch.tensor([number]),
                 "spacing": torch.tensor([spacing])}  # fmt: skip
        metrics.update(torch.full((1, 2, 4, 4, 2), 0.5), batch)
    meta = {"dataset": "any", "origin": "real", "class_names": ["out", "in"]}
    run = metrics.run(cases=["a", "b"], patients=["a", "b"], meta=meta)
    assert run.voxel_ml == pytest.approx([0.003, 0.008])
    run.save(tmp_path / "bins.npz")
    assert TestRun.load(tmp_path / "bins.npz").voxel_ml.tolist() == run.voxel_ml.tolist()
    metrics.reset()
    assert metrics.voxel.ml.tolist() == [0, 0]
