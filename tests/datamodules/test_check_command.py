"""``mbls check-data`` and ``mbls data`` on a fake download."""

from pathlib import Path

import pytest

from mbls.cli import main


def words(root: Path, tmp_path: Path) -> list[str]:
    cache = str(tmp_path / "cache")
    return ["--dataset", "acdc", "--data-root", str(root), "--data.init_args.cache_dir", cache]


def test_a_sound_download_has_no_problems(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-data", *words(acdc, tmp_path)]) == 0
    assert "No problems" in capsys.readouterr().out


def test_all_problems_are_in_one_table(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (acdc / "training/patient001/Info.cfg").unlink()
    broken = acdc / "training/patient002/patient002_frame01.nii.gz"
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["check-data", *words(acdc, tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "2 problems" in shown
    assert "training/patient001/Info.cfg" in shown
    assert "patient002_frame01.nii.gz" in shown
    assert str(acdc / "training") not in shown.split("\n", 1)[1], "files relative to the root"


def test_preparing_a_broken_download_stops_with_its_problems(
    acdc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (acdc / "training/patient001/Info.cfg").unlink()
    assert main(["data", *words(acdc, tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "patient001" in shown
    assert "Traceback" not in shown


def test_preparing_fills_the_cache_once(acdc: Path, tmp_path: Path) -> None:
    assert main(["data", *words(acdc, tmp_path)]) == 0
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("image.npy")}
    assert stamps
    assert main(["data", *words(acdc, tmp_path)]) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("image.npy")} == stamps
