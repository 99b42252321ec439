"""Adaptive losses in a run: what moves them, what is logged, and that a stop changes nothing."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from mbls.loggers.metrics_csv import read_rows
from mbls.losses import AdaptiveLoss
from mbls.module import SegmentationModule
from mbls.plots import multipliers_figure
from mbls.plots.multipliers import multiplier_lines
from mbls.runtime.errors import ChoiceError
from tests import processes, tiny
from tests.blobs import BlobDataModule

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 3
KEYS = ("background", "ring", "core")
SETTINGS: dict[str, Any] = {"train": 20, "batch_size": 4}  # five steps an epoch
LOSSES = {
    "cals": ("--model.loss.init_args.margin=0.1", "--model.loss.init_args.rho_step=2"),
    "crac": ("--model.loss.init_args.rho_step=2",),
    "cals_hr": ("--model.loss.init_args.margin=0.1", "--model.loss.init_args.tau=1.0"),
    "adafocal": (),
}


def words(folder: Path, loss: str, *more: str) -> list[str]:
    found = tiny.train_args(folder, epochs=EPOCHS, **SETTINGS)
    found[found.index("--loss") + 1] = loss
    return [*found, *LOSSES[loss], *more]


def run_folder(folder: Path, loss: str) -> Path:
    return folder / "runs" / "blobs" / f"tiny-{loss}" / "seed0"


def state(run: Path, name: str) -> dict[str, torch.Tensor]:
    """The loss's buffers in a checkpoint, read without running any code from it."""
    weights = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return {key: value for key, value in weights.items() if key.startswith("loss.")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the runs that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    for loss in LOSSES:
        assert tiny.fit(*words(folder, loss)) == 0
    return {loss: run_folder(folder, loss) for loss in LOSSES}


@pytest.mark.parametrize("loss", LOSSES)
def test_multipliers_move_and_live_in_the_checkpoint(loss: str, whole: dict[str, Path]) -> None:
    last = state(whole[loss], "last")
    key = "loss.gammas" if loss == "adafocal" else "loss.multipliers"
    assert last[key].dtype == torch.float64
    assert json.loads((whole[loss] / "run.json").read_text())["adapts_on"] == "val"
    start = {"cals": 1e-6, "crac": 1e-6, "cals_hr": 0.1, "adafocal": 1.0}[loss]
    assert (last[key] != start).any()
    if loss != "adafocal":
        assert last["loss.epochs"] == EPOCHS  # the sanity check has not counted


@pytest.mark.parametrize(
    ("loss", "when"),
    [
        ("cals", "mid-epoch"),
        ("crac", "validation"),
        pytest.param("cals", "validation", marks=pytest.mark.slow),
        pytest.param("crac", "mid-epoch", marks=pytest.mark.slow),
        pytest.param("cals_hr", "mid-epoch", marks=pytest.mark.slow),
        ("adafocal", "mid-epoch"),
    ],
)
def test_a_stopped_run_ends_with_the_same_multipliers(
    loss: str, when: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    at = {"epoch": 1, "batch": 2} if when == "mid-epoch" else {"epoch": 1, "batch": 0}
    more = {"validation": "true"} if when == "validation" else {}
    stop = tiny.callback("Interrupt", **at, **more)
    assert tiny.fit(*words(tmp_path, loss), *stop) == 130
    run = run_folder(tmp_path, loss)
    assert tiny.resume(run) == 0
    for name in ("last", "best"):
        ours, theirs = state(run, name), state(whole[loss], name)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), (name, key)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_multipliers(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    """SIGKILL in the last epoch: the run resumes from the end of the one before."""
    stop = tiny.callback("Interrupt", epoch=2, batch=1, number=int(signal.SIGKILL))
    assert processes.mbls("train", *words(tmp_path, "cals"), *stop).code == -signal.SIGKILL
    run = run_folder(tmp_path, "cals")
    assert state(run, "last")["loss.epochs"] == 2
    assert tiny.resume(run) == 0
    for key, value in state(whole["cals"], "last").items():
        assert torch.equal(state(run, "last")[key], value), key


class Witness(AdaptiveLoss):
    """An adaptive loss that remembers the labels it observed, and how often it adapted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.adapted = 0

    def terms(self, logits, target):
        return {"ce": torch.nn.functional.cross_entropy(logits, target)}

    def observe(self, logits, target) -> None:
        self.seen.append(target)

    def adapt(self) -> None:
        self.adapted += 1


@pytest.mark.parametrize("adapt", ["val", "holdout"])
def test_what_a_loss_observes(adapt: str) -> None:
    """The volumes of the validation, or in their place those held out; the score is val's."""
    loss, data = Witness(), BlobDataModule(adapt=adapt, val=2, holdout=3)
    built = SegmentationModule(torch.nn.Conv2d(1, 3, 1), loss, num_classes=3)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet)
    trainer.fit(built, datamodule=data)
    wanted = [batch["label"] for batch in data.val_dataloader()[-1]]
    assert len(wanted) == {"val": 2, "holdout": 3}[adapt]
    assert all(torch.equal(a, b) for a, b in zip(loss.seen, wanted, strict=True))
    assert loss.adapted == 1
    scored = trainer.callback_metrics["val/dice"]
    data.adapt = "val"
    (again,) = trainer.validate(built, data, verbose=False)
    assert again["val/dice"] == scored
    assert len(loss.seen) == len(wanted)


HELD_OUT = ("--data.init_args.adapt", "holdout", "--data.init_args.holdout", "3")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """As many as a process that tiny starts has: a network's last digits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("loss", ["cals", "crac"])
def test_two_ranks_set_the_multipliers_of_one(loss: str, tmp_path: Path) -> None:
    """With weights that stand still; three cases held out, so that one pads a rank."""
    at_rest = ("--model.optimizer.init_args.lr", "0")
    assert tiny.fit(*words(tmp_path / "alone", loss, *HELD_OUT), *at_rest) == 0
    card = json.loads((run_folder(tmp_path / "alone", loss) / "run.json").read_text())
    assert (card["adapts_on"], card["cases"]["holdout"]) == ("holdout", 3)
    both = words(tmp_path / "two", loss, *HELD_OUT)
    done = processes.mbls("train", *both, *at_rest, "--devices", "2", limit=300)
    assert done.code == 0, done.err
    one, two = (state(run_folder(tmp_path / name, loss), "last") for name in ("alone", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-12, atol=0, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cals", "crac"])
def test_a_stop_while_a_holdout_is_observed_changes_nothing(
    loss: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    assert tiny.fit(*words(tmp_path / "whole", loss, *HELD_OUT)) == 0
    stop = tiny.callback("Interrupt", epoch=1, batch=0, validation="true")
    assert tiny.fit(*words(tmp_path / "stopped", loss, *HELD_OUT), *stop) == 130
    run = run_folder(tmp_path / "stopped", loss)
    assert tiny.resume(run) == 0
    ours = state(run, "last")
    for key, value in state(run_folder(tmp_path / "whole", loss), "last").items():
        assert torch.equal(ours[key], value), key
    assert not torch.equal(ours["loss.multipliers"], state(whole[loss], "last")["loss.multipliers"])


def test_run_json_names_what_the_loss_adapts_on(tmp_path: Path) -> None:
    assert tiny.fit(*words(tmp_path, "cals", *HELD_OUT), "--epochs", "1") == 0
    card = json.loads((run_folder(tmp_path, "cals") / "run.json").read_text())
    assert (card["adapts_on"], card["cases"]["holdout"]) == ("holdout", 3)


@pytest.mark.parametrize("never", [("limit_val_batches", "0"), ("check_val_every_n_epoch", "2")])
def test_a_loss_that_will_never_adapt_warns(never: tuple[str, str], tmp_path: Path) -> None:
    setting = (f"--trainer.{never[0]}", never[1], "--epochs", "1")
    with pytest.warns(UserWarning, match=r"ClassAdaptiveMarginLoss adapts after each valid"):
        assert tiny.fit(*words(tmp_path, "cals"), *setting) == 0
    card = json.loads((run_folder(tmp_path, "cals") / "run.json").read_text())
    assert card["adapts_on"] is None


def test_a_loss_that_does_not_adapt_warns_of_held_out_cases_and_has_no_figure(
    tmp_path: Path,
) -> None:
    held_out = [*tiny.train_args(tmp_path, epochs=1), *HELD_OUT]
    with pytest.warns(UserWarning, match=r"MarginLoss does not adapt: 3 cases are held out of"):
        assert tiny.fit(*held_out) == 0
    card = json.loads((tiny.run_folder(tmp_path) / "run.json").read_text())
    assert (card["adapts_on"], card["cases"]["holdout"]) == (None, 3)
    assert (tiny.run_folder(tmp_path) / "metrics.csv").is_file()
    assert not (tiny.run_folder(tmp_path) / "multipliers.png").exists()
    with pytest.raises(ValueError, match=r"must have a column train/<lambda\|rho\|gamma>/<name>"):
        multipliers_figure([], meta={})
    with pytest.raises(ChoiceError, match="leave out --adapt"):
        tiny.fit("--run", str(tiny.run_folder(tmp_path)), "--resume", "--adapt", "val")


@pytest.mark.parametrize("loss", LOSSES)
def test_multipliers_are_logged_and_drawn(loss: str, whole: dict[str, Path]) -> None:
    """The row of an epoch has what its validation set, the last one what the checkpoint holds."""
    rows, last = read_rows(whole[loss] / "metrics.csv"), state(whole[loss], "last")
    logged = [{key: value for key, value in row.items() if "train/" in key} for row in rows]
    if loss == "adafocal":
        wanted = {f"train/gamma/{b:02d}": v for b, v in enumerate(last["loss.gammas"], start=1)}
    else:
        ends = ("/boundary", "/inner") if loss == "crac" else ("",)
        places = [(r, k, f"{key}{end}") for k, key in enumerate(KEYS) for r, end in enumerate(ends)]
        wanted = {f"train/lambda/{name}": last["loss.multipliers"][r, k] for r, k, name in places}
        if loss != "cals_hr":
            weights = last["loss.weights"]
            wanted |= {f"train/rho/{name}": weights[r, k] for r, k, name in places}
    assert len(logged) == EPOCHS
    for key, value in wanted.items():
        assert all(key in row for row in logged), key
        assert float(logged[-1][key]) == pytest.approx(float(value), rel=1e-6), key
    assert (whole[loss] / "multipliers.png").stat().st_size > 10_000
    lines = multiplier_lines(rows)
    assert sum(len(kind) for kind in lines.values()) == len(wanted)
    assert all(len(points) == EPOCHS for kind in lines.values() for points in kind.values())
