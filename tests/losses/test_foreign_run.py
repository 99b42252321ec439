"""Runs with losses of others from YAML, on rotated slices that are smaller than the patch."""

from pathlib import Path

import pytest
import yaml

from tests import few, tiny
from tests.docs_blocks import ROOT, blocks

PAGE = [b.code for b in blocks(ROOT / "docs/own-loss.md") if b.language == "yaml"]
(DOCUMENTED,) = (code for code in PAGE if "monai" in code)
(WEIGHTED,) = (code for code in PAGE if "weight:" in code)
BASE = """
model:
  loss:
    class_path: mbls.losses.MarginLoss
    init_args:
      base:
        class_path: monai.losses.DiceCELoss
        init_args: {softmax: true, to_onehot_y: true, weight: [0.2, 1, 1, 2]}
"""
LOSSES = {"documented": DOCUMENTED, "documented, weighted": WEIGHTED, "weighted base": BASE}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Slices of 19 to 26 by 24 voxels, patches of 32."""
    return few.acdc_args(tmp_path_factory.mktemp("data"), patch_size=[32, 32])


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_of_the_default_preset(name: str, words: list[str], tmp_path: Path) -> None:
    given = list(words)
    given[given.index("--loss") + 1] = str(tmp_path / "own.yaml")
    given[given.index("--run.root") + 1] = str(tmp_path / "runs")
    (tmp_path / "own.yaml").write_text(LOSSES[name])
    assert tiny.fit(*given) == 0
    (config,) = tmp_path.rglob("config.yaml")
    kept = yaml.safe_load(config.read_text())["model"]["loss"]
    assert kept["class_path"] == yaml.safe_load(LOSSES[name])["model"]["loss"]["class_path"]
    if name == "weighted base":
        assert kept["init_args"]["base"]["init_args"]["weight"] == [0.2, 1.0, 1.0, 2.0]


def test_a_loss_that_takes_no_labels_is_refused(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = list(words)
    given[given.index("--loss") + 1] = str(tmp_path / "own.yaml")
    given[given.index("--run.root") + 1] = str(tmp_path / "runs")
    (tmp_path / "own.yaml").write_text("model: {loss: {class_path: torch.nn.MSELoss}}")
    assert tiny.fit(*given) != 0
    printed = capfd.readouterr()
    assert "MSELoss must take raw scores" in " ".join((printed.err + printed.out).split())
    assert "Traceback" not in printed.err
    assert not (tmp_path / "runs").exists()
