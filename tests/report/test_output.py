"""The folder of a report: all its files or none, and no files of others."""

import errno
from pathlib import Path

import pytest

from mbls.cli import main
from mbls.report import build
from mbls.report.runs import find_runs
from mbls.runtime.errors import ReportError
from mbls.runtime.locks import lock_folder
from tests.report.fake import DRAWS, write_run

TABLES = ("report.html", "table.csv", "table.md", "table.tex")

pytestmark = pytest.mark.usefixtures("no_report_figures")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"), "ce", patients=2)


def report(run, output):
    build.build_report([run], output, draws=DRAWS)
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_a_folder_with_other_files_is_refused(run, tmp_path, capsys):
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(ReportError, match=r"contains 1 files or folders \(notes.md"):
        report(run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]
    with pytest.raises(ReportError, match=r"notes.md is a file"):
        report(run, tmp_path / "notes.md")
    with pytest.raises(ReportError, match=r"notes.md/report cannot be written \(Not a dir"):
        report(run, tmp_path / "notes.md/report")


def test_an_earlier_report_is_replaced_as_a_whole(run, tmp_path):
    earlier = report(run, tmp_path / "report")
    for name in ("worst_cases.png", "group2_sweep_margin.pdf", "mine.png"):
        (tmp_path / "report" / name).touch()
    again = report(run, tmp_path / "report")
    assert set(TABLES) <= set(earlier)
    assert set(again) == {*earlier, "mine.png"}  # figures that are not of this report are gone


def test_leftovers_of_a_killed_report_are_replaced(run, tmp_path):
    (tmp_path / "report.html.node1-7.incoming").mkdir()
    (tmp_path / "report.html.node1-7.incoming/table.md").touch()
    (tmp_path / "lock").touch()
    assert set(report(run, tmp_path)) == {*TABLES, "lock"}
    assert not (tmp_path / "lock").read_text()  # which names its owner


def test_a_full_disk_leaves_the_earlier_report(run, tmp_path, monkeypatch):
    earlier = report(run, tmp_path)
    monkeypatch.setattr(build, "markdown_text", lambda _: "new")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "html_text", full)
    with pytest.raises(ReportError, match="No space left on device"):
        report(run, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == earlier


def test_one_report_at_a_time(run, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PATIENCE", 0.0)
    with (
        lock_folder(tmp_path),
        pytest.raises(ReportError, match="another process"),
    ):
        report(run, tmp_path)
    assert set(TABLES) <= set(report(run, tmp_path))


def test_the_report_of_a_run_goes_into_its_folder(run, monkeypatch, capsys):
    printed = []

    def find(*args, **options):
        printed.append(capsys.readouterr().out)
        return find_runs(*args, **options)

    monkeypatch.setattr(build, "find_runs", find)
    assert main(["report", str(run)]) == 0
    assert str(run / "report") in printed[0]  # before any work
    assert (run / "report/report.html").is_file()
    assert not (run.parent / "report").exists()


def test_symlinks_are_followed_once(run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/acdc").symlink_to(run.parent.parent)
    (tmp_path / "runs/loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs/again").symlink_to(run)
    (found,), left_out = find_runs([tmp_path / "runs", tmp_path])
    assert (found.folder / "run.json").samefile(run / "run.json")
    assert not left_out
    assert Path(tmp_path / "runs") in found.folder.parents
