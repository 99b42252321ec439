"""Mixed precision: the network runs in half of it, losses and metrics never do."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from mbls.callbacks import NaNGuard
from mbls.losses import AdaptiveLoss, CrossEntropyLoss
from mbls.module import SegmentationModule
from mbls.runtime.errors import NonFiniteError
from tests import tiny
from tests.blobs import BlobDataModule

pytestmark = pytest.mark.filterwarnings("ignore")


class Watched(AdaptiveLoss):
    """Notes the dtype of its input, and that of a product under the current autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def note(self, logits: Tensor) -> None:
        self.seen |= {logits.dtype, (torch.ones(2, 2) @ torch.ones(2, 2)).dtype}

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        self.note(logits)
        return {"ce": nn.functional.cross_entropy(logits, target)}

    def observe(self, logits: Tensor, target: Tensor) -> None:
        self.note(logits)

    def adapt(self) -> None:
        pass


def trained(precision: Any, loss: nn.Module, *callbacks: Any, **settings: Any) -> Trainer:
    network = nn.Conv2d(1, 3, 3, padding=1)
    plugins = {"precision": precision} if isinstance(precision, str) else {"plugins": [precision]}
    trainer = tiny.trainer(callbacks=list(callbacks), log_every_n_steps=1, **settings | plugins)
    built = SegmentationModule(network, loss, num_classes=3)
    trainer.fit(built, datamodule=BlobDataModule(size=16, train=16, batch_size=4))
    return trainer


def test_losses_and_metrics_are_float32_under_bfloat16() -> None:
    loss, probs = Watched(), set()
    halves: list[torch.dtype] = []

    class Look(NaNGuard):
        def on_validation_batch_start(self, trainer, pl_module, *args) -> None:
            histogram, update = pl_module.val_histogram, pl_module.val_histogram.update

            def noted(given: Tensor, *args: Any, **settings: Any) -> None:
                probs.update({given.dtype, (torch.ones(2, 2) @ torch.ones(2, 2)).dtype})
                update(given, *args, **settings)

            histogram.update = noted
            hook = pl_module.network.register_forward_hook(
                lambda module, given, output: halves.append(output.dtype)
            )
            self.hook = hook

    trained("bf16-mixed", loss, Look())
    assert torch.bfloat16 in halves
    assert loss.seen == {torch.float32}
    assert probs == {torch.float32}


def test_float16_on_a_cpu_becomes_bfloat16() -> None:
    seen: set[torch.dtype] = set()

    class Look(NaNGuard):
        def on_fit_start(self, trainer, pl_module) -> None:
            pl_module.network.register_forward_hook(lambda *given: seen.add(given[-1].dtype))

    with pytest.warns(UserWarning, match=r"fp16 .*bf16-mixed"):
        trained("16-mixed", CrossEntropyLoss(), Look())
    assert seen == {torch.bfloat16}


def scaled(start: float) -> MixedPrecision:
    """Float16 with a real scaler on a CPU, where lightning takes none by itself."""
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=10**6)
    return MixedPrecision("16-mixed", "cpu", scaler)


def test_overflow_of_the_scaler_is_no_nan() -> None:
    start = 2.0**40  # gradients of float16 end at 65504: the first steps are skipped
    trainer = trained(scaled(start), CrossEntropyLoss(), NaNGuard(), max_epochs=8)
    scale = trainer.precision_plugin.scaler.get_scale()
    assert scale < start
    assert trainer.global_step == 32
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


class Spiked(CrossEntropyLoss):
    """Finite, with a gradient that never is: a root at zero."""

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {**super().terms(logits, target), "root": (logits.mean() * 0).sqrt()}


def test_scaler_that_skips_every_step_ends_the_run() -> None:
    with pytest.raises(NonFiniteError, match=r"scaler has skipped .*scale has fallen to"):
        trained(scaled(2.0**16), Spiked(), NaNGuard(), max_epochs=20)


def test_nan_loss_ends_a_run_with_a_scaler() -> None:
    class Bad(CrossEntropyLoss):
        def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
            return {"ce": logits.mean() / 0}

    with pytest.raises(NonFiniteError, match="loss became NaN or infinite in epoch 1, step 1"):
        trained(scaled(2.0**16), Bad(), NaNGuard())
