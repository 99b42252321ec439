"""The LightningModule: a network, a loss and metrics, nothing else."""

from collections.abc import Callable, Mapping, Sequence
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
from mbls.data import IGNORE_INDEX, Batch, DataModule, cases_of, datamodule_of, missing_from
from mbls.inference import (
    Window,
    head_weights,
    inference_words,
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
    FineHistogram,
    HausdorffDistance95,
    NormalizedSurfaceDice,
    check_n_bins,
    estimate,
)
from mbls.metrics.catalog import logged_metrics
from mbls.runtime.errors import CheckpointError, SettingError

__all__ = ["SegmentationModule"]

DICE = "val/dice"  # more is better

# a list in a configuration is a tensor where a loss of torch's or MONAI's wants one: its weights
register_type(
    Tensor,
    serializer=lambda values: values.numpy().astype(str).astype(float).tolist(),  # 0.1 stays 0.1
    deserializer=lambda values: torch.tensor(values, dtype=torch.float32),
    type_check=isinstance,
)


class _Shared:
    """A function that copies of the module share.

    One that a configuration makes holds the command line, and with it the trainer and the data,
    which nothing can copy.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


class SegmentationModule(LightningModule):
    """Train and evaluate one segmentation network with one loss.

    Args:
        network: Anything that maps ``(N, M, *S)`` to logits ``(N, C, *S)``, a list of such heads or
            their stack ``(N, heads, C, *S)``; monai's networks do.
        loss: ``loss(logits, target) -> scalar``: one of :mod:`mbls.losses`, monai's or torch's.
        optimizer: From the parameters to the optimiser.
        scheduler: From the optimiser to its scheduler. One that waits for a plateau steps after a
            validation and watches its ``monitor``; torch's own has none and watches ``val/dice``,
            which wants ``mode: max``.
        scheduler_interval: Whether the scheduler steps once an ``epoch`` or with every ``step`` of
            the optimiser, as a warm-up within the first epoch wants.
        inferer: How a volume is cut for the network at evaluation; None for what ``window`` says.
        spatial_dims: Of the network, 2 or 3; the datamodule's.
        patch_size: Size of the training samples; the datamodule's.
        crop: Where the samples are cut out of what is larger, ``"random"`` or ``"center"``; the
            datamodule's.
        window: What the network sees at evaluation: windows of ``"patch"`` size, slices
            ``"padded"`` to at least that, or the ``"whole"`` as it is; None for what it saw in
            training by ``crop`` (:func:`mbls.inference.inferer_for`).
        overlap: Share that neighbouring windows have in common.
        output_device: Where a volume's logits are put together, such as ``cpu`` where those of a
            large CT don't fit beside the network, and its metrics are counted; None for where the
            network is.
        mirror: Spatial axes over whose mirrorings evaluation averages the logits; none by default.
        grid: Where a test is scored: on the cache's ``preprocessed`` grid, or on the ``native``
            grid of each case's file, to which logits are resampled before the softmax.
        num_classes: Classes, background included; the datamodule's.
        class_keys: Short names of the classes, used in logged keys.
        unions: Named sets of classes scored together, such as BraTS's whole tumour.
        divisor: The network's input sizes are padded to a multiple of it and cropped back.
        main_head: Which head predicts, where the network returns several. All are trained, with
            weights that halve with the distance from it.
        n_bins: Bins of the calibration errors of validation and test; a divisor of 60.
    """

    adapts_on: str | None  # the cases that an adaptive loss observes in this run
    val_histogram: CalibrationHistogram
    val_dice: DiceScore
    test_histogram: CalibrationHistogram
    test_fine: FineHistogram
    test_dice: DiceScore
    test_hd95: HausdorffDistance95
    test_nsd: NormalizedSurfaceDice

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
        divisor: int = 1,
        main_head: int = 0,
        n_bins: int = 15,
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:  # the command line's, plain values all
            self.save_hyperparameters(logger=False)
        if num_classes < 2:
            raise ValueError(f"num_classes must be >= 2 (background included), got {num_classes}.")
        if divisor < 1:
            raise ValueError(f"divisor must be >= 1, got {divisor}.")
        if class_keys and len(class_keys) != num_classes:
            raise ValueError(f"class_keys must name {num_classes} classes, got {list(class_keys)}.")
        self.network = network
        self.loss = loss
        self.optimizer = _Shared(optimizer)
        self.scheduler = None if scheduler is None else _Shared(scheduler)
        self.scheduler_interval = scheduler_interval
        self.lr: float | None = None  # in place of the optimiser's, from lightning's range test
        if not set(mirror) <= set(range(spatial_dims)):
            raise ValueError(f"mirror must hold axes from 0 to {spatial_dims - 1}, got {mirror}.")
        if grid not in ("preprocessed", "native"):
            raise ValueError(f"grid must be preprocessed or native, got {grid!r}.")
        if inferer and output_device:
            raise ValueError(
                f"output_device {output_device!r} is for the inferer built here: give yours, "
                f"{type(inferer).__name__}, its own device."
            )
        self.inferer = inferer or inferer_for(
            spatial_dims,
            patch_size,
            crop=crop,
            window=window,
            overlap=overlap,
            device=output_device,
        )
        self.inference = inference_words(self.inferer)
        self.patch_size = None if patch_size is None else tuple(patch_size)
        self.mirror, self.grid = tuple(mirror), grid
        self.num_classes = num_classes
        self.class_keys = tuple(class_keys) or tuple(f"class{k}" for k in range(num_classes))
        self.unions = {name: tuple(classes) for name, classes in (unions or {}).items()}
        self.divisor = divisor
        self.main_head = main_head
        self.n_bins = check_n_bins(n_bins)
        self.train_means = EpochMeans()
        self._told_of_accumulation = False
        if isinstance(loss, Loss):
            loss.bind(num_classes)
        check_parts(loss, num_classes, spatial_dims)
        if self.scheduler is not None:  # made once in vain: what it refuses is refused here
            self._plan_steps(self.scheduler(self.optimizer(self.parameters())))

    # Forward -----------------------------------------------------------------------------------

    def heads(self, image: Tensor) -> list[Tensor]:
        """Return every head's logits ``(N, C, *S)`` for ``(N, M, *S)``, at the input's size."""
        chosen = self.training or tuple(image.shape[2:]) == self.patch_size
        least = 1 if chosen else 2  # a slice's size is nobody's choice
        padded, crop = pad_to_multiple(image, self.divisor, least=least)
        heads = split_heads(self.network(padded), spatial_dims=image.ndim - 2)
        return [_resize(head, padded.shape[2:])[crop] for head in heads]

    def forward(self, image: Tensor) -> Tensor:
        """Return the main head's logits ``(N, C, *S)`` for slices or patches ``(N, M, *S)``."""
        return self.heads(image)[self.main_head]

    def volume_logits(self, image: Tensor) -> Tensor:
        """Return float32 logits ``(N, C, *S)`` for whole volumes ``(N, M, *S)``."""
        return volume_logits(image, self.forward, self.inferer, mirror=self.mirror)

    def loss_terms(self, logits: Tensor, target: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Return the named, weighted addends of the loss, computed in float32 or wider."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            return part_terms(self.loss, logits, target, image)

    # Training ----------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch of slices or patches, and log its terms."""
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
        """Tell once, by a look before the device has it, that accumulation weighs batches alike.

        Lightning also hands over an example input, of a summary or a trace: no batch, and there may
        be no trainer.
        """
        if self._trainer is None or not isinstance(batch, dict):
            return batch
        several = self.trainer.accumulate_grad_batches
        if (
            several > 1 and self.trainer.training and not self._told_of_accumulation
            and bool((batch["label"] == IGNORE_INDEX).any())
        ):  # fmt: skip
            self._told_of_accumulation = True
            rank_zero_warn(
                f"Accumulation over {several} batches averages them alike, and this one has "
                "ignored voxels: the gradient is near that of one batch as large, not equal."
            )
        return batch

    def on_train_epoch_end(self) -> None:
        """Log the loss and its terms, as means over the epoch's samples on all ranks."""
        means = self.train_means.take(self.trainer)
        logged = {f"train/{name}": mean for name, mean in means.items()}
        self.log_dict(logged, sync_dist=True, reduce_fx="max")  # the same on every rank

    def _share(self, terms: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Weight this rank's terms so that their mean over ranks is that of the whole batch.

        Ranks may differ in labeled voxels, and a mean of means is not the mean. Only the terms
        that the loss declares as such means are weighted (:attr:`mbls.losses.Loss.voxel_means`).
        """
        means = self.loss.voxel_mean_terms() if isinstance(self.loss, Loss) else set()
        if not (means and dist.is_available() and dist.is_initialized()):
            return terms
        mine = (target != IGNORE_INDEX).sum()
        everywhere = mine.clone()
        dist.all_reduce(everywhere)
        share = mine * dist.get_world_size() / everywhere.clamp_min(1)
        return {
            name: term * share.to(term.dtype) if name in means else term
            for name, term in terms.items()
        }

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and where there is a scheduler when it steps."""
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
                    f"The scheduler's monitor {monitor} is a value of validation, and this run has "
                    "none. Let it validate: limit_val_batches > 0, and check_val_every_n_epoch no "
                    "more than the epochs; or take another scheduler."
                )
            every = self.trainer.check_val_every_n_epoch
            # validations by a number of steps fall in some epochs and not in others
            plan |= {"frequency": every or 1, "strict": every is not None}
        return {"optimizer": optimizer, "lr_scheduler": plan}

    def _plan_steps(self, scheduler: LRScheduler) -> dict[str, Any]:
        """Return when a scheduler steps and what it watches.

        Raises:
            ValueError: It watches a value of validation that there is not, or in the wrong
                direction, or wants one with every step.
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
                f"The scheduler watches {monitor}, of which {more} is better, with mode "
                f"{scheduler.mode}. State mode: {better[monitor]}; another value to watch is the "
                "monitor of lightning.pytorch.cli.ReduceLROnPlateau."
            )
        return plan | {"monitor": monitor}

    # Evaluation --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Make the metrics' states for the cases that the datamodule announces."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            self._refuse(callback, stage)
        data = datamodule_of(self.trainer)
        attached = getattr(self.trainer, "datamodule", None)
        if data is None and attached is not None:
            rank_zero_warn(
                f"{type(attached).__name__} lacks {', '.join(missing_from(attached))} of "
                "mbls.data.DataModule: its cases go by their numbers, one a patient."
            )
        if stage in ("fit", "validate"):
            self._plan_adapting(data)
        if data is None:
            return  # its cases are those of the loader, when there is one
        if stage in ("fit", "validate"):
            self._count_validation(len(data.cases("val")))
        if stage == "test":
            self._count_test(len(data.cases("test")))

    def on_validation_start(self) -> None:
        """Without a datamodule, make the states for the cases that the first loader has."""
        if datamodule_of(self.trainer) is None:
            self._count_validation(cases_of(self.trainer.val_dataloaders))

    def on_test_start(self) -> None:
        """Without a datamodule, make the states for the cases that the loader has."""
        if datamodule_of(self.trainer) is None:
            self._count_test(cases_of(self.trainer.test_dataloaders))

    def _count_validation(self, cases: int) -> None:
        settings: dict[str, Any] = {"num_classes": self.num_classes, "unions": self.unions}
        logged = {region for _, _, region in logged_metrics()}
        regions = tuple(region for region in REGIONS if region in logged)
        histogram = CalibrationHistogram(regions=regions, **settings)
        self.val_histogram = histogram.to(self.device)
        self.val_dice = DiceScore(num_cases=cases, **settings).to(self.device)

    def _count_test(self, cases: int) -> None:
        settings: dict[str, Any] = {"num_classes": self.num_classes, "unions": self.unions}
        self.test_fine = FineHistogram(**settings).to(self.device)
        settings["num_cases"] = cases
        self.test_histogram = CalibrationHistogram(regions=REGIONS, **settings).to(self.device)
        self.test_dice = DiceScore(**settings).to(self.device)
        self.test_hd95 = HausdorffDistance95(**settings).to(self.device)
        self.test_nsd = NormalizedSurfaceDice(**settings).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score one whole volume of the first loader; an adaptive loss observes those of the last.

        The last is the first, unless the datamodule holds cases out for such losses.
        """
        loss = self._adapting() if dataloader_idx == self.observed_loader else None
        validates = dataloader_idx == 0
        if not bool(batch["scored"].all()) or not (validates or loss):
            return
        logits = self.volume_logits(batch["image"])
        if validates:
            probs = torch.softmax(logits, dim=1, out=None if loss else logits)  # one map, if it can
            self._score(batch, probs, self.val_histogram, self.val_dice)
        if loss:
            with torch.autocast(logits.device.type, enabled=False):
                loss.observe(logits.to(batch["label"].device), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the validation's numbers, and let an adaptive loss adapt before checkpoints."""
        data = datamodule_of(self.trainer)
        scores = self.val_dice.compute()
        logged = self._log_scores("val", self.val_histogram, scores)
        patients = [str(k) for k in range(len(scores))] if data is None else data.patients("val")
        error = patient_error(scores[:, 1 : self.num_classes], patients)
        if logged[DICE].isnan() and not self.trainer.sanity_checking:
            names = ", ".join([*self.class_keys[1:], *self.unions])
            rank_zero_warn(
                f"No case of the validation has a voxel of any class ({names}), so there is no "
                "val/dice: by dice or compromise, the best epoch is that of the lowest val/nll, "
                "and a scheduler that watches val/dice sees no improvement. Put patients with "
                "structures into val."
            )
        same: dict[str, Any] = {"sync_dist": True, "reduce_fx": "max"}
        self.log("val/dice_se", error.to(self.device, torch.float32), **same)
        self.log("dice", logged[DICE], prog_bar=True, logger=False, **same)
        self.val_histogram.reset()
        self.val_dice.reset()
        if loss := self._adapting():
            loss.adapt()
            stands = loss.tracked(self.class_keys).items()
            self.log_dict({f"train/{name}": value.float() for name, value in stands}, **same)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """Score one whole volume into the per-case states, and return what was scored."""
        if not bool(batch["scored"].all()):
            return None
        logits = self.volume_logits(batch["image"])
        if self.grid == "native":
            batch, logits = self._native(batch, logits)
        probs = torch.softmax(logits, dim=1, out=logits)  # a second map of a CT would be 4 GB
        batch = cast(Batch, {**batch, "label": batch["label"].to(probs.device)})
        self._score(batch, probs, self.test_histogram, self.test_fine, self.test_dice)
        where = {"spacing": batch["spacing"], "index": batch["index"]}
        measured = self.test_hd95.measure(probs, batch["label"], **where)
        for metric in (self.test_hd95, self.test_nsd):
            metric.update(probs, batch["label"], measured=measured, **where)
        return {"batch": batch, "probs": probs}

    def on_test_epoch_end(self) -> None:
        """Log the test's numbers; what files are made of them is a callback's, before."""
        self._log_scores("test", self.test_histogram, self.test_dice.compute())
        others = (self.test_fine, self.test_dice, self.test_hd95, self.test_nsd)
        for metric in (self.test_histogram, *others):
            metric.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return logits ``(N, C, *S)`` on the cache's grid; the prediction writer restores them."""
        return self.volume_logits(batch["image"])

    # Checkpoints -------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say whose checkpoint this is, and keep what the epoch has summed up so far."""
        checkpoint["train_means"] = self.train_means.state(self.trainer)
        checkpoint["mbls"] = {
            "version": __version__,
            "num_classes": self.num_classes,
            "class_keys": list(self.class_keys),
            "inference": self.inference,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is not ours, or is of other classes or another network."""
        card = checkpoint.get("mbls")
        if not isinstance(card, dict):
            raise CheckpointError(
                f"The checkpoint was not written by mbls: it has no 'mbls' entry, only "
                f"{sorted(checkpoint)}. Give one from a run folder's checkpoints/."
            )
        if card.get("num_classes") != self.num_classes:
            raise CheckpointError(
                f"The checkpoint's network has {card.get('num_classes')} classes "
                f"{card.get('class_keys')}, the data {self.num_classes} {list(self.class_keys)}. "
                "Take the checkpoint of a run on this dataset."
            )
        if differing := _differing(checkpoint["state_dict"], self.state_dict()):
            raise CheckpointError(
                f"The checkpoint is of another network or loss: {len(differing)} weights differ in "
                f"name or shape, {differing[0]} the first. Take a checkpoint of this run."
            )
        changed = isinstance(self.inferer, SliceInferer) and self.inference != "whole slices"
        if changed and "inference" not in card:
            rank_zero_warn(
                "The checkpoint is of a version of mbls that showed a 2D network whole slices at "
                f"evaluation. Now it is shown {self.inference}, by the size of its training "
                "samples; --model.window whole gives the former numbers."
            )
        attached = self._trainer is not None  # not within load_from_checkpoint
        if attached and self.trainer.state.fn == "fit" and "train_means" in checkpoint:
            self.train_means.load(checkpoint["train_means"], self.trainer)

    # Private -----------------------------------------------------------------------------------

    def _plan_adapting(self, data: DataModule | None) -> None:
        """Set which cases an adaptive loss observes, and in which validation loader they are."""
        cases = "val" if data is None else data.adapt
        held_out = cases == "holdout"
        self.observed_loader = int(held_out)
        adapts = isinstance(self.loss, Loss) and self.loss.adaptive
        validates = not never_validates(self.trainer)
        self.adapts_on = cases if adapts and validates else None
        if adapts and not validates and self.trainer.state.fn == "fit":
            rank_zero_warn(
                f"{type(self.loss).__name__} adapts at the end of a validation, and this run has "
                "none: it trains as it starts. Let it validate: limit_val_batches > 0, and "
                "check_val_every_n_epoch no more than the epochs."
            )
        if data is not None and held_out and not adapts:
            rank_zero_warn(
                f"adapt is holdout, and {type(self.loss).__name__} does not adapt: "
                f"{len(data.cases('holdout'))} cases are held out of training, and nothing "
                "sees them."
            )

    def _adapting(self) -> Loss | None:
        """Return the loss where it adapts to this validation: in a fit, not in its sanity check."""
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking:
            return None
        return self.loss if isinstance(self.loss, Loss) and self.loss.adaptive else None

    def _refuse(self, callback: Any, stage: str) -> None:
        """Raise SettingError for a callback that would make a run wrong without a word."""
        name = type(callback).__name__
        searches = isinstance(callback, LearningRateFinder | BatchSizeFinder)
        if searches and (self.hparams or stage != "fit"):  # those of the command line
            raise SettingError(
                f"{name} changes a setting while a run is on: its config.yaml would not say so, a "
                "resumed run would search anew, and an evaluation takes one case a batch. Search "
                "with lightning.pytorch.tuner.Tuner in Python, and state what it finds: "
                "--model.optimizer.init_args.lr, --batch-size."
            )
        adapts = isinstance(self.loss, Loss) and self.loss.adaptive
        if adapts and isinstance(callback, WeightAveraging):
            raise SettingError(
                f"{name} swaps the state of {type(self.loss).__name__} with an average while it "
                "observes a validation, so it would adapt to nothing. Take a loss that does not "
                "adapt, or leave the callback out."
            )

    def _native(self, batch: Batch, logits: Tensor) -> tuple[Batch, Tensor]:
        """Return one case's truth and logits ``(1, C, *S)`` on the grid of its file."""
        data = datamodule_of(self.trainer)
        if data is None:
            raise SettingError(
                "grid native needs a datamodule that knows each case's file, and the trainer has "
                "dataloaders alone: leave out grid, or give a datamodule."
            )
        (case,) = batch["case"]
        restored, _ = data.restore(case, logits[0])
        truth = {name: value.to(logits.device) for name, value in data.truth(case).items()}
        scored = truth | {"case": batch["case"], "index": batch["index"]}  # and no image
        return cast(Batch, scored), restored[None]

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
        # every rank holds the same numbers; their maximum over ranks is that number to the last bit
        self.log_dict(shown, sync_dist=True, reduce_fx="max")
        return shown

    def _score(
        self,
        batch: Batch,
        probs: Tensor,
        histogram: CalibrationHistogram,
        *others: FineHistogram | DiceScore,
    ) -> None:
        shared = {"spacing": batch["spacing"], "index": batch["index"]}
        label, posterior = batch["label"].to(probs.device), batch.get("posterior")
        if posterior is not None:
            posterior = posterior.to(probs.device)
        with torch.autocast(probs.device.type, enabled=False):
            histogram.update(probs, label, posterior=posterior, **shared)
            for metric in others:
                metric.update(probs, label, **shared)


def never_validates(trainer: Trainer) -> bool:
    """Whether a fit's settings leave no room for a validation."""
    every, last = trainer.check_val_every_n_epoch, trainer.max_epochs
    too_late = every is not None and last is not None and 0 <= last < every
    return trainer.limit_val_batches == 0 or too_late


def patient_error(scores: Tensor, patients: Sequence[str]) -> Tensor:
    """Return the standard error over patients of the mean of ``(cases, classes)``.

    The cases of a patient are averaged first; what is NaN is left out. It is 0 for one patient, and
    NaN where all are left out.
    """
    means = scores.nanmean(dim=1)
    rows = [torch.tensor([p == one for p in patients]) for one in sorted(set(patients))]
    each = torch.stack([means[row.to(means.device)].nanmean() for row in rows])
    each = each[~each.isnan()]
    if not len(each):
        return means.new_full((), torch.nan)
    return each.std() / len(each) ** 0.5 if len(each) > 1 else means.new_zeros(())


def _differing(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights that only one side has, or that differ in shape."""
    names = list(dict.fromkeys([*wanted, *found]))
    return [
        name for name in names
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    ]  # fmt: skip


def _resize(head: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a coarser head ``(N, C, *s)`` to the input's size ``S``, linearly."""
    if tuple(head.shape[2:]) == tuple(size):
        return head
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(head, size=tuple(size), mode=mode, align_corners=False)
