"""A damaged file next to a test's numbers is named, and the tables are written anyway."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mbls.metrics.archives import load_arrays
from mbls.report import build
from mbls.report.figures import worst_picture
from mbls.report.runs import find_runs
from tests.report.fake import DRAWS, write_run

pytestmark = pytest.mark.usefixtures("no_report_figures")


def bomb(path: Path) -> None:
    """Let a file's directory state that a member unpacks to 3 GiB."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cells.npy", b"0")
        file.infolist()[0].file_size = 3 << 30


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("test/best/worst.npz", cut, "--ckpt best writes it again"),
        ("test/best/worst.npz", lambda p: p.write_text("no"), "--ckpt best writes it again"),
        ("test/best/worst.npz", bomb, "2.15 GB, got 3.22"),
        ("test/best-nll/metrics.json", cut, "--ckpt best-nll writes it again"),
        ("test/best-nll/metrics.json", lambda p: p.write_text("{}"), "KeyError: 'sound'"),
        ("metrics.csv", lambda p: p.write_text(p.read_text() + "3,39,zero,\n"), "curves and"),
    ],
)
def test_a_damaged_file_is_named_and_left_out(
    name: str, spoil: Callable[[Path], object], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for loss in ("ce", "mbls"):
        for tag in ("best-nll", "best"):
            folder = write_run(tmp_path, loss, patients=2, pictures=True, tag=tag)
    spoil(folder / name)
    (found,) = build.build_report([tmp_path], tmp_path / "report", draws=DRAWS)
    assert [len(arm.runs) for arm in found.group.arms] == [1, 1]
    out = "".join(capsys.readouterr().out.split())  # lines break within paths
    assert f"Left out: {folder / name}: cannot be read: ".replace(" ", "") in out
    assert message.replace(" ", "") in out
    assert str(folder / name) in (tmp_path / "report/report.html").read_text()
    pictured = {arm.name: worst_picture(arm) is not None for arm in found.group.arms}
    assert pictured == {"ce": True, "mbls": "worst" not in name}


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    good, bad = (write_run(tmp_path, loss, patients=2) for loss in ("ce", "mbls"))
    bomb(bad / "test/best/bins.npz")
    runs, (out,) = find_runs([tmp_path])
    assert [run.folder for run in runs] == [good]
    assert out.folder == bad
    assert "bins.npz must unpack to at most 2.15 GB, got 3.22" in out.reason
    with pytest.raises(ValueError, match="at most 1e-06"):
        load_arrays(good / "test/best/bins.npz", most=1000)
