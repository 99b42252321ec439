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
from mbls.config.ensembles import refuse_shared_validation
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, given, overrides, parse, parser, to_argv
from mbls.runtime.clock import stamped
from mbls.runtime.errors import RunFolderError, UsageError
from mbls.runtime.files import replace_file, writing
from mbls.runtime.locks import locked_folder
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
    methods = (options.method or "temperature").split(",")
    check_options(options, methods, rest)
    if options.run is not None:
        calibrate_run(options.run, methods, [*overrides(options), *rest])
    else:
        calibrate_folder(options, methods, shlex.join(["mbls", "calibrate", *args]))
    return 0


def check_options(options: argparse.Namespace, methods: Sequence[str], rest: Settings) -> None:
    """Check the options and methods before any case is read.

    Raises:
        UsageError: An option is missing, of the other kind of calibration, or unknown.
        MissingExtraError: A method needs a package that is not installed.
    """
    from mbls.posthoc import METHODS
    from mbls.posthoc.methods import new_fit

    if (options.run is None) == (options.predictions is None):
        raise UsageError(
            "Give a run folder (RUN=, --run), or a folder of predictions with its labels "
            "(PREDICTIONS= LABELS=; mbls calibrate PREDICTIONS --labels LABELS)."
        )
    of_run = options.run is not None
    for option, _ in given(options):
        shared = option.name in ("run", "predictions", "method")
        if not shared and of_run == (option.of("audit") or option.name == "groups"):
            other = "predictions of another program" if of_run else "a run of mbls (--run)"
            raise UsageError(f"{option.flag} is for {other}: leave it out.")
    if rest and not of_run:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls calibrate --help.")
    for method in methods:
        if method not in METHODS:
            hint = did_you_mean(method, METHODS)
            raise UsageError(f"Unknown method {method!r}.{hint} There are: {', '.join(METHODS)}.")
        if METHODS[method].kind.needs_image and not of_run:
            raise UsageError(f"{method} looks at the image, and is for runs of mbls (--run) alone.")
        new_fit(method, 2, 0)


def calibrate_run(run: Path, methods: Sequence[str], given: Settings) -> None:
    """Fit on the validation patients of a run, and test with each calibrator.

    The calibrators are ``RUN/calibrators/<method>.json``, of another test than ``best`` in a folder
    of its name; the results are ``test/best+<method>``.
    """
    refuse_shared_validation(run)
    tag = tag_of(TAG, given, read_run_config(run / "config.yaml"))
    folder = run / "calibrators" / ("" if tag == TAG else tag)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder, patience=0):
        for left in run.glob(".calibration-*"):  # of a killed fit
            shutil.rmtree(left, ignore_errors=True)
        predictor = fit_on_validation(run, folder, methods, given)
    argv = [str(run), *to_argv([("results.show", "false"), *given])]
    if not is_tested(run / "test" / tag, predictor=predictor):
        evaluate(argv)
    for method in methods:
        evaluate([*argv, "--calibrator", str(folder / f"{method}.json")])
    for method in methods:
        after = run / "test" / f"{tag}+{method}"
        compare(run / "test" / tag, after, title=f"{run}: {method}")


def is_tested(folder: Path, **described: str | None) -> bool:
    """Return True if a folder has the results of a test with this in its description."""
    from mbls.evaluation import load_results

    try:
        meta = load_results(folder).metrics["meta"]
    except (OSError, ValueError, KeyError):
        return False
    return all(value is not None and meta.get(name) == value for name, value in described.items())


def fit_on_validation(
    run: Path, folder: Path, methods: Sequence[str], given: Settings
) -> str | None:
    """Fit on one pass of the network over the validation cases; return the hash of its weights.

    The probabilities are kept in the run folder meanwhile, since a fit reads them several times.
    """
    from mbls.callbacks.post_hoc import PostHoc
    from mbls.callbacks.run_folder import find_callback
    from mbls.config.cli import command_line
    from mbls.posthoc import METHODS, fit, too_few
    from mbls.posthoc.kept import KeptPredictions

    with writing(run):
        keep = Path(tempfile.mkdtemp(prefix=".calibration-", dir=run))
    try:
        settings: Settings = [
            *run_settings(run, TAG),
            ("post_hoc.keep", str(keep)),
            ("post_hoc.images", str(any(METHODS[m].kind.needs_image for m in methods)).lower()),
            ("verbose", "false"),
            *given,
            ("trainer.devices", "1"),  # one process sees all cases
            ("trainer.num_nodes", "1"),
            ("trainer.limit_val_batches", "1.0"),
        ]
        cli = command_line(["validate", *to_argv(settings)])
        data = cli.datamodule
        kept = KeptPredictions(keep, data.cases("val"))
        patients = dict(zip(data.cases("val"), data.patients("val"), strict=True))
        predictor = find_callback(cli.trainer, PostHoc).predictor
        for method in methods:
            calibrator = fit(method, kept, patients=patients, class_names=data.class_keys)
            calibrator.reported(predictor=predictor).save(folder / f"{method}.json")
            print_once(fitted_line(method, calibrator))
            if warning := too_few(calibrator):
                print_once(f"! {warning}")
        return predictor
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
        with writing(file):
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
    """Return a line about a fit, of regions one for each."""
    from mbls.posthoc import Regions

    if isinstance(calibrator, Regions):
        names = zip(calibrator.card.class_names, calibrator.calibrators, strict=True)
        return "\n".join(fitted_line(f"{name}: {method}", part) for name, part in names)
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

    Raises:
        RunFolderError: There is one patient alone.
    """
    from mbls.posthoc import patient_groups

    if len(names := set(patients)) == 1:
        raise RunFolderError(
            f"An audit of one patient cannot be cross-fitted: all {len(patients)} cases are of "
            f"{names.pop()}, and nobody else is left to choose on. Give cases of several patients, "
            "or the expression that finds a patient in a case's name (PATIENT=, --patient)."
        )
    if wanted is None and folds is not None and len(set(folds)) > 1:
        groups = dict(zip(patients, folds, strict=True))
        if all(groups[patient] == fold for patient, fold in zip(patients, folds, strict=True)):
            return groups, "the cases of its fold"
    number = min(wanted or GROUPS, len(names))
    return patient_groups(patients, number), f"the patients of its group, of {number} at random"


def compare(before: Path, after: Path, *, title: str) -> None:
    """Print the differences of two tests, and write them to ``calibration.json`` of the second."""
    from rich.console import Console

    from mbls.evaluation import TestRun
    from mbls.evaluation.paired import changed_share, differences, differences_table, unlike

    runs = [TestRun.load(folder / "bins.npz") for folder in (before, after)]
    if differing := unlike(runs[0].meta, runs[1].meta):
        raise RunFolderError(
            f"{before} and {after} are no tests before and after calibration: the second has "
            f"{'; '.join(differing)}. Test the first again (mbls evaluate, mbls audit)."
        )
    found, changed = differences(*runs), changed_share(runs[1])
    rows = [
        {"metric": one.name, "before": one.before, "after": one.after, "interval": one.interval}
        for one in found
    ]
    content = {"before": before.name, "differences": rows, "changed_share": changed}
    replace_file(after / "calibration.json", (json.dumps(content, indent=1) + "\n").encode())
    console = Console()
    number = len(set(runs[1].patients))
    console.print(differences_table(found, title=title, patients=number))
    if changed is not None:
        console.print(f"Voxels whose class changes: {100 * changed:.3f} %", highlight=False)
