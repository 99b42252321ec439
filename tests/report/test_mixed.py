"""Reports over mixed runs: sweeps, reruns, other settings, other data."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbls.benchmark import make_cells, parse_losses
from mbls.commands import benchmark
from mbls.report import build
from mbls.report.analysis import Analysis
from mbls.report.stats import difference
from mbls.runtime.errors import ReportError
from tests.report import fake
from tests.report.fake import DRAWS, analysis_of, group_of, grouped, write_run

pytestmark = pytest.mark.usefixtures("no_report_figures")


def report(root: Path, **options: str) -> list[Analysis]:
    return build.build_report([root], root / "report", draws=DRAWS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("losses", "reference"),
    [
        ("mbls:margin=3 mbls:margin=5 mbls:margin=10,alpha=0.3", "mbls:margin=3,alpha=0.1"),
        ("mbls mbls:margin=3", "mbls:margin=10"),
        ("mbls:margin=3 ce", "mbls:margin=3"),
    ],
)
def test_a_sweep_ends_in_a_report_against_its_first_loss(
    losses: str, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--dataset", "acdc"]
    cells = make_cells(parse_losses(losses), [0], train_args=args, root=tmp_path)
    for cell in cells:
        settings = {"margin": 10.0} if cell.loss.name == "mbls" else {}
        settings |= {key: float(value) for key, value in cell.loss.settings}
        write_run(tmp_path / "acdc", cell.loss.label, cell.seed, settings=settings, patients=2)
        (cell.folder / "test/best/reliability.png").touch()
    benchmark.report(cells)
    text = (tmp_path / "acdc/report/table.md").read_text()
    assert f"difference from {reference}\n" in text


def test_a_group_without_the_reference_is_reported_without_it(tmp_path: Path) -> None:
    for loss in ("ce", "mbls"):
        write_run(tmp_path, loss)
        write_run(tmp_path / "other", loss if loss == "mbls" else "ls", card={"fold": 1})
    found = report(tmp_path, reference="ce")
    assert {a.group.facts["fold"]: a.reference for a in found} == {None: "ce", 1: None}
    with pytest.raises(ReportError, match=r"one loss of the runs, .*'ls', .*got 'cee'"):
        report(tmp_path, reference="cee")


def test_runs_on_one_patient_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "ce")
    lone = write_run(tmp_path, "mbls", patients=1)
    assert len(report(tmp_path)) == 1
    page = (tmp_path / "report/report.html").read_text()
    assert f"<code>{lone}</code>: tested on one patient" in page
    with pytest.raises(ReportError, match="tested on one patient"):
        report(lone)


def arms(root: Path) -> dict[str, list[int]]:
    return {arm.name: arm.seeds for arm in group_of(root).arms}


def test_a_loss_without_a_base_is_not_one_with_it(tmp_path: Path) -> None:
    base = {"class_path": "my.Dice", "init_args": {"squared": True}}
    for seed in range(2):
        write_run(tmp_path, "mbls", seed, settings={"base": None})
        write_run(tmp_path, "mbls,base=dice", seed, settings={"base": base})
    assert arms(tmp_path) == {
        "mbls:base=None": [0, 1],
        "mbls:base=dice,class_path=my.Dice,squared=True": [0, 1],
    }


def test_a_seed_counts_once(tmp_path: Path) -> None:
    """A run of a version whose configurations had a key less, and its rerun."""
    old = write_run(tmp_path / "a", "ce", 0)
    write_run(tmp_path / "b", "ce", 0, settings={"new": 1})
    write_run(tmp_path / "b", "ce", 1, settings={"new": 1})
    (group,), left_out = grouped(tmp_path)
    assert [arm.seeds for arm in group.arms] == [[0, 1]]
    assert [(one.folder, "same seed as" in one.reason) for one in left_out] == [(old, True)]


def test_callbacks_and_folds_are_settings(tmp_path: Path) -> None:
    shown = {"class_path": "mbls.callbacks.ProgressBar"}
    average = {"class_path": "my.WeightAverage"}
    for seed in range(2):
        for place, added in (("a", []), ("b", [shown]), ("c", [shown, average])):
            trainer = {"max_epochs": 3, "devices": 1, "callbacks": added}
            if place != "b" or seed:
                write_run(tmp_path / place, "ce", seed, config={"trainer": trainer})
    found = arms(tmp_path)
    assert found == {"ce callbacks=None": [0, 1], f"ce callbacks={[average]}": [0, 1]}


def renamed(folder: Path) -> None:
    """Rename the cases of a test, as another order of the same number of cases would."""
    bins = folder / "test/best/bins.npz"
    with np.load(bins) as file:
        arrays = dict(file)
    arrays["case"][0] = "q0_ED"
    np.savez(bins, **arrays)


def test_other_cases_are_other_data(tmp_path: Path) -> None:
    write_run(tmp_path, "ce")
    renamed(write_run(tmp_path, "mbls"))
    groups, _ = grouped(tmp_path)
    assert [len(group.arms) for group in groups] == [1, 1]


def test_measures_that_some_runs_lack_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "ce")
    folder = write_run(tmp_path, "mbls")
    path = folder / "test/best/metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["sound"]["union"]
    path.write_text(json.dumps(metrics))
    (found,) = report(tmp_path)
    assert "nll/union/pooled (1)" in found.cautions[0]
    assert "nll/label/pooled" in found.cells
    assert not any("union" in key for key in found.cells)


@pytest.mark.parametrize("tolerance", [None, 1.0])
def test_distances_that_some_runs_lack_are_left_out(
    tolerance: float | None, tmp_path: Path
) -> None:
    """Tested without distances, or with another tolerance of NSD: the rest is compared."""
    with_all = {"patients": 3, "surfaces": ("hd95", "nsd"), "meta": {"nsd_tolerance_mm": 2.0}}
    other = {"patients": 3}
    if tolerance is not None:
        other = with_all | {"meta": {"nsd_tolerance_mm": tolerance}}
    for seed in range(2):
        write_run(tmp_path, "ce", seed, **with_all)
        write_run(tmp_path, "mbls", seed, **other)
    (found,) = report(tmp_path)
    assert len(found.group.arms) == 2
    caution = next(text for text in found.cautions if text.startswith("Left out"))
    assert "nsd/mean (" in caution
    assert "nsd/mean" not in found.cells
    assert ("hd95/mean (2)" in caution) == ("hd95/mean" not in found.cells) == (tolerance is None)
    if tolerance is not None:
        values = fake.distances(0, 6)[:, 1:].mean(), fake.distances(1, 6)[:, 1:].mean()
        assert found.cells["hd95/mean"]["ce"].value == pytest.approx(np.mean(values))


def test_a_rare_structure_and_an_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A structure that three patients have, one patient has, none has."""
    made = fake.predictions

    def rare(patients: int) -> Callable[..., tuple[torch.Tensor, ...]]:
        def predictions(case: int, **options: Any) -> tuple[torch.Tensor, ...]:
            probs, label, known = made(case, **options)
            if case >= 2 * patients:
                label = label.where(label != 2, 1)
                known = known * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1, 1)
                known = known / known.sum(1, keepdim=True)
            return probs, label, known

        return predictions

    for patients in (3, 1, 0):
        root = tmp_path / str(patients)
        monkeypatch.setattr(fake, "predictions", rare(patients))
        for seed in range(2):
            write_run(root, "ce", seed, patients=5)
            write_run(root, "mbls", seed, patients=5, sharpness=1.0)
        found = analysis_of(root)
        (pair,) = found.comparisons["dice/myocardium"]
        cell = found.cells["dice/myocardium"]["ce"]
        assert math.isnan(pair.effect.p) == (patients < 2)
        assert math.isnan(cell.value) == (patients == 0)
        assert any(f"Dice, myocardium ({patients})" in text for text in found.cautions)
        if patients == 3:
            tables = [per_patient(root, loss)[:, :3] for loss in ("ce", "mbls")]
            assert pair.effect.p == pytest.approx(difference(*tables).p)


def per_patient(root: Path, loss: str) -> np.ndarray:
    """Return the myocardium's Dice of each seed and patient, from cases.csv."""
    table = []
    for seed in range(2):
        with (root / f"unet-{loss}/seed{seed}/test/best/cases.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        values = [float(row["dice/myocardium"] or "nan") for row in rows]
        table.append(np.array(values).reshape(-1, 2).mean(1))
    return np.stack(table)


def test_compared_values_are_the_shown_ones(tmp_path: Path) -> None:
    for seed in range(2):
        for loss, sharpness in (("ce", 1.1), ("mbls", 1.0), ("ls", 1.05)):
            write_run(tmp_path, loss, seed, sharpness=sharpness, patients=4)
    (found,) = report(tmp_path)
    for measure in found.measures:
        cells = found.cells[measure.key]
        for pair in found.comparisons[measure.key]:
            shown = cells[pair.first].value - cells[pair.second].value
            assert pair.effect.value == pytest.approx(shown, abs=1e-12)
        for cell in cells.values():
            assert cell.over_all.value == cell.value
            assert measure.better != "less" or min(cell.low, cell.over_all.low) >= 0
