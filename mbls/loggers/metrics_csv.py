"""metrics.csv and speed.csv: the logged values of a run, readable during the run."""

import contextlib
import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mbls.runtime.errors import OutputError
from mbls.runtime.files import replace_file

__all__ = ["MetricsCSV", "read_rows"]

KEYS = ("epoch", "step")
TEST = "test/"
CLOCK = "speed/"  # timings, which are not reproducible


class MetricsCSV(Logger):
    """Write ``metrics.csv`` in the run folder: one row for each step with logged values.

    Lightning's CSVLogger deletes the file of a resumed run, and needs its folder before ranks can
    agree on one. This logger waits for :class:`~mbls.callbacks.RunFolder`; on resume it truncates
    the file to the checkpoint's step and appends. A new column is empty in earlier rows.

    Values named ``speed/...`` go to ``speed.csv``, so metrics.csv of a run that was stopped and
    resumed is bitwise identical to that of an uninterrupted one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder: Path | None = None
        self._rows: dict[str, list[dict[str, Any]]] = {"metrics.csv": [], "speed.csv": []}

    @property
    def name(self) -> str:
        """Required by Lightning; not part of a path."""
        return ""

    @property
    def version(self) -> str:
        """Required by Lightning; not part of a path."""
        return ""

    @property
    def log_dir(self) -> str | None:
        """The run folder, once it is claimed."""
        return None if self.folder is None else str(self.folder)

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Load the rows of the earlier part of the run before ``step``; drop later ones."""
        for name in self._rows:
            path = Path(str(self.folder)) / name
            if path.is_file():
                self._rows[name] = [row for row in read_rows(path) if int(row["step"]) < step]
        self.save()

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kw: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a step's values; values of the same step and epoch share a row.

        Test values are skipped: their files are in ``test/<tag>``.
        """
        values = {name: value for name, value in metrics.items() if not name.startswith(TEST)}
        keys = {"epoch": int(values.pop("epoch", 0)), "step": int(step or 0)}
        clock = {name: value for name, value in values.items() if name.startswith(CLOCK)}
        rest = {name: value for name, value in values.items() if name not in clock}
        for rows, part in ((self._rows["metrics.csv"], rest), (self._rows["speed.csv"], clock)):
            if part and rows and all(int(rows[-1][key]) == keys[key] for key in KEYS):
                rows[-1].update(part)
            elif part:
                rows.append(keys | part)

    @rank_zero_only
    def save(self) -> None:
        """Write all rows; ignore errors.

        Lightning calls this on rank 0 only, where an error would leave the other ranks waiting. If
        the disk stays full, :meth:`write` raises at the end of the epoch.
        """
        with contextlib.suppress(OutputError):
            self.write()

    def write(self) -> None:
        """Write all rows by atomic rename.

        Raises:
            OutputError: A file cannot be written; the rows are kept.
        """
        for name, rows in self._rows.items():
            if self.folder is not None and rows:
                replace_file(self.folder / name, _table(rows).encode())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the remaining rows."""
        self.save()


def _table(rows: list[dict[str, Any]]) -> str:
    columns = sorted({name for row in rows for name in row} - set(KEYS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*KEYS, *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.csv without empty cells."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
