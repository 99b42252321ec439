"""metrics.csv: one row a step, columns that come later, a cut on resume."""

from pathlib import Path

from mbls.callbacks import MetricsCSV
from mbls.loggers.metrics_csv import read_rows


def logger(folder: Path, *rows: tuple[int, dict[str, float]]) -> MetricsCSV:
    built = MetricsCSV()
    built.folder = folder
    for step, values in rows:
        built.log_metrics(values, step)
    built.save()
    return built


def test_values_of_a_step_share_a_row_and_new_columns_are_added(tmp_path: Path) -> None:
    logger(
        tmp_path,
        (4, {"epoch": 0, "val/dice": 0.5}),
        (4, {"epoch": 0, "train/loss": 2.0}),
        (9, {"epoch": 1, "val/dice": 0.625, "a": 1.0}),
    )
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,step,a,train/loss,val/dice\n0,4,,2.0,0.5\n1,9,1.0,,0.625\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_resuming_keeps_values_logged_before_the_checkpoint(tmp_path: Path) -> None:
    logger(tmp_path, *((step, {"epoch": step // 5, "x": step}) for step in (4, 9, 14)))
    again = logger(tmp_path)
    again.resume(10)  # ten steps were done: 0 to 9
    assert [row["step"] for row in read_rows(tmp_path / "metrics.csv")] == ["4", "9"]
    again.log_metrics({"epoch": 2, "x": 15.0}, 14)
    again.finalize("success")
    rows = read_rows(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["step"], row["x"]) for row in rows] == [
        ("0", "4", "4"), ("1", "9", "9"), ("2", "14", "15.0"),
    ]  # fmt: skip


def test_nothing_is_written_without_a_folder_or_rows(tmp_path: Path) -> None:
    homeless = MetricsCSV()
    homeless.log_metrics({"x": 1.0}, 0)
    homeless.save()
    logger(tmp_path)
    assert not list(tmp_path.iterdir())
    assert homeless.log_dir is None
