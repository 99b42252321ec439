"""The progress bar reads the device once a logging interval."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import RichProgressBar

from mbls.callbacks import ProgressBar


def test_values_are_read_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(
        RichProgressBar, "get_metrics", lambda self, trainer, module: reads.append(1) or {"n": 1}
    )
    bar = ProgressBar()
    for batch in range(20):
        trainer = SimpleNamespace(
            log_every_n_steps=10, training=True, fit_loop=SimpleNamespace(batch_idx=batch)
        )
        assert bar.get_metrics(trainer, None) == {"n": 1}
    assert len(reads) == 3  # the first batch, the 10th and the 20th
