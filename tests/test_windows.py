"""A 2D run whose slices are larger than its samples: windows, and runs of earlier versions."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mbls.cli import main
from tests import few, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a trained run: samples of 16 x 32, slices of 19 to 26 by 24 voxels."""
    folder = tmp_path_factory.mktemp("windows")
    assert main(["train", *few.acdc_args(folder, patch_size=[16, 32], crop="random")]) == 0
    return tiny.run_folder(folder)


def results(run: Path, tag: str) -> dict[str, Any]:
    return json.loads((run / "test" / tag / "metrics.json").read_text())


def test_inference_of_a_run_is_recorded(run: Path) -> None:
    assert json.loads((run / "run.json").read_text())["inference"] == "windows of 16 x 32"
    assert results(run, "best")["meta"]["inference"] == "windows of 16 x 32"
    middle = ["--tag", "middle", "--data.init_args.sampling.crop", "center"]
    assert main(["evaluate", str(run), *middle]) == 0
    assert results(run, "middle")["meta"]["inference"] == "whole slices, at least 16 x 32"


def test_run_of_an_earlier_version_is_evaluated_on_windows_with_a_warning(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its configuration nor its checkpoints state how volumes are cut."""
    config, checkpoint = run / "config.yaml", run / "checkpoints" / "best.ckpt"
    settings = yaml.safe_load(config.read_text())
    assert settings["model"].pop("window") is None
    config.write_text(yaml.safe_dump(settings))
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["mbls"].pop("inference") == "windows of 16 x 32"
    earlier = run / "checkpoints" / "earlier.ckpt"
    torch.save(kept, earlier)
    with pytest.warns(UserWarning, match="windows of 16 x 32.*--model.window whole"):
        assert main(["evaluate", str(run), "--ckpt", str(earlier)]) == 0
    assert results(run, "earlier")["dice"] == results(run, "best")["dice"]
    args = ["--ckpt", str(earlier), "--tag", "whole", "--model.window", "whole"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The checkpoint was written")
        assert main(["evaluate", str(run), *args]) == 0
    assert "whole slices" in " ".join(capsys.readouterr().out.split())
    assert results(run, "whole")["meta"]["inference"] == "whole slices"
    assert results(run, "whole")["dice"] != results(run, "best")["dice"]
