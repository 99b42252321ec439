"""Reports over runs that do not all fit: sweeps, reruns, other settings, other data."""

from pathlib import Path

import pytest

from mbls.commands import benchmark
from mbls.errors import ReportError
from mbls.grid import make_cells, parse_losses
from mbls.report import build
from mbls.report.analysis import Analysis
from mbls.report.groups import groups_of
from mbls.report.runs import find_runs
from tests.report.fake import DRAWS, write_run


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests draw them."""
    monkeypatch.setattr(build, "figures_of", lambda _: [])


def report(root: Path, **options: str) -> list[Analysis]:
    return build.build_report([root], root / "report", draws=DRAWS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("losses", "reference"),
    [
        ("mbls:margin=3 mbls:margin=5 mbls:margin=10,alpha=0.3", "mbls alpha=0.1 margin=3"),
        ("mbls mbls:margin=3", "mbls margin=10"),
        ("mbls:margin=3 ce", "mbls"),
    ],
)
def test_a_grid_ends_in_a_report_against_its_first_loss(
    losses: str, reference: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", "acdc"]
    cells = make_cells(parse_losses(losses), [0], train_words=words, root=tmp_path)
    for cell in cells:
        settings = {"margin": 10.0} if cell.loss.name == "mbls" else {}
        settings |= {key: float(value) for key, value in cell.loss.settings}
        write_run(tmp_path / "acdc", cell.loss.label, cell.seed, settings=settings)
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
    with pytest.raises(ReportError, match=r"must name one loss of the runs, .*'ls', .*got 'cee'"):
        report(tmp_path, reference="cee")


def test_runs_on_one_patient_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, "ce")
    lone = write_run(tmp_path, "mbls", patients=1)
    assert len(report(tmp_path)) == 1
    told = (tmp_path / "report/report.html").read_text()
    assert f"<code>{lone}</code>: tested on one patient" in told
    with pytest.raises(ReportError, match="was tested on one patient"):
        report(lone)


def arms(root: Path) -> dict[str, list[int]]:
    (group,), _ = groups_of(find_runs([root])[0])
    return {arm.name: arm.seeds for arm in group.arms}


def test_a_loss_without_a_base_is_not_one_with_it(tmp_path: Path) -> None:
    base = {"class_path": "my.Dice", "init_args": {"squared": True}}
    for seed in range(2):
        write_run(tmp_path, "mbls", seed, settings={"base": None})
        write_run(tmp_path, "mbls,base=dice", seed, settings={"base": base})
    assert arms(tmp_path) == {
        "mbls base=None": [0, 1],
        "mbls class_path=my.Dice squared=True": [0, 1],
    }


def test_a_seed_counts_once(tmp_path: Path) -> None:
    """A run of a version whose configurations had a key less, and its rerun."""
    old = write_run(tmp_path / "a", "ce", 0)
    write_run(tmp_path / "b", "ce", 0, settings={"new": 1})
    write_run(tmp_path / "b", "ce", 1, settings={"new": 1})
    (group,), left_out = groups_of(find_runs([tmp_path])[0])
    assert [arm.seeds for arm in group.arms] == [[0, 1]]
    assert [(one.folder, "same seed as" in one.reason) for one in left_out] == [(old, True)]
