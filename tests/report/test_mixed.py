"""Reports over runs that do not all fit: sweeps, reruns, other settings, other data."""

from pathlib import Path

import pytest

from mbls.commands import benchmark
from mbls.errors import ReportError
from mbls.grid import make_cells, parse_losses
from mbls.report import build
from mbls.report.analysis import Analysis
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
