"""``python -m experiments.coverage``: 10,000 relabeled worlds of the phantom (some 15 minutes).

Writes ``experiments/results/coverage.csv`` and ``docs/images/coverage.png``. With ``--run RUN`` the
probabilities of a network, trained on ACDC's phantom, are next to the true ones.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from rich.console import Console

from datamodules.phantom import PhantomSettings
from datamodules.phantom.writer import save_nifti
from experiments.coverage.bank import (
    ANNOTATORS,
    Case,
    draw_banks,
    phantom_cases,
    tempered,
)
from experiments.coverage.figure import coverage_figure
from experiments.coverage.worlds import draw_worlds, masks, volumes
from mbls.decisions.guarantee import Promise
from mbls.plots import save_figure
from mbls.runtime.files import replace_file

__all__ = ["main", "simulate"]

ROOT = Path(__file__).parents[2]
SEED = 20261201
ALPHA = 0.1
PROMISES = (Promise(0.1), Promise(0.1, ALPHA))
QUALITIES: Mapping[str, Callable[[Case], np.ndarray]] = {
    "true": partial(tempered, temperature=1.0),
    "overconfident, T 1/2": partial(tempered, temperature=0.5),
    "underconfident, T 2": partial(tempered, temperature=2.0),
}


def main() -> None:
    """Simulate, write the table and the figure, and print what was missed."""
    parser = argparse.ArgumentParser(prog="experiments.coverage", description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder of a network")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--calibrating", type=int, default=40)
    parser.add_argument("--labels", type=int, default=50, help="drawn for each patient")
    parser.add_argument("--worlds", type=int, default=10_000)
    given = parser.parse_args()
    patients = list(phantom_cases(given.patients, seed=SEED, settings=PhantomSettings()))
    qualities = dict(QUALITIES)
    with tempfile.TemporaryDirectory() as folder:
        if given.run is not None:
            predict(given.run, patients, Path(folder))
            qualities["network"] = partial(predicted, folder=Path(folder) / "out")
        rows = list(
            simulate(
                patients, qualities,
                calibrating=given.calibrating, labels=given.labels, worlds=given.worlds,
            )
        )  # fmt: skip
    table = pd.DataFrame(rows)
    text = str(table.to_csv(index=False, lineterminator="\n", float_format="%.5g"))
    replace_file(ROOT / "experiments" / "results" / "coverage.csv", text.encode())
    note = (
        f"ACDC (PHANTOM, synthetic), {given.worlds} worlds of {given.patients} patients, "
        f"{given.calibrating} of whom calibrate, {given.labels} labels of each"
    )
    save_figure(coverage_figure(table, note), ROOT / "docs" / "images" / "coverage")
    (ROOT / "docs" / "images" / "coverage.pdf").unlink()
    over = table[(table.annotator == "the same") & (table.share > table.bound + 3 * table.error)]
    Console().print(f"{note}. Above their bound by 3 standard errors: {len(over)}")


def simulate(
    patients: Sequence[Sequence[Case]],
    qualities: Mapping[str, Callable[[Case], np.ndarray]],
    *,
    calibrating: int,
    labels: int,
    worlds: int,
    seed: int = SEED,
) -> Iterator[dict[str, object]]:
    """Yield a row for each quality of the probabilities, annotator, and promise.

    Args:
        patients: The cases of each patient.
        qualities: What gives the probabilities of a case.
        calibrating: How many patients calibrate in a world.
        labels: How many labels of each patient are drawn.
        worlds: How many worlds.
        seed: Of all draws.
    """
    banks = draw_banks(patients, qualities, labels=labels, seed=seed)
    every = draw_worlds(
        worlds, patients=len(patients), calibrating=calibrating, labels=labels, seed=seed
    )
    usual = next(iter(ANNOTATORS))
    for (quality, annotator), bank in banks.items():
        own = banks[quality, usual]
        found = [*volumes(own, bank, every, ALPHA)]
        for promise in PROMISES:
            found += masks(own, bank, every, promise)
        for one in found:
            yield {"probabilities": quality, "annotator": annotator, **vars(one)}


def predict(run: Path, patients: Sequence[Sequence[Case]], folder: Path) -> None:
    """Write the images of all cases, and the probabilities of a run's network to ``out``."""
    from mbls.commands.predict import main as command

    for case in (case for cases in patients for case in cases):
        path = folder / "in" / f"{case.name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        save_nifti(path, case.image, case.affine, case.affine)
    command(
        [
            "--run", str(run), "--input", str(folder / "in"), "--output", str(folder / "out"),
            "--probabilities", "--cache", str(folder / "cache"),
        ]
    )  # fmt: skip


def predicted(case: Case, folder: Path) -> np.ndarray:
    """Return the probabilities of a network ``(C, X, Y, Z)``."""
    image = nib.load(folder / f"{case.name}_prob.nii.gz")
    return np.moveaxis(np.asarray(image.dataobj, dtype=np.float32), -1, 0)


if __name__ == "__main__":
    main()
