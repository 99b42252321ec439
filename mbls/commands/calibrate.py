"""``mbls calibrate``: fit post-hoc calibrators on some patients, report them on others."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mbls.commands.evaluate import main as evaluate
from mbls.commands.evaluate import run_settings, tag_of
from mbls.config.choices import did_you_mean
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

__all__ = ["main"]

ABOUT = """Fit post-hoc calibrators on the validation patients of a run and test them, or cross-fit
them on a folder of predictions with labels: each case is calibrated by a map that has not seen its
patient."""


def main(args: list[str]) -> int:
    """Fit, save as JSON, and report before and after with paired intervals."""
    options, rest = parse(parser("calibrate", ABOUT), args)
    if options.run is None:
        raise UsageError("--run is needed. See mbls calibrate --help.")
    methods = (options.method or "temperature").split(",")
    from mbls.posthoc import METHODS

    for method in methods:
        if method not in METHODS:
            hint = did_you_mean(method, METHODS)
            raise UsageError(f"Unknown method {method!r}.{hint} There are: {', '.join(METHODS)}.")
    calibrate_run(options.run, methods, [*overrides(options), *rest])
    return 0


def calibrate_run(run: Path, methods: Sequence[str], given: Settings) -> None:
    """Fit on the validation patients of a run, and test with each calibrator.

    The calibrators are ``RUN/calibrators/<method>.json``, the results ``test/best+<method>``.
    """
    files = fit_on_validation(run, methods, given)
    tag = tag_of("best", given, read_run_config(run / "config.yaml"))
    argv = [str(run), *to_argv([("results.show", "false"), *given])]
    if not (run / "test" / tag / "bins.npz").is_file():
        evaluate(argv)
    for file in files:
        evaluate([*argv, "--calibrator", str(file)])
    for file in files:
        compare(
            run / "test" / tag, run / "test" / f"{tag}+{file.stem}", title=f"{run}: {file.stem}"
        )


def fit_on_validation(run: Path, methods: Sequence[str], given: Settings) -> list[Path]:
    """Return the files of the calibrators, fitted in one pass of the network over the cases.

    The probabilities are kept in the run folder meanwhile, since a fit reads them several
    times.
    """
    from mbls.config.cli import command_line
    from mbls.posthoc import METHODS, fit, too_few
    from mbls.posthoc.kept import KeptPredictions

    keep = Path(tempfile.mkdtemp(prefix=".calibration-", dir=run))
    try:
        settings: Settings = [
            *run_settings(run, "best"),
            ("trainer.devices", "1"),  # one process sees all cases
            ("trainer.num_nodes", "1"),
            ("post_hoc.keep", str(keep)),
            ("post_hoc.images", str(any(METHODS[m].kind.needs_image for m in methods)).lower()),
            ("verbose", "false"),
        ]
        data = command_line(["validate", *to_argv([*settings, *given])]).datamodule
        kept = KeptPredictions(keep, data.cases("val"))
        patients = dict(zip(data.cases("val"), data.patients("val"), strict=True))
        files = []
        for method in methods:
            file = run / "calibrators" / f"{method}.json"
            file.parent.mkdir(exist_ok=True)
            calibrator = fit(method, kept, patients=patients, class_names=data.class_keys)
            calibrator.save(file)
            if warning := too_few(calibrator):
                print_once(f"! {method}: {warning}")
            files.append(file)
        return files
    finally:
        shutil.rmtree(keep, ignore_errors=True)


def compare(before: Path, after: Path, *, title: str) -> None:
    """Print the differences of two tests, and write them to ``calibration.json`` of the second."""
    from rich.console import Console

    from mbls.evaluation import TestRun
    from mbls.evaluation.paired import changed_share, differences, differences_table

    runs = [TestRun.load(folder / "bins.npz") for folder in (before, after)]
    found, changed = differences(*runs), changed_share(runs[1])
    rows = [
        {"metric": one.name, "before": one.before, "after": one.after, "interval": one.interval}
        for one in found
    ]
    content = {"before": before.name, "differences": rows, "changed_share": changed}
    (after / "calibration.json").write_text(json.dumps(content, indent=1) + "\n")
    console = Console()
    console.print(differences_table(found, title=title))
    if changed is not None:
        console.print(f"Voxels whose class changes: {100 * changed:.3f} %", highlight=False)
