"""Results of benchmarks on real data: kept as CSV, shown in README.md and docs/results.md.

``python -m experiments.results keep runs/hippocampus/report/table.csv hippocampus`` copies the
table of a report to ``experiments/results/hippocampus.csv``; ``make readme`` writes the tables.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mbls.report.runs import SHORT

__all__ = ["BENCHMARKS", "Benchmark", "keep", "main", "results_table"]

FOLDER = Path(__file__).parent / "results"
COLUMNS = {  # heading -> measure in a report's table.csv
    "Dice": "dice/mean",
    "ECE, all voxels": "ece_corrected/all/pooled",
    "ECE, foreground": "ece/label/per_case",
    "class-wise ECE, foreground": "cece/label/per_case",
    "confidence - accuracy, foreground": "signed/label/pooled",
}


LONG = {short: method for method, short in SHORT.items()}  # "ts" -> "temperature"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark whose results are kept.

    Attributes:
        name: Its file ``experiments/results/<name>.csv``.
        options: Options of ``make benchmark`` next to LOSSES and SEEDS.
        about: Data and protocol in a sentence.
    """

    name: str
    options: str
    about: str

    @property
    def file(self) -> Path:
        """The file of the results."""
        return FOLDER / f"{self.name}.csv"


def _args(*, every: int, gamma: float) -> str:
    """Return the options of a longer schedule: validation every few epochs, a slower decay."""
    return (
        f'ARGS="--trainer.check_val_every_n_epoch {every} '
        f'--model.scheduler.init_args.gamma {gamma}"'
    )


HIPPOCAMPUS = "DATASET=hippocampus DIM=2 PRESET=small"
BENCHMARKS = (
    Benchmark("hippocampus", HIPPOCAMPUS, "all 187 training patients"),
    Benchmark("post-hoc", HIPPOCAMPUS, "all 187 training patients"),
    Benchmark(
        "hippocampus-40",
        f"{HIPPOCAMPUS} TRAIN_PATIENTS=40 EPOCHS=24 {_args(every=2, gamma=0.87)}",
        "40 training patients",
    ),
    Benchmark(
        "hippocampus-10",
        f"{HIPPOCAMPUS} TRAIN_PATIENTS=10 EPOCHS=48 {_args(every=4, gamma=0.93)}",
        "10 training patients",
    ),
    Benchmark(
        "nuclei",
        "DATASET=images PRESET=small EPOCHS=24 DATA_ROOT=/path/to/DSB2018_nuclei "
        f"{_args(every=2, gamma=0.87)}",
        "nuclei in fluorescence microscopy, 256 x 256 pixels",
    ),
)


def results_table(benchmark: Benchmark) -> str:
    """Return the results of a benchmark in Markdown, a row a loss.

    Raises:
        OSError: They are not kept.
    """
    table = pd.read_csv(benchmark.file, keep_default_na=True)
    losses = list(dict.fromkeys(table["loss"]))
    rows = [f"| loss | {' | '.join(COLUMNS)} | command |", "|---" * (len(COLUMNS) + 2) + "|"]
    for loss in losses:
        cells = [_cell(table, loss, measure) for measure in COLUMNS.values()]
        rows.append(f"| `{loss}` | {' | '.join(cells)} | `{_command(benchmark, table, loss)}` |")
    seeds = sorted({len(str(text).split()) for text in table["seeds"]})
    counts = " or ".join(map(str, seeds))
    caption = (
        f"{table['dataset'].iloc[0]} ({benchmark.about}), test set, "
        f"{table['test_cases'].iloc[0]}, network unet, {counts} seed{'s' * (seeds != [1])}. "
        "Mean over seeds [95 % interval over patients and seeds; over patients where there is one "
        "seed]. Bold: best mean of the column; †: not distinguishable from it (crossed test over "
        "patients and seeds, Holm, 5 %). All voxels: pooled, bias subtracted; foreground: labeled "
        "voxels, mean of the cases; confidence - accuracy: pooled, positive is overconfident."
    )
    return "\n".join([*rows, "", caption])


def keep(table: Path, name: str) -> Path:
    """Copy the table of a report to the results, without the folders of its runs.

    Raises:
        OSError: The file cannot be read.
    """
    content = pd.read_csv(table, dtype={"seeds": str}).drop(columns=["run_folders"])
    file = FOLDER / f"{name}.csv"
    file.parent.mkdir(exist_ok=True)
    content.to_csv(file, index=False, float_format="%.6g")
    return file


def main(args: Sequence[str] | None = None) -> None:
    """Keep the table of a report."""
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("keep", choices=("keep",))
    p.add_argument("table", type=Path, metavar="FILE", help="table.csv of a report")
    p.add_argument("name", choices=[benchmark.name for benchmark in BENCHMARKS])
    options = p.parse_args(args)
    keep(options.table, options.name)


def _cell(table: pd.DataFrame, loss: str, measure: str) -> str:
    row = table[(table["loss"] == loss) & (table["measure"] == measure)].iloc[0]
    over = "_and_seeds" if pd.notna(row["low_over_patients_and_seeds"]) else ""
    digits = 3 if measure.startswith("dice") else 4
    low, high = (row[f"{side}_over_patients{over}"] for side in ("low", "high"))
    mean = f"{row['mean']:.{digits}f}"
    mean = f"**{mean}**" if row["best"] == 1 else mean
    mark = "†" if row["best"] != 1 and row["not_distinguishable_from_best"] == 1 else ""
    return f"{mean}{mark} [{low:.{digits}f}, {high:.{digits}f}]"


def _command(benchmark: Benchmark, table: pd.DataFrame, loss: str) -> str:
    trained, _, method = loss.partition("+")
    if method:
        run = "RUN=RUN" if " x" not in trained else "RUN=ENSEMBLE"
        return f"make calibrate {run} METHOD={LONG.get(method, method)}"
    if " x" in trained:
        return f'make evaluate RUNS="{" ".join(["RUN"] * int(trained.rpartition(" x")[2]))}"'
    seeds = str(table[table["loss"] == loss]["seeds"].iloc[0])
    return f'make benchmark {benchmark.options} LOSSES="{loss}" SEEDS="{seeds}"'


if __name__ == "__main__":
    main()
