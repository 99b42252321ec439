"""Write the results of a test to ``test/<tag>/`` of the run folder, and print a table."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor

from mbls.callbacks.corrupt import Corrupt
from mbls.callbacks.run_folder import folder_callback
from mbls.data import datamodule_of, derived_in
from mbls.evaluation import results_table, summary_table, write_results
from mbls.metrics import dice_scores
from mbls.metrics.confidence_sums import case_mean
from mbls.module import SegmentationModule
from mbls.plots import save_figure, worst_figure
from mbls.plots.worst_cases import Picture, WorstPictures, save_pictures, worst_of
from mbls.runtime.files import replace_files, writing
from mbls.runtime.locks import locked_folder
from mbls.runtime.rank_zero import on_rank_zero

__all__ = ["TestResults"]

PATIENCE = 600.0  # seconds to wait for another test that writes to the same folder


class TestResults(Callback):
    """Write ``metrics.json``, ``cases.csv``, ``bins.npz``, pictures of cases and the figures.

    ``worst.npz`` has a slice of the cases with the lowest Dice, ``unsure.npz`` of those with the
    lowest confidence.

    The integer states are summed over ranks once; rank 0 writes and prints.

    Args:
        show: If True, print the main results and the paths of the files.
        verbose: If True, print all results.
        pictures: Number of cases, from the lowest Dice and from the lowest confidence, of which a
            slice is saved; 0 for none.
        figures: If False, no figure is drawn, and those of an earlier test are removed.
    """

    __test__ = False  # not a test class of pytest

    def __init__(
        self,
        *,
        show: bool = True,
        verbose: bool = False,
        pictures: int = 4,
        figures: bool = True,
    ) -> None:
        if pictures < 0:
            raise ValueError(f"pictures must be >= 0, got {pictures}.")
        self.show, self.verbose, self.pictures, self.figures = show, verbose, pictures, figures
        self._metrics: dict[str, Any] | None = None
        self._clear()

    def _clear(self) -> None:
        self._worst = WorstPictures(self.pictures)
        self._unsure = WorstPictures(self.pictures, by="soft_dice")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the pictures of an earlier test."""
        self._clear()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a picture of a case if it is among the worst or the least confident so far."""
        if outputs is None or not self.pictures:
            return
        assert isinstance(pl_module, SegmentationModule)
        scored, metrics = outputs["batch"], pl_module.test_metrics
        number, classes = int(scored["index"][0]), pl_module.num_classes
        scores = dice_scores(metrics.dice.counts[number].cpu().numpy())
        confidence = metrics.confidence.sums(number).soft_dice()[0]
        dice, soft = (float(case_mean(each[None], classes)[0]) for each in (scores, confidence))
        for kept in (self._worst, self._unsure):
            kept.update(scored, outputs["probs"], dice, outputs.get("classes"), soft)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results, before the module resets its metrics."""
        assert isinstance(pl_module, SegmentationModule)
        metrics = pl_module.test_metrics
        data = datamodule_of(trainer)
        numbers = [str(k) for k in range(len(metrics.hd95.scored))]
        cases = numbers if data is None else data.cases("test")
        patients = numbers if data is None else data.patients("test")
        self._metrics = None
        ranks = range(trainer.world_size)
        worst, unsure = (
            worst_of(
                [p for r in ranks for p in trainer.strategy.broadcast(own.kept, r)],
                self.pictures,
                by=own.by,
            )
            for own in (self._worst, self._unsure)
        )
        with ExitStack() as synced:
            for metric in metrics.metrics():
                synced.enter_context(metric.sync_context())

            def write() -> None:
                if self._complete(metrics.hd95.scored):
                    with self._staging_folder(trainer) as folder:
                        meta = self._meta(trainer, pl_module)
                        run = metrics.run(cases=cases, patients=patients, meta=meta)
                        self._metrics = write_results(folder, run, figures=self.figures)
                        self._write_pictures(folder, worst, unsure)

            on_rank_zero(trainer, write)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the results after the progress bar has closed."""
        if stage == "test" and self.show and self._metrics is not None:
            console = Console()
            console.print((results_table if self.verbose else summary_table)(self._metrics))
            folder = self._folder(trainer)
            lines = [f"Run folder: {folder_callback(trainer).path}", f"Results:    {folder}"]
            if not self.verbose:
                rest = "all numbers in metrics.json, each case in cases.csv"
                lines += [f"            {rest}; --verbose (VERBOSE=1) prints more"]
            for line in lines:
                console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _write_pictures(self, folder: Path, worst: list[Picture], unsure: list[Picture]) -> None:
        if not self.figures:
            for earlier in (*folder.parent.glob("*.png"), *folder.parent.glob("*.pdf")):
                earlier.unlink()
        for name, pictures in (("worst", worst), ("unsure", unsure)):
            if pictures:
                save_pictures(folder / f"{name}.npz", pictures)
            else:
                for earlier in folder.parent.glob(f"{name}.*"):  # files of an earlier test
                    earlier.unlink()
        if worst and self.figures and self._metrics is not None:
            save_figure(worst_figure(worst, meta=self._metrics["meta"]), folder / "worst")

    def _complete(self, scored: Tensor) -> bool:
        """Return True if every case was scored; results of a partial test are not written."""
        done = int((scored > 0).sum())
        if done < len(scored):
            rank_zero_warn(
                f"{done} of {len(scored)} test cases were scored, so no results are written. Leave "
                "out --trainer.limit_test_batches and fast_dev_run for a test."
            )
        return done == len(scored)

    @contextmanager
    def _staging_folder(self, trainer: Trainer) -> Iterator[Path]:
        """Yield a temporary folder whose files are moved to the results' folder at the end.

        It waits for another test that is writing to the same folder.
        """
        folder = self._folder(trainer)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with (
            locked_folder(folder, patience=PATIENCE),
            writing(folder),
            replace_files(folder, mark="metrics.json") as incoming,
        ):
            yield incoming

    def _folder(self, trainer: Trainer) -> Path:
        run = folder_callback(trainer)
        return run.path / "test" / run.tag

    def _meta(self, trainer: Trainer, pl_module: SegmentationModule) -> dict[str, Any]:
        data, run = datamodule_of(trainer), folder_callback(trainer)
        return {
            "dataset": run.dataset,
            "network": run.network,
            "loss": run.loss,
            "seed": run.seed,
            "origin": "real" if data is None else data.origin,
            "data_fingerprint": None if data is None else data.fingerprint,
            "class_names": list(pl_module.class_keys if data is None else data.class_names),
            "class_keys": list(pl_module.class_keys),
            "tag": run.tag,
            "grid": pl_module.grid,
            "mirror": list(pl_module.mirror),
            "inference": pl_module.inference,
            "precision": str(trainer.precision),
            "n_bins": pl_module.n_bins,
            **_post_hoc(pl_module),
            **_corruption(trainer),
            **derived_in(data, "test"),
        }


def _corruption(trainer: Trainer) -> dict[str, Any]:
    """Return how the images were corrupted, if they were."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Corrupt) and callback.corrupted is not None:
            return callback.corrupted.meta()
    return {}


def _post_hoc(module: SegmentationModule) -> dict[str, Any]:
    """Return the predictor, and calibrator, decision and number of networks if not plain."""
    state = module.post_hoc
    networks = 1 + len(state.members)
    return {
        **({} if state.predictor is None else {"predictor": state.predictor}),
        **({} if state.probabilities is None else {"probabilities": state.probabilities}),
        **({} if state.calibrator is None else {"calibrator": state.calibrator.method}),
        **({} if networks == 1 else {"networks": networks}),
        **({} if state.decision is None else {"decision": state.decision.name}),
    }
