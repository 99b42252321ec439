"""Fitting a temperature, next to fiducio and a plain L-BFGS on all voxels at once.

``python -m experiments.benchmarks.posthoc`` writes cases to a temporary folder, and fits the same
data in a process each: ours reads one case at a time in each of its passes, the others need all
log-probabilities in memory. Seconds are of the fit, reading included; memory is the peak above what
the process had after its imports.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mbls.predictions import Prediction

METHODS = ("mbls", "fiducio L-BFGS", "torch L-BFGS")


def write_cases(folder: Path, cases: int, size: int, classes: int) -> int:
    """Write cases that are overconfident by T = 1.4, and return their bytes."""
    random = torch.Generator().manual_seed(0)
    total = 0
    for n in range(cases):
        logits = 2 * torch.randn(classes, size, size, size, generator=random)
        logits[0] += 4
        label = torch.multinomial(logits.softmax(0).flatten(1).T, 1, generator=random)
        probs = (1.4 * logits).softmax(0)
        np.save(folder / f"{n:03d}-probs.npy", probs.numpy())
        np.save(folder / f"{n:03d}-label.npy", label.view(size, size, size).numpy())
        total += probs.nbytes
    return total


def read_cases(folder: Path) -> Iterator[Prediction]:
    """Yield the cases."""
    for path in sorted(folder.glob("*-probs.npy")):
        beside = path.with_name(path.name.replace("probs", "label"))
        probs, label = (
            torch.from_numpy(np.load(file, allow_pickle=False)) for file in (path, beside)
        )
        yield Prediction(path.name, probs, label, (1.0, 1.0, 1.0))


def everything(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities ``(L, C)`` and labels ``(L,)`` of all cases."""
    cases = list(read_cases(folder))
    log_probs = torch.cat([case.log_probs().flatten(1).T for case in cases])
    return log_probs, torch.cat([case.label.flatten() for case in cases])


def by_mbls(folder: Path) -> float:
    """Return T of a fit in a stream."""
    from mbls.posthoc import fit

    return float(fit("temperature", lambda: read_cases(folder)).report["temperature"])


def by_fiducio(folder: Path) -> float:
    """Return T of fiducio."""
    import fiducio

    calibrator = fiducio.TemperatureScaling(optimizer="lbfgs", device="cpu")
    return float(calibrator.fit(*everything(folder)).temperature)


def by_torch(folder: Path) -> float:
    """Return T of the usual few lines."""
    log_probs, label = everything(folder)
    temperature = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(log_probs / temperature, label)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(temperature.detach())


def measure(method: str, folder: Path) -> None:
    """Fit, and print seconds, megabytes and T."""
    functions = {"mbls": by_mbls, "fiducio L-BFGS": by_fiducio, "torch L-BFGS": by_torch}

    if method == "fiducio L-BFGS":
        import fiducio  # noqa: F401  (before the clock starts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    temperature = functions[method](folder)
    used = time.perf_counter() - start
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    sys.stdout.write(f"{used} {extra} {temperature}\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit", nargs=2, metavar=("METHOD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.fit:
        measure(options.fit[0], Path(options.fit[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        size = write_cases(Path(name), options.cases, options.size, options.classes)
        table = Table(title=f"{options.cases} cases, {size / 1e6:.0f} MB of probabilities")
        for heading in ("", "seconds", "MB more", "T"):
            table.add_column(heading, justify="right" if heading else "left")
        for method in METHODS:
            found = []
            for _ in range(options.rounds):
                command = [sys.executable, "-m", "experiments.benchmarks.posthoc"]
                done = subprocess.run(
                    [*command, "--fit", method, name], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise RuntimeError(f"{method} failed:\n{done.stderr}")
                found.append([float(word) for word in done.stdout.split()])
            seconds, extra, temperature = np.median(found, axis=0)
            table.add_row(method, f"{seconds:.1f}", f"{extra:.0f}", f"{temperature:.6f}")
    Console().print(table)


if __name__ == "__main__":
    main()
