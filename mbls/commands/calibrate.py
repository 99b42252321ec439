"""``mbls calibrate``: fit post-hoc calibrators on some patients, report them on others."""

import argparse
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbls.commands.evaluate import main as evaluate
from mbls.commands.evaluate import run_settings, tag_of
from mbls.config.choices import did_you_mean
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, overrides, parse, parser, to_argv
from mbls.runtime.clock import stamped
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.posthoc import Calibrator
    from mbls.predictions import Prediction

__all__ = ["main"]

TAG = "best"
GROUPS = 5  # of a cross-fit without folds

ABOUT = """Fit post-hoc calibrators on the validation patients of a run and test them, or cross-fit
them on a folder of predictions with labels: each case is calibrated by a map that has not seen its
patient."""


def main(args: list[str]) -> int:
    """Fit, save as JSON, and report before and after with paired intervals."""
    options, rest = parse(parser("calibrate", ABOUT), args)
    if (options.run is None) == (options.predictions is None):
        raise UsageError(
            "Give a run folder (RUN=, --run), or a folder of predictions with its labels "
            "(PREDICTIONS= LABELS=; mbls calibrate PREDICTIONS --labels LABELS)."
        )
    methods = (options.method or "temperature").split(",")
    from mbls.posthoc import METHODS

    for method in methods:
        if method not in METHODS:
            hint = did_you_mean(method, METHODS)
            raise UsageError(f"Unknown method {method!r}.{hint} There are: {', '.join(METHODS)}.")
    if options.run is not None:
        calibrate_run(options.run, methods, [*overrides(options), *rest])
        return 0
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls calibrate --help.")
    calibrate_folder(options, methods, shlex.join(["mbls", "calibrate", *args]))
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
            print_once(fitted_line(method, calibrator))
            if warning := too_few(calibrator):
                print_once(f"! {warning}")
            files.append(file)
        return files
    finally:
        shutil.rmtree(keep, ignore_errors=True)


def calibrate_folder(options: argparse.Namespace, methods: Sequence[str], command: str) -> None:
    """Cross-fit on predictions of any program, and score each case by a map of others' patients.

    The groups are the folds of nnU-Net's validation, or of patients at random. The calibrators for
    new cases are fitted on all, ``OUTPUT/calibrators/<method>.json``.
    """
    from mbls.commands.audit import audit_meta, prepared, print_notes, score, write_audit
    from mbls.posthoc import cross_fit, fit, too_few

    output, source, card = prepared(options, command)
    patients = dict(zip(source.cases, source.patients, strict=True))
    groups, how = patient_groups_of(source.patients, source.folds, options.groups)
    print_notes([f"Each case is calibrated by a map that was fitted without {how}."])
    fitting: dict[str, Any] = {"patients": patients, "class_names": source.class_names}
    meta = audit_meta(source, card)

    def stream() -> "Iterator[Prediction]":
        return map(source.read, source.cases)

    before = score(stream(), source, meta)
    write_audit(output, before, card)
    for method in methods:
        print_once(stamped(f"fitting {method} to {len(source.cases)} cases"))
        found = cross_fit(method, stream, groups, **fitting)

        def calibrated(prediction: "Prediction", found: Any = found) -> "Prediction":
            own = found[groups[patients[prediction.case]]]
            return replace(prediction, probs=own.apply(prediction.log_probs(), dim=0).exp_())

        described = {**meta, "calibrator": method, "groups": len(found)}
        after = score(stream(), source, described, calibrated)
        write_audit(output, after, card, tag=f"{TAG}+{method}")
        whole = fit(method, stream, **fitting)
        file = output / "calibrators" / f"{method}.json"
        file.parent.mkdir(exist_ok=True)
        whole.save(file)
        print_once(fitted_line(method, whole))
        if warning := too_few(whole):
            print_notes([f"{method}: {warning}"])
        for region in after:
            folders = [output / region / "test" / tag for tag in (TAG, f"{TAG}+{method}")]
            title = method if region == "." else f"{region}: {method}"
            compare(*folders, title=f"{source.name}: {title}, cross-fitted")
        print_once(f"For new cases: mbls apply {file} PREDICTIONS OUTPUT")


def fitted_line(method: str, calibrator: "Calibrator") -> str:
    """Return a line about a fit."""
    report = calibrator.card.report
    parts = [f"{len(calibrator.card.patients)} patients"]
    if (value := report.get("temperature")) is not None:
        error = report.get("temperature_se")
        parts.append(f"T {value:.4f}" + ("" if error is None else f", standard error {error:.4f}"))
    if {"nll_before", "nll_after"} <= report.keys():
        parts.append(f"NLL {report['nll_before']:.5f} -> {report['nll_after']:.5f}")
    return f"{method}, fitted to {', '.join(parts)}"


def patient_groups_of(
    patients: Sequence[str], folds: Sequence[int] | None, wanted: int | None
) -> tuple[dict[str, int], str]:
    """Return a group of each patient for a cross-fit, and what a group is.

    Args:
        patients: Patient of each case.
        folds: Fold of each case, if known.
        wanted: How many groups of patients at random; None for the folds, or else 5.
    """
    from mbls.posthoc import patient_groups

    if wanted is None and folds is not None and len(set(folds)) > 1:
        groups = dict(zip(patients, folds, strict=True))
        if all(groups[patient] == fold for patient, fold in zip(patients, folds, strict=True)):
            return groups, "the cases of its fold"
    number = min(wanted or GROUPS, len(set(patients)))
    return patient_groups(patients, number), f"the patients of its group, of {number} at random"


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
    number = len(set(runs[1].patients))
    console.print(differences_table(found, title=title, patients=number))
    if changed is not None:
        console.print(f"Voxels whose class changes: {100 * changed:.3f} %", highlight=False)
