"""The benchmarks run at the smallest sizes, and compare equal numbers."""

from pathlib import Path

import pytest
import torch

from experiments.benchmarks import audit, data, ddp, evaluation, metrics, posthoc, shared, steps


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"stack": "20,24,3", "slice": "16,16", "volume": "20,22,18", "patch": "8,8,8"}
    args = [f"--{name}={size}" for name, size in sizes.items()]
    data.main([*args, "--cases=2,3", "--rounds=1", "--no-memory"])
    shown = capsys.readouterr().out
    assert "our cache" in shown
    assert "MONAI CacheDataset" in shown


@pytest.mark.parametrize("form", audit.FORMATS)
def test_audit(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit.write_case(tmp_path, (12, 10, 8), 3, form)
    found = audit.work("audit", tmp_path, "czyx" if form == "npz" else "xyzc")
    assert found["seconds"] > 0
    source = audit.open_predictions(tmp_path / "maps", labels=tmp_path / "labels")
    case = source.read(audit.CASE)
    assert case.probs.shape == (3, 12, 10, 8)
    assert (case.probs.argmax(0) == case.label).all()  # confidences are above a half


def test_steps() -> None:
    found = steps.measure(steps.Case("acdc", "unet", (1, 1, 32, 32), 4), ["mbls", "crac"], 2)
    assert list(found) == ["mbls", "crac"]
    assert all(0 <= loss < whole for pairs in found.values() for whole, loss in pairs)
    assert all(len(pairs) == 2 for pairs in found.values())


def test_ours_and_the_published_way_agree() -> None:
    case = evaluation.make_volume((40, 44, 12), 4)
    theirs = evaluation.published(*case)
    assert 0 < theirs["ece"] < 1
    for way in (evaluation.ours, evaluation.ours_in_three_regions):
        evaluation.check_same(way(*case), theirs)
    with pytest.raises(AssertionError, match="differ"):
        evaluation.check_same(theirs | {"ece": theirs["ece"] + 0.001}, theirs)


def test_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    evaluation.main(["--shape", "20,24,4", "--rounds", "1"])
    torch.set_num_threads(threads)
    assert "published" in capsys.readouterr().out


def test_posthoc(tmp_path: Path) -> None:
    pytest.importorskip("fiducio")
    posthoc.write_cases(tmp_path, cases=2, size=12, classes=3)
    found = [fit(tmp_path) for fit in (posthoc.by_mbls, posthoc.by_fiducio, posthoc.by_torch)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-3)
    assert found[0] == pytest.approx(1.4, rel=0.1)


def test_distances() -> None:
    organs = metrics.make_organs((20, 24, 12), 5)
    assert organs.unique().tolist() == [0, 1, 2, 3, 4]
    found = metrics.distance_times(1, (12, 10, 6), 3)
    assert all(seconds > 0 for seconds in found.values())


def test_shared(capsys: pytest.CaptureFixture[str]) -> None:
    shared.main(["--only=count", "--busy=0,1", "--rounds=1", "--counts=1", "--voxels=60000"])
    shown = capsys.readouterr().out
    assert "1 busy" in shown
    assert "(1.00)" in shown


@pytest.mark.slow
def test_shared_training(tmp_path: Path) -> None:
    variant = shared.Variant("new", shared.HERE, {"OMP_NUM_THREADS": "1"})
    assert shared.training(variant, tmp_path, 1) > 0
    with pytest.raises(RuntimeError, match="mbls train failed"):
        shared.training(variant, tmp_path, -1)


@pytest.mark.slow
@pytest.mark.ddp
def test_ddp(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--case=acdc,2,4", "--rounds=1", "--epochs=2", "--batches=2"]
    ddp.main([*sizes, "--data.init_args.sampling.patch_size=[32,32]"])
    shown = capsys.readouterr().out
    assert shown.startswith("acdc 2D, batch 4, samples a second: 1 process ")
    assert "relative to unrelated" in shown
