"""The LightningModule: a network, a loss and metrics."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jsonargparse.typing import register_type
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, WeightAveraging
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities import rank_zero_warn
from monai.inferers import Inferer, SliceInferer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mbls import __version__
from mbls.data import (
    IGNORE_INDEX,
    Batch,
    DataModule,
    cases_of,
    datamodule_of,
    missing_from,
    readers_in,
)
from mbls.decisions.choice import Thresholds
from mbls.decisions.guarantee import Guarantee
from mbls.decisions.optimal import OptimalDice
from mbls.evaluation.scoring import TestMetrics
from mbls.inference import (
    Window,
    describe_inferer,
    head_weights,
    inferer_for,
    pad_to_multiple,
    split_heads,
    volume_logits,
)
from mbls.loggers.epoch_means import EpochMeans
from mbls.losses import Loss, part_terms
from mbls.losses.base import check_parts
from mbls.metrics import (
    REGIONS,
    CalibrationHistogram,
    DiceScore,
    check_n_bins,
    estimate,
)
from mbls.metrics.catalog import logged_metrics
from mbls.posthoc.base import Calibrator
from mbls.posthoc.ensemble import mean_log_probs
from mbls.runtime.errors import CheckpointError, SettingError

__all__ = ["PostHocState", "SegmentationModule"]

DICE = "val/dice"

# a list in a configuration becomes a tensor where a loss expects one, such as class weights
register_type(
    Tensor,
    serializer=lambda values: values.numpy().astype(str).astype(float).tolist(),  # 0.1 stays 0.1
    deserializer=lambda values: torch.tensor(values, dtype=torch.float32),
    type_check=isinstance,
)


class _Shared:
    """A function that is shared, not copied, by copies of the module.

    A function that jsonargparse builds refers to the command line, and through it to the trainer
    and the data, which cannot be copied.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


@dataclass
class PostHocState:
    """What :class:`mbls.callbacks.PostHoc` adds to a trained network; nothing in a training.

    Attributes:
        members: Further networks of an ensemble, whose probabilities are averaged with those of
            the module's network.
        calibrator: Calibrator of the probabilities, if any.
        decision: Chooses the classes by thresholds or as Dice-optimal masks; None for those of the
            highest probability.
        guarantee: Outer and inner masks that a prediction writes, if any.
        margins: If True, a test counts voxels within margins of the predicted structures.
        predictor: Hash of the weights that are tested, if they are known.
        probabilities: Hash of all that the probabilities follow from: weights, calibrator,
            mirroring, windows and precision.
        on_validated: Called with each validation batch and its probabilities ``(1, C, *S)``, if
            any, such as to fit a calibrator.
        on_counted: The same on the grid of a test, such as to decide for a test.
    """

    members: list[nn.Module] = field(default_factory=list)
    calibrator: Calibrator | None = None
    decision: Thresholds | OptimalDice | None = None
    guarantee: Guarantee | None = None
    margins: bool = False
    predictor: str | None = None
    probabilities: str | None = None
    on_validated: Callable[[Batch, Tensor], None] | None = None
    on_counted: Callable[[Batch, Tensor], None] | None = None


class SegmentationModule(LightningModule):
    """Train and evaluate one segmentation network with one loss.

    Args:
        network: Maps ``(N, M, *S)`` to logits ``(N, C, *S)``, a list of such heads or their stack
            ``(N, heads, C, *S)``, such as monai's networks.
        loss: ``loss(logits, target) -> scalar``: from :mod:`mbls.losses`, monai or torch.
        optimizer: Maps parameters to an optimizer.
        scheduler: Maps an optimizer to a scheduler. ReduceLROnPlateau steps after each validation
            and watches its ``monitor``; torch's version has none and watches ``val/dice``, which
            needs ``mode: max``.
        scheduler_interval: Step the scheduler once per ``epoch``, or with every optimizer ``step``,
            such as for a warm-up within the first epoch.
        inferer: Cuts volumes into the network's inputs at evaluation; None to choose by ``window``.
        spatial_dims: Dimensions of the network, 2 or 3; set by the datamodule.
        patch_size: Size of the training samples; set by the datamodule.
        crop: Where training samples are cropped, ``"random"`` or ``"center"``; set by the
            datamodule.
        window: Input of the network at evaluation: windows of ``"patch"`` size, slices ``"padded"``
            to at least that size, or ``"whole"`` slices or volumes; None to match training
            (:func:`mbls.inference.inferer_for`).
        overlap: Overlap of neighboring windows, as a fraction of their size.
        output_device: Device on which a volume's logits are assembled and scored, such as ``cpu``
            if those of a large CT don't fit in GPU memory; None for the network's device.
        mirror: Spatial axes over whose mirrorings evaluation averages the logits; none by default.
        grid: Grid of the test: ``preprocessed`` as in the cache, or ``native`` as in each case's
            file, to which logits are resampled before the softmax.
        num_classes: Number of classes, background included; set by the datamodule.
        class_keys: Short names of the classes for logged keys.
        unions: Named sets of classes that are scored together, such as BraTS's whole tumor.
        divisor: Inputs are padded to a multiple of this size, one for all axes or one for each,
            and outputs cropped back. None: the network's own ``divisor``, or 1.
        main_head: The head that predicts, if the network returns several. All are trained, with
            weights that halve with the distance from it.
        n_bins: Bins of the calibration errors of validation and test; a divisor of 60.

    Attributes:
        post_hoc: What a test or a prediction adds to the trained network, see
            :class:`PostHocState`.
    """

    adapts_on: str | None  # cases that an adaptive loss observes in this run
    val_histogram: CalibrationHistogram
    val_dice: DiceScore
    test_metrics: TestMetrics

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        *,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        inferer: Inferer | None = None,
        spatial_dims: int = 2,
        patch_size: Sequence[int] | None = None,
        crop: Literal["center", "random"] = "random",
        window: Window | None = None,
        overlap: float = 0.5,
        output_device: str | None = None,
        mirror: Sequence[int] = (),
        grid: Literal["preprocessed", "native"] = "preprocessed",
        num_classes: int = 2,
        class_keys: Sequence[str] = (),
        unions: Mapping[str, Sequence[int]] | None = None,
        divisor: int | tuple[int, ...] | None = 1,
        main_head: int = 0,
        n_bins: int = 15,
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:  # those of the command line are plain values
            self.save_hyperparameters(logger=False)
        if num_classes < 2:
            raise ValueError(f"num_classes must be >= 2 (background included), got {num_classes}.")
        if divisor is None:
            divisor = getattr(network, "divisor", 1)
        if min(divisor if isinstance(divisor, tuple) else (divisor,)) < 1:
            raise ValueError(f"divisor must be >= 1, got {divisor}.")
        if class_keys and len(class_keys) != num_classes:
            raise ValueError(f"class_keys must name {num_classes} classes, got {list(class_keys)}.")
        self.network = network
        self.loss = loss
        self.optimizer = _Shared(optimizer)
        self.scheduler = None if scheduler is None else _Shared(scheduler)
        self.scheduler_interval = scheduler_interval
        self.lr: float | None = None  # overrides the optimizer's; set by Lightning's LR finder
        if not set(mirror) <= set(range(spatial_dims)):
            raise ValueError(f"mirror must be axes from 0 to {spatial_dims - 1}, got {mirror}.")
        if grid not in ("preprocessed", "native"):
            raise ValueError(f"grid must be preprocessed or native, got {grid!r}.")
        if inferer and output_device:
            raise ValueError(
                f"output_device must be None with an inferer, got {output_device!r}: set the "
                f"device of {type(inferer).__name__} instead."
            )
        self.inferer = inferer or inferer_for(
            spatial_dims,
            patch_size,
            crop=crop,
            window=window,
            overlap=overlap,
            device=output_device,
        )
        self.inference = describe_inferer(self.inferer)
        self.patch_size = None if patch_size is None else tuple(patch_size)
        self.mirror, self.grid = tuple(mirror), grid
        self.num_classes = num_classes
        self.class_keys = tuple(class_keys) or tuple(f"class{k}" for k in range(num_classes))
        self.unions = {name: tuple(classes) for name, classes in (unions or {}).items()}
        self.divisor = divisor
        self.main_head = main_head
        self.n_bins = check_n_bins(n_bins)
        self.train_means = EpochMeans()
        self._warned_of_accumulation = False
        self.post_hoc = PostHocState()
        if isinstance(loss, Loss):
            loss.bind(num_classes)
        check_parts(loss, num_classes, spatial_dims)
        if self.scheduler is not None:  # validate its settings early
            self._plan_steps(self.scheduler(self.optimizer(self.parameters())))

    # Forward -----------------------------------------------------------------------------------

    def heads(self, image: Tensor, network: nn.Module | None = None) -> list[Tensor]:
        """Return the logits ``(N, C, *S)`` of every head for ``(N, M, *S)``, at the input size.

        Args:
            image: Slices or patches.
            network: A member of the ensemble; None for the module's own network.
        """
        network = self.network if network is None else network
        chosen = self.training or tuple(image.shape[2:]) == self.patch_size
        least = 1 if chosen else 2  # the user chooses a patch's size, but not a slice's
        padded, crop = pad_to_multiple(image, self.divisor, least=least)
        heads = split_heads(network(padded), spatial_dims=image.ndim - 2)
        return [_resize(head, padded.shape[2:])[crop] for head in heads]

    def forward(self, image: Tensor, network: nn.Module | None = None) -> Tensor:
        """Return the main head's logits ``(N, C, *S)`` for slices or patches ``(N, M, *S)``."""
        return self.heads(image, network)[self.main_head]

    def volume_logits(self, image: Tensor, network: nn.Module | None = None) -> Tensor:
        """Return float32 logits ``(N, C, *S)`` for whole volumes ``(N, M, *S)``."""
        forward = partial(self.forward, network=network)
        return volume_logits(image, forward, self.inferer, mirror=self.mirror)

    def all_logits(self, image: Tensor) -> list[Tensor]:
        """Return the logits ``(N, C, *S)`` of whole volumes from each network of the ensemble.

        A calibrator that looks at the image, such as local temperature scaling, is applied here, on
        the grid of the image; others in :meth:`probabilities`, on that of the output.
        """
        found = [self.volume_logits(image, network) for network in (None, *self.post_hoc.members)]
        if self.post_hoc.calibrator is None or not self.post_hoc.calibrator.needs_image:
            return found
        return [self.post_hoc.calibrator.apply(mean_log_probs(found), image, dim=1)]

    def probabilities(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the probabilities ``(N, C, *S)`` for the logits of each network.

        They are the softmax, its mean over an ensemble, and what the calibrator makes of it. The
        logits of a single network are overwritten.
        """
        if self.post_hoc.calibrator is not None and not self.post_hoc.calibrator.needs_image:
            return self.post_hoc.calibrator.apply(mean_log_probs(logits), dim=1).exp_()
        if len(logits) == 1:  # in-place: a map of a CT takes 4 GB
            return torch.softmax(logits[0], dim=1, out=logits[0])
        return mean_log_probs(logits).exp_()

    def predicted(self, probs: Tensor) -> Tensor:
        """Return the classes ``(N, *S)`` for probabilities ``(N, C, *S)``."""
        decision = self.post_hoc.decision
        return probs.argmax(dim=1) if decision is None else decision.label_map(probs)

    def loss_terms(self, logits: Tensor, target: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Return the named, weighted addends of the loss, computed in float32 or wider."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            return part_terms(self.loss, logits, target, image)

    # Training ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch of slices or patches, and log its terms.

        Labels are integers, or soft labels for a loss that takes them (docs/own-loss.md).
        """
        image, target = batch["image"], batch["label"]
        heads = self.heads(image)
        terms: dict[str, Tensor] = {}
        for weight, head in zip(head_weights(len(heads), self.main_head), heads, strict=True):
            for name, term in self.loss_terms(head, target, image).items():
                terms[name] = terms.get(name, 0) + weight * term
        terms = self._share(terms, target)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        parts = terms if len(terms) > 1 else {}
        self.train_means.add(parts | {"loss": loss}, image.shape[0])
        return loss

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Warn once that gradient accumulation weights batches equally; labels are still on CPU.

        Lightning also passes the example input of a summary or a trace, possibly without a trainer.
        """
        if self._trainer is None or not isinstance(batch, dict):
            return batch
        several = self.trainer.accumulate_grad_batches
        if (
            several > 1 and self.trainer.training and not self._warned_of_accumulation
            and bool((batch["label"] == IGNORE_INDEX).any())
        ):  # fmt: skip
            self._warned_of_accumulation = True
            rank_zero_warn(
                f"Accumulation over {several} batches weights them equally, but this one has "
                "ignored voxels: the gradient only approximates that of one large batch."
            )
        return batch

    def on_train_epoch_end(self) -> None:
        """Log the loss and its terms, as means over the epoch's samples on all ranks."""
        means = self.train_means.take(self.trainer)
        logged = {f"train/{name}": mean for name, mean in means.items()}
        self.log_dict(logged, sync_dist=True, reduce_fx="max")  # equal on all ranks

    def _share(self, terms: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Weight this rank's terms to make DDP's mean over ranks that of the whole batch.

        Ranks may differ in their number of labeled voxels. Only terms that the loss declares as
        means over voxels are weighted (:attr:`mbls.losses.Loss.voxel_means`).
        """
        means = self.loss.voxel_mean_terms() if isinstance(self.loss, Loss) else set()
        if not (means and dist.is_available() and dist.is_initialized()):
            return terms
        mine = (target != IGNORE_INDEX).sum()  # of soft labels times C, which the share cancels
        everywhere = mine.clone()
        dist.all_reduce(everywhere)
        share = mine * dist.get_world_size() / everywhere.clamp_min(1)
        return {
            name: term * share.to(term.dtype) if name in means else term
            for name, term in terms.items()
        }

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the scheduler with its configuration."""
        optimizer = self.optimizer(self.parameters())
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr
        if self.scheduler is None:
            return optimizer
        plan = self._plan_steps(self.scheduler(optimizer))
        monitor = plan.get("monitor", "")
        if monitor.startswith("val/"):
            if never_validates(self.trainer):
                raise SettingError(
                    f"The scheduler's monitor {monitor} needs a validation, and this run has none. "
                    "Set limit_val_batches > 0 and check_val_every_n_epoch <= max_epochs, or use "
                    "another scheduler."
                )
            every = self.trainer.check_val_every_n_epoch
            # validations every n steps do not happen in every epoch
            plan |= {"frequency": every or 1, "strict": every is not None}
        return {"optimizer": optimizer, "lr_scheduler": plan}

    def _plan_steps(self, scheduler: LRScheduler) -> dict[str, Any]:
        """Return Lightning's configuration of a scheduler: when it steps and what it watches.

        Raises:
            ValueError: It watches an unknown value, in the wrong direction, or at every step.
        """
        plan: dict[str, Any] = {"scheduler": scheduler, "interval": self.scheduler_interval}
        plan["name"] = "train/lr"
        if not isinstance(scheduler, ReduceLROnPlateau):
            return plan
        monitor = getattr(scheduler, "monitor", DICE)
        if self.scheduler_interval == "step":
            raise ValueError(
                f"scheduler_interval must be epoch for a scheduler that watches {monitor}, got "
                "step."
            )
        better = {"train/loss": "min"}
        better |= {
            f"val/{name}": "max" if metric.better == "more" else "min"
            for metric, name, _ in logged_metrics()
        }
        better |= {f"{DICE}/{name}": "max" for name in (*self.class_keys[1:], *self.unions)}
        better |= {DICE: "max"}
        if monitor.startswith("val/") and monitor not in better:
            raise ValueError(
                f"The scheduler's monitor must be one of {', '.join(sorted(better))}, got "
                f"{monitor}."
            )
        if scheduler.mode != better.get(monitor, scheduler.mode):
            more = "more" if better[monitor] == "max" else "less"
            raise ValueError(
                f"The scheduler watches {monitor}, of which {more} is better, so its mode must be "
                f"{better[monitor]}, got {scheduler.mode}. To watch another value, set the monitor "
                "of lightning.pytorch.cli.ReduceLROnPlateau."
            )
        return plan | {"monitor": monitor}

    # Evaluation --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Create the metrics for the datamodule's cases."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            self._check_callback(callback, stage)
        data = datamodule_of(self.trainer)
        attached = getattr(self.trainer, "datamodule", None)
        if data is None and attached is not None:
            rank_zero_warn(
                f"{type(attached).__name__} lacks {', '.join(missing_from(attached))} of "
                "mbls.data.DataModule: its cases are identified by number, one per patient."
            )
        if stage in ("fit", "validate"):
            self._plan_adapting(data)
        if data is None:
            return  # the loaders' cases are counted when they exist
        if stage in ("fit", "validate"):
            self._make_val_metrics(len(data.cases("val")))
        if stage == "test":
            self._make_test_metrics(len(data.cases("test")), readers_in(data, "test"))

    def on_validation_start(self) -> None:
        """Without a datamodule, create the metrics for the first loader's cases."""
        if datamodule_of(self.trainer) is None:
            self._make_val_metrics(cases_of(self.trainer.val_dataloaders))

    def on_test_start(self) -> None:
        """Without a datamodule, create the metrics for the loader's cases."""
        if datamodule_of(self.trainer) is None:
            self._make_test_metrics(cases_of(self.trainer.test_dataloaders))

    def _make_val_metrics(self, cases: int) -> None:
        settings: dict[str, Any] = {"num_classes": self.num_classes, "unions": self.unions}
        logged = {region for _, _, region in logged_metrics()}
        regions = tuple(region for region in REGIONS if region in logged)
        histogram = CalibrationHistogram(regions=regions, **settings)
        self.val_histogram = histogram.to(self.device)
        self.val_dice = DiceScore(num_cases=cases, **settings).to(self.device)

    def _make_test_metrics(self, cases: int, readers: int = 0) -> None:
        metrics = TestMetrics(
            self.num_classes, cases, unions=self.unions, readers=readers,
            margins=self.post_hoc.margins,
        )  # fmt: skip
        self.test_metrics = metrics.to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a volume of the first loader; let an adaptive loss observe one of the last loader.

        There is only one loader, unless the datamodule holds out cases for adaptive losses.
        """
        loss = self._adapting() if dataloader_idx == self.observed_loader else None
        validates = dataloader_idx == 0
        if not bool(batch["scored"].all()) or not (validates or loss):
            return
        logits = self.all_logits(batch["image"])
        if loss:
            with torch.autocast(logits[0].device.type, enabled=False):
                loss.observe(logits[0].to(batch["label"].device), batch["label"])
        if validates:
            on_grid = None
            if self.post_hoc.on_counted is not None and self.grid == "native":
                on_grid = self._native(batch, [each.clone() for each in logits])
            probs = self.probabilities(logits)
            self._score_validation(batch, probs)
            if self.post_hoc.on_validated is not None:
                self.post_hoc.on_validated(batch, probs)
            if self.post_hoc.on_counted is not None:
                if on_grid is not None:
                    batch, probs = on_grid[0], self.probabilities(on_grid[1])
                self.post_hoc.on_counted(batch, probs)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, and let an adaptive loss adapt before checkpoints."""
        data = datamodule_of(self.trainer)
        scores = self.val_dice.compute()
        logged = self._log_scores("val", self.val_histogram, scores)
        patients = [str(k) for k in range(len(scores))] if data is None else data.patients("val")
        error = patient_error(scores[:, 1 : self.num_classes], patients)
        if logged[DICE].isnan() and not self.trainer.sanity_checking:
            names = ", ".join([*self.class_keys[1:], *self.unions])
            rank_zero_warn(
                f"No validation case has a voxel of any class ({names}), so val/dice is NaN: the "
                "rules dice and compromise select the epoch with the lowest val/nll, and a "
                "scheduler that watches val/dice sees no improvement. Add patients with "
                "structures to val."
            )
        same: dict[str, Any] = {"sync_dist": True, "reduce_fx": "max"}
        self.log("val/dice_se", error.to(self.device, torch.float32), **same)
        self.log("dice", logged[DICE], prog_bar=True, logger=False, **same)
        self.val_histogram.reset()
        self.val_dice.reset()
        if loss := self._adapting():
            loss.adapt()
            tracked = loss.tracked(self.class_keys).items()
            self.log_dict({f"train/{name}": value.float() for name, value in tracked}, **same)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """Score a volume, and return the batch, probabilities and classes for callbacks."""
        if not bool(batch["scored"].all()):
            return None
        logits = self.all_logits(batch["image"])
        if self.grid == "native":
            batch, logits = self._native(batch, logits)
        changed = self.post_hoc.calibrator is not None or self.post_hoc.decision is not None
        before = mean_log_probs(logits).argmax(dim=1) if changed else None
        members = [each.argmax(dim=1) for each in logits] if len(logits) > 1 else []
        probs = self.probabilities(logits)
        batch = cast(Batch, {**batch, "label": batch["label"].to(probs.device)})
        classes = None if self.post_hoc.decision is None else self.predicted(probs)
        self.test_metrics.update(probs, batch, classes=classes, before=before, members=members)
        return {"batch": batch, "probs": probs, "classes": classes}

    def on_test_epoch_end(self) -> None:
        """Log the test metrics, after the callbacks have written their files, and reset them."""
        metrics = self.test_metrics
        self._log_scores("test", metrics.histogram, metrics.dice.compute())
        metrics.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Tensor]:
        """Return the logits ``(N, C, *S)`` of each network on the cache's grid.

        The prediction writer resamples them.
        """
        return self.all_logits(batch["image"])

    # Checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the module's identity and the running means of the epoch."""
        checkpoint["train_means"] = self.train_means.state(self.trainer)
        checkpoint["mbls"] = {
            "version": __version__,
            "num_classes": self.num_classes,
            "class_keys": list(self.class_keys),
            "inference": self.inference,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint matches this module, and restore the running means.

        Raises:
            CheckpointError: It was not written by mbls, or has other classes or weights.
        """
        card = checkpoint.get("mbls")
        if not isinstance(card, dict):
            raise CheckpointError(
                f"The checkpoint was not written by mbls: it has no 'mbls' entry, only "
                f"{sorted(checkpoint)}. Use one from a run folder's checkpoints/."
            )
        if card.get("num_classes") != self.num_classes:
            raise CheckpointError(
                f"The checkpoint's network has {card.get('num_classes')} classes "
                f"{card.get('class_keys')}, the data {self.num_classes} {list(self.class_keys)}. "
                "Use a checkpoint of a run on this dataset."
            )
        if differing := _differing(checkpoint["state_dict"], self.state_dict()):
            raise CheckpointError(
                f"The checkpoint has another network or loss: {len(differing)} weights differ in "
                f"name or shape, first {differing[0]}. Use a checkpoint of this run."
            )
        changed = isinstance(self.inferer, SliceInferer) and self.inference != "whole slices"
        if changed and "inference" not in card:
            rank_zero_warn(
                "The checkpoint was written by a version of mbls that evaluated 2D networks on "
                f"whole slices. Now it is evaluated on {self.inference}, the size of its training "
                "samples; use --model.window whole for the former numbers."
            )
        attached = self._trainer is not None  # not within load_from_checkpoint
        if attached and self.trainer.state.fn == "fit" and "train_means" in checkpoint:
            self.train_means.load(checkpoint["train_means"], self.trainer)

    # Private -----------------------------------------------------------------------------------

    def _plan_adapting(self, data: DataModule | None) -> None:
        """Set which cases an adaptive loss observes, and the index of their dataloader."""
        cases = "val" if data is None else data.adapt
        held_out = cases == "holdout"
        self.observed_loader = int(held_out)
        adapts = isinstance(self.loss, Loss) and self.loss.adaptive
        validates = not never_validates(self.trainer)
        self.adapts_on = cases if adapts and validates else None
        if adapts and not validates and self.trainer.state.fn == "fit":
            rank_zero_warn(
                f"{type(self.loss).__name__} adapts after each validation, and this run has none: "
                "its multipliers stay at their initial values. Set limit_val_batches > 0 and "
                "check_val_every_n_epoch <= max_epochs."
            )
        if data is not None and held_out and not adapts:
            rank_zero_warn(
                f"adapt is holdout, but {type(self.loss).__name__} does not adapt: "
                f"{len(data.cases('holdout'))} cases are held out of training and not used."
            )

    def _adapting(self) -> Loss | None:
        """Return the loss if it adapts to this validation: in a fit, but not its sanity check."""
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return None
        return self.loss if isinstance(self.loss, Loss) and self.loss.adaptive else None

    def _check_callback(self, callback: Any, stage: str) -> None:
        """Raise SettingError for a callback that would silently make a run wrong."""
        name = type(callback).__name__
        searches = isinstance(callback, LearningRateFinder | BatchSizeFinder)
        if searches and (self.hparams or stage != "fit"):  # hparams: run by the command line
            raise SettingError(
                f"{name} changes a setting during a run: config.yaml would not record it, a "
                "resumed run would search again, and evaluation uses one case per batch. Search "
                "with lightning.pytorch.tuner.Tuner in Python, and set the result: "
                "--model.optimizer.init_args.lr, --batch-size."
            )
        adapts = isinstance(self.loss, Loss) and self.loss.adaptive
        if adapts and isinstance(callback, WeightAveraging):
            raise SettingError(
                f"{name} replaces the state of {type(self.loss).__name__} by an average during "
                "validation, so the loss would never adapt. Use a loss that does not adapt, or "
                "remove the callback."
            )

    def _native(self, batch: Batch, logits: Sequence[Tensor]) -> tuple[Batch, list[Tensor]]:
        """Return a case's label and logits ``(1, C, *S)`` on the grid of its file."""
        data = datamodule_of(self.trainer)
        if data is None:
            raise SettingError(
                "grid native needs a datamodule that knows each case's file, but the trainer has "
                "only dataloaders: leave out grid, or give a datamodule."
            )
        (case,) = batch["case"]
        restored = [data.restore(case, each[0])[0][None] for each in logits]
        truth = {name: value.to(logits[0].device) for name, value in data.truth(case).items()}
        scored = truth | {"case": batch["case"], "index": batch["index"]}  # and no image
        return cast(Batch, scored), restored

    def _log_scores(
        self, stage: str, histogram: CalibrationHistogram, dice: Tensor
    ) -> dict[str, Tensor]:
        """Log Dice per structure ``(cases, structures)`` and the calibration errors."""
        names = [*self.class_keys[1:], *self.unions]
        structures = dict(zip(names, dice[:, 1:].nanmean(dim=0), strict=True))
        classes = torch.stack([structures[name] for name in self.class_keys[1:]])
        logged = {f"{stage}/dice": classes.nanmean()}
        logged |= {f"{stage}/dice/{name}": value for name, value in structures.items()}
        bins = histogram.compute()
        for metric, name, region in logged_metrics():
            value, _ = estimate(bins, metric.key, region=region, n_bins=self.n_bins)
            logged[f"{stage}/{name}"] = torch.tensor(value)
        shown = {key: value.to(self.device, torch.float32) for key, value in logged.items()}
        # all ranks have the same values, and max is exact (a mean may round)
        self.log_dict(shown, sync_dist=True, reduce_fx="max")
        return shown

    def _score_validation(self, batch: Batch, probs: Tensor) -> None:
        label = batch["label"].to(probs.device)
        with torch.autocast(probs.device.type, enabled=False):
            for metric in (self.val_histogram, self.val_dice):
                metric.update(probs, label, spacing=batch["spacing"], index=batch["index"])


def never_validates(trainer: Trainer) -> bool:
    """Return True if a fit's settings exclude any validation."""
    every, last = trainer.check_val_every_n_epoch, trainer.max_epochs
    too_late = every is not None and last is not None and 0 <= last < every
    return trainer.limit_val_batches == 0 or too_late


def patient_error(scores: Tensor, patients: Sequence[str]) -> Tensor:
    """Return the standard error over patients of the mean of ``(cases, classes)``.

    The cases of a patient are averaged first; NaN is skipped. It is 0 for one patient, and NaN
    without any value.
    """
    means = scores.nanmean(dim=1)
    rows = [torch.tensor([p == one for p in patients]) for one in sorted(set(patients))]
    each = torch.stack([means[row.to(means.device)].nanmean() for row in rows])
    each = each[~each.isnan()]
    if not len(each):
        return means.new_full((), torch.nan)
    return each.std() / len(each) ** 0.5 if len(each) > 1 else means.new_zeros(())


def _differing(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return the names of weights that only one side has, or that differ in shape."""
    names = list(dict.fromkeys([*wanted, *found]))
    return [
        name for name in names
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    ]  # fmt: skip


def _resize(head: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate a coarser head ``(N, C, *s)`` linearly to the input's size ``S``."""
    if tuple(head.shape[2:]) == tuple(size):
        return head
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(head, size=tuple(size), mode=mode, align_corners=False)
