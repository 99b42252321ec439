"""How many patients a calibrator needs: a simulation with known temperatures.

``python -m experiments.posthoc_sizes`` draws patients whose predictions are too sharp by a
temperature of their own, T_i = T exp(0.15 g), g standard normal, with T = 1.1 (slightly
overconfident as a group) or 1.25. Voxels of a patient share an offset for each class, and logits
are smoothed over the volume, so that they are correlated as those of a segmentation are.
Calibrators are fitted to N patients and tested on 40 others. The results are written to
``experiments/results/posthoc-sizes.csv``:

- ``improved``: share of the fits after which the mean negative log-likelihood of the new patients
  is lower than before;
- ``change``: mean change of that likelihood, in percent of the value before;
- ``warned``: share of the fits for which ``mbls.posthoc.too_few`` warns;
- ``wrongly_trusted``: share of the fits that did not improve and were not warned of.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mbls.posthoc import Calibrator, fit, too_few
from mbls.predictions import Prediction

RESULTS = Path(__file__).parent / "results" / "posthoc-sizes.csv"
SIZES = (2, 3, 5, 10, 20, 50)
METHODS = ("temperature", "vector", "isotonic")
TEMPERATURES, SPREAD, OFFSET = (1.1, 1.25), 0.15, 0.3
SHAPE, CLASSES, UNSEEN = (16, 16, 16), 3, 40


def patient(name: str, mean: float, random: torch.Generator) -> Prediction:
    """Return a patient's prediction, with labels of the posterior before it was sharpened.

    Args:
        name: Name of the case.
        mean: T of the group.
        random: Source of random numbers.
    """
    noise = torch.randn(1, CLASSES, *SHAPE, generator=random)
    smooth = F.avg_pool3d(noise, 5, stride=1, padding=2, count_include_pad=False)[0]
    logits = 3 * smooth / smooth.std()
    logits[0] += 3
    own, factor = torch.randn(CLASSES, generator=random), torch.randn((), generator=random)
    label = torch.multinomial(logits.softmax(0).flatten(1).T, 1, generator=random).view(SHAPE)
    temperature = mean * float((SPREAD * factor).exp())
    seen = logits * temperature + OFFSET * own[:, None, None, None]
    return Prediction(name, seen.softmax(0), label, (1.0, 1.0, 1.0))


def mean_nll(cases: Sequence[Prediction], calibrator: Calibrator | None = None) -> Tensor:
    """Return the mean negative log-likelihood of each patient ``(N,)``."""
    found = []
    for case in cases:
        log_probs = case.log_probs()
        if calibrator is not None:
            log_probs = calibrator.apply(log_probs)
        found.append(F.nll_loss(log_probs[None], case.label[None]))
    return torch.stack(found)


def simulate(mean: float, repeats: int, seed: int = 0) -> list[dict[str, object]]:
    """Return the rows of the table for a group of patients."""
    random = torch.Generator().manual_seed(seed)
    unseen = [patient(f"new{n}", mean, random) for n in range(UNSEEN)]
    before = float(mean_nll(unseen).mean())
    rows: list[dict[str, object]] = []
    for size in SIZES:
        found: dict[str, list[tuple[float, bool]]] = {method: [] for method in METHODS}
        for _ in range(max(10, repeats * 10 // max(10, size))):
            cases = [patient(str(n), mean, random) for n in range(size)]
            for method in METHODS:
                calibrator = fit(method, cases)
                change = float(mean_nll(unseen, calibrator).mean()) / before - 1
                found[method].append((change, too_few(calibrator) is not None))
        rows += [{"T": mean, **_row(size, method, results)} for method, results in found.items()]
    return rows


def _row(size: int, method: str, results: Sequence[tuple[float, bool]]) -> dict[str, object]:
    count = len(results)
    trusted = sum(change >= 0 and not warned for change, warned in results)
    return {
        "patients": size,
        "method": method,
        "fits": count,
        "improved": round(sum(change < 0 for change, _ in results) / count, 3),
        "change": round(100 * sum(change for change, _ in results) / count, 2),
        "warned": round(sum(warned for _, warned in results) / count, 3),
        "wrongly_trusted": round(trusted / count, 3),
    }


def table(path: Path = RESULTS) -> str:
    """Return the Markdown table: improved, and (neither improved nor warned of), in percent."""
    with path.open() as file:
        rows = {(row["T"], row["patients"], row["method"]): row for row in csv.DictReader(file)}
    groups = [(str(mean), method) for mean in TEMPERATURES for method in METHODS]
    lines = ["| patients | " + " | ".join(f"{m}, T = {mean}" for mean, m in groups) + " |"]
    lines.append("|---" * (1 + len(groups)) + "|")
    for size in SIZES:
        cells = [rows[mean, str(size), method] for mean, method in groups]
        shown = [f"{_percent(c['improved'])} ({_percent(c['wrongly_trusted'])})" for c in cells]
        lines.append(" | ".join([f"| {size}", *shown]) + " |")
    return "\n".join(lines)


def _percent(share: str) -> str:
    return f"{100 * float(share):.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Simulate and write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=40, help="fits a size, fewer of many")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = [row for mean in TEMPERATURES for row in simulate(mean, options.repeats)]
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
