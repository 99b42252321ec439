"""Tables of decisions in a report."""

import os
from pathlib import Path

import pandas as pd

from mbls.report.decisions import decision_views
from tests.report.fake import analysis_of, write_run

VOLUMES = {"quantity": ["RV", "EF"], "unit": ["ml", "%"], "mean": [80.0, 55.0],
           "coverage": [0.9, 0.8], "coverage_low": [0.7, 0.6], "coverage_high": [1.0, 0.95],
           "width": [20.0, float("nan")]}  # fmt: skip


def write(run: Path, name: str, columns: dict[str, list[object]], tag: str = "") -> Path:
    path = run / "decisions" / tag / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_a_value_is_the_mean_of_the_seeds_or_has_its_interval(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = write_run(tmp_path, "ce", seed)
        write(run, "volumes.csv", VOLUMES | {"coverage": [0.9 - 0.2 * seed, 0.8]})
    write(write_run(tmp_path, "mbls", 0), "volumes.csv", VOLUMES)
    (view,) = decision_views(analysis_of(tmp_path))
    assert view.title == "Volumes"
    frame = view.frame.set_index(["loss", "quantity"])
    assert frame.loc[("ce\n2 runs", "RV"), "covered"] == "0.8 ± 0.14"
    assert frame.loc[("mbls\n1 run", "RV"), "covered"] == "0.9\n[0.7, 1]"
    assert frame.loc[("mbls\n1 run", "EF"), "width"] == "n/a"


def test_rows_of_one_value_each_are_turned_into_columns(tmp_path: Path) -> None:
    terms = ["ceiling", "network", "calibration", "decision", "argmax"]
    rows = {"probabilities": ["raw"] * 6, "structure": ["mean"] * 6,
            "quantity": ["dice"] * 5 + ["volume"], "term": [*terms, "argmax"],
            "value": [0.9, 0.02, 0.01, 0.005, 0.865, 0.1], "low": [0.8] * 6,
            "high": [0.95] * 6}  # fmt: skip
    write(write_run(tmp_path, "ce"), "regret.csv", rows)
    (view,) = decision_views(analysis_of(tmp_path))
    assert view.frame.iloc[0, 3:].tolist() == [
        f"{value}\n[0.8, 0.95]" for value in ("0.9", "0.02", "0.01", "0.005", "0.865")
    ]


def test_tables_are_those_of_the_test_and_have_its_files_names(tmp_path: Path) -> None:
    run = write_run(tmp_path, "ce")
    row = {"structure": ["RV"], "measure": ["recall"], "argmax": [0.8], "at_threshold": [0.9],
           "change": [0.1]}  # fmt: skip
    for name in ("recall-90.csv", "recall-95.csv"):
        write(run, name, row)
    write(run, "dice.csv", row, tag="best+temperature")  # of another test
    titles = [view.title for view in decision_views(analysis_of(tmp_path))]
    assert titles == ["Thresholds for recall (recall-90)", "Thresholds for recall (recall-95)"]


def test_guarantees_are_those_of_the_files_grid(tmp_path: Path) -> None:
    row = {"structure": ["RV"], "family": ["margin"], "missed": [0.04]}
    run = write_run(tmp_path, "ce")
    write(run, "fnr-10.csv", row, tag="best-native")
    write(run, "fnr-20.csv", row)  # of another grid than the masks
    (view,) = decision_views(analysis_of(tmp_path))
    assert view.title == "Guarantees"
    assert view.frame["missed"].tolist() == ["0.04"]


def test_a_table_of_earlier_weights_is_left_out(tmp_path: Path) -> None:
    write(write_run(tmp_path, "ce"), "volumes.csv", VOLUMES)
    path = write(run := write_run(tmp_path, "mbls"), "volumes.csv", VOLUMES)
    (run / "checkpoints").mkdir()
    (run / "checkpoints/best.ckpt").touch()
    os.utime(path, (1, 1))
    (view,) = decision_views(analysis_of(tmp_path))
    assert set(view.frame["loss"]) == {"ce\n1 run"}
    assert any(f"has changed since: {path}" in text for text in view.legend)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write(write_run(tmp_path, "ce"), "volumes.csv", VOLUMES)
    path = write(write_run(tmp_path, "mbls"), "volumes.csv", VOLUMES)
    path.write_text("nothing")
    (view,) = decision_views(analysis_of(tmp_path))
    assert len(view.frame) == 2
    assert any(f"cannot be read: {path}" in text for text in view.legend)
