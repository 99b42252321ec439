"""``DECIDE=argmax``, ``dice`` and ``threshold``, and words that are none of these."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.cli import main
from mbls.commands.evaluate import decided_settings, tag_of
from mbls.config.decide import decided, named_decision
from mbls.decisions import OptimalDice
from mbls.evaluation import TestRun
from mbls.report.build import build_report
from mbls.runtime.errors import DecisionError
from tests import few
from tests.decisions.test_decided_runs import probabilities

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short 2D run on a fake ACDC download, tested by argmax and as Dice-optimal masks."""
    folder = tmp_path_factory.mktemp("acdc")
    assert main(["train", *few.acdc_args(folder)]) == 0
    (found,) = (folder / "runs").glob("*/*/seed*")
    assert main(["evaluate", str(found), "--decide", "dice"]) == 0
    return found


def test_dice_optimal_masks_have_a_test_and_a_row_of_their_own(run: Path, tmp_path: Path) -> None:
    before, after = (
        TestRun.load(run / f"test/{tag}/bins.npz") for tag in ("best", "best+optimal-dice")
    )
    assert np.array_equal(before.bins.cells, after.bins.cells)
    assert not np.array_equal(before.dice, after.dice)
    assert after.meta["decision"] == "optimal-dice"
    (analysis,) = build_report([run], tmp_path / "report", draws=100)
    assert {arm.name for arm in analysis.group.arms} == {"mbls", "mbls@optimal-dice"}


def test_predictions_are_dice_optimal_masks(run: Path, tmp_path: Path) -> None:
    probs, label = probabilities(run, tmp_path / "out", "--decide", "dice")
    expected = OptimalDice().label_map(torch.from_numpy(np.ascontiguousarray(probs))[None])[0]
    assert np.array_equal(label, expected)
    assert not np.array_equal(label, probs.argmax(0))
    again, plain = probabilities(run, tmp_path / "plain", "--decide", "argmax")
    assert np.array_equal(again, probs)
    assert np.array_equal(plain, probs.argmax(0))


def test_threshold_is_the_file_of_the_run(
    run: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    message = refusal("evaluate", str(run), "--decide", "threshold")
    assert f"needs {run}/decisions/dice.json, which is not there" in message
    assert "make thresholds RUN=..." in message
    assert main(["thresholds", str(run)]) == 0
    assert main(["evaluate", str(run), "--decide", "threshold"]) == 0
    assert TestRun.load(run / "test/best+dice/bins.npz").meta["decision"] == "dice"
    _, label = probabilities(run, tmp_path / "word", "--decide", "threshold")
    file = str(run / "decisions/dice.json")
    assert np.array_equal(label, probabilities(run, tmp_path / "file", "--decide", file)[1])


def test_threshold_is_that_of_the_same_probabilities(tmp_path: Path) -> None:
    folder = tmp_path / "decisions" / "best-native+vector"
    folder.mkdir(parents=True)
    (folder / "dice.json").touch()
    given = [
        ("post_hoc.calibrator", "c/vector.json"),
        ("model.grid", "native"),
        ("data.init_args.division.external", "true"),
        ("model.n_bins", "10"),
        ("corrupt.image", "noise:2"),
        ("post_hoc.decide", "threshold"),
    ]
    found = decided_settings(given, tmp_path, "best", {})
    assert found == [*given[:-1], ("post_hoc.decide", str(folder / "dice.json"))]
    assert tag_of("best", found, {}) == "best-external-native-10bins~noise-2+vector+dice"


def test_words() -> None:
    folder = Path("nowhere")
    assert decided([("post_hoc.decide", "argmax"), ("a", None)], folder) == [("a", None)]
    (found,) = decided([("post_hoc.decide", "dice")], folder)
    assert found == ("post_hoc.decide", "optimal-dice")
    assert tag_of("best", [found], {}) == "best+optimal-dice"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tresholds", r"must be argmax, dice, threshold or .* Did you mean 'threshold'\?"),
        ("Dice", "Did you mean 'dice'"),
        ("runs/x/dice.json", r"names the file runs/x/dice.json, which is not there"),
    ],
)
def test_other_words_are_refused(value: str, message: str) -> None:
    with pytest.raises(DecisionError, match=message):
        named_decision(value)
