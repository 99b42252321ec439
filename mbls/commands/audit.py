"""``mbls audit PREDICTIONS --labels LABELS``: score probability maps of any program.

The results are those of a test of a run of mbls, and ``mbls report`` compares them with runs.
"""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from rich.console import Console

from mbls.callbacks.run_card import PACKAGES, commit
from mbls.commands.apply import named_otherwise
from mbls.config.decide import OPTIMAL, named_decision
from mbls.config.options import parse, parser
from mbls.data import Batch
from mbls.decisions import Guarantee, OptimalDice, Thresholds
from mbls.evaluation import TestRun, regions_table, results_table, summary_table, write_results
from mbls.evaluation.scoring import TestMetrics
from mbls.predictions import Prediction, PredictionFolder, open_predictions
from mbls.runtime.clock import duration, stamped
from mbls.runtime.errors import DecisionError, RunFolderError, UsageError
from mbls.runtime.files import replace_file, replace_files, writing
from mbls.runtime.locks import locked_folder
from mbls.runtime.ranks import print_once

__all__ = [
    "audit",
    "audit_meta",
    "decision_for",
    "main",
    "place_of",
    "predictor_of",
    "prepared",
    "print_notes",
    "read_case",
    "renormalized_note",
    "score",
    "scored_cases",
    "source_of",
    "write_audit",
]

ABOUT = """Score probability maps of any program against labels: an nnU-Net v2 results folder, .npz
or NIfTI. Writes what a test of a run leaves; mbls report compares it with runs."""
TAG = "best"
N_BINS = 15
PATIENCE = 600.0  # seconds to wait for another audit that writes to the same folder
_NAME = re.compile(r"[\w.+-]+")


def main(args: list[str]) -> int:
    """Score the predictions in a folder, write the results, and print a summary."""
    options, rest = parse(parser("audit", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls audit --help.")
    audit(options, shlex.join(["mbls", "audit", *args]))
    return 0


def audit(options: argparse.Namespace, command: str) -> None:
    """Score predictions as the options say; see :func:`main`."""
    output, source, card = prepared(options, command)
    console = Console()
    lines: list[str] = []
    decision = None if options.decide is None else decision_for(options.decide, source)
    if isinstance(decision, Thresholds):
        require_new_patients(decision, source)
    runs = score(
        scored_cases(source, lines.append), source, audit_meta(source, card),
        decision=decision, margins=options.margins,
    )  # fmt: skip
    tag = TAG if decision is None else f"{TAG}+{decision.name}"
    found = write_audit(output, runs, card, log="".join(f"{line}\n" for line in lines), tag=tag)
    print_notes(renormalized_note(source))
    if source.kind == "regions" and not options.verbose:
        console.print(regions_table(found))
    else:
        for metrics in found.values():
            console.print((results_table if options.verbose else summary_table)(metrics))
    places = [output / region / "test" / tag for region in found]
    for place in places:
        console.print(f"Results: {place}", soft_wrap=True, markup=False, highlight=False)


def prepared(
    options: argparse.Namespace, command: str
) -> tuple[Path, PredictionFolder, dict[str, Any]]:
    """Return where results are written, the opened predictions, and the content of ``run.json``.

    Raises:
        UsageError: The name has other characters than tables show.
        RunFolderError: The output has something else.
        PredictionError: The predictions or labels cannot be read.
    """
    name, output, asked = place_of(options)
    source = source_of(options, options.predictions)
    print_notes(opening_notes(source))
    card = audit_card(source, name=name, seed=options.seed or 0)
    return output, source, card | {"audit": asked | audit_facts(source), "command": command}


def place_of(options: argparse.Namespace) -> tuple[str, Path, dict[str, str]]:
    """Return the name of an audit, the run folder to write, and what it is an audit of.

    Raises:
        UsageError: The name has other characters than tables show.
        RunFolderError: The folder has something else.
    """
    name = options.name or re.sub(r"[^\w.+-]+", "-", options.predictions.resolve().name)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--name must have letters, digits and . + - _ only, got {name!r}: the report's tables "
            "call the predictions so (make: NAME)."
        )
    output = options.output or Path("runs") / "audit" / name
    asked = {"predictions": str(options.predictions.resolve())}
    check_output(output, asked)
    return name, output, asked


def source_of(options: argparse.Namespace, predictions: Path, **others: Any) -> PredictionFolder:
    """Return a folder of predictions, opened as the options of a command say."""
    settings: dict[str, Any] = {
        "labels": options.labels, "name": getattr(options, "dataset", None),
        "format": options.format, "class_names": options.class_names,
        "label_values": options.label_values, "regions": options.regions, "axes": options.axes,
        "patient": getattr(options, "patient", None),
    }  # fmt: skip
    return open_predictions(predictions, **settings | others)


def read_case(source: PredictionFolder, case: str) -> Prediction:
    """Return the prediction of a case, and print what was odd in it."""
    known = len(source.notes)
    found = source.read(case)
    print_notes(source.notes[known:])
    return found


def print_notes(notes: Iterable[str]) -> None:
    """Print what a user should know."""
    for note in notes:
        Console().print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)


def check_output(output: Path, asked: Mapping[str, str]) -> None:
    """Refuse a folder that has something else than an earlier audit of the same predictions.

    Raises:
        RunFolderError: It has a run, or an audit of another folder.
    """
    cards = [output / "run.json", *sorted(output.glob("*/run.json"))]
    for card in (card for card in cards if card.is_file()):
        try:
            earlier = json.loads(card.read_text()).get("audit") or {}
        except (OSError, ValueError, AttributeError):
            earlier = {}
        if earlier.get("predictions") != asked["predictions"]:
            what = earlier.get("predictions", "something else")
            raise RunFolderError(
                f"{card.parent} has results of {what}. Choose another NAME (--name) or folder, "
                "OUTPUT=FOLDER (--output)."
            )


def scored_cases(source: PredictionFolder, log: Callable[[str], object]) -> Iterator[Prediction]:
    """Yield the predictions one by one, and print a line for each when it has been scored."""
    number = len(source.cases)
    begin = time.monotonic()
    for done, case in enumerate(source.cases, 1):
        start = time.monotonic()
        yield read_case(source, case)
        seconds = time.monotonic() - start
        left = (time.monotonic() - begin) / done * (number - done)
        line = f"case {done} of {number}, {case}: {seconds:.1f} s, {duration(left)} left"
        print_once(stamped(line))
        log(stamped(line))


def score(
    predictions: Iterable[Prediction],
    source: PredictionFolder,
    meta: Mapping[str, Any],
    calibrate: Callable[[Prediction], Prediction] | None = None,
    *,
    decision: Thresholds | OptimalDice | None = None,
    margins: bool = False,
) -> dict[str, TestRun]:
    """Return the counts of predictions, each read once.

    Args:
        predictions: Those of all cases of ``source``, in its order.
        source: Where they are from: names of the cases and classes.
        meta: Description of the test.
        calibrate: What is done to each prediction before it is scored.
        decision: Chooses the classes; None for those of the highest probability.
        margins: If True, voxels within margins of the predicted structures are counted.

    Returns:
        One test, by the name ``"."``; of regions, one of two classes each by the region's name.
    """
    whole = source.kind == "classes"
    settings: dict[str, Any] = {"margins": margins, "unions": source.unions if whole else None}
    names = (".",) if whole else tuple(map(folder_name, source.class_names))
    classes = len(source.class_names) if whole else 2
    metrics = {n: TestMetrics(classes, len(source.cases), **settings) for n in names}
    with torch.inference_mode():
        for number, prediction in enumerate(predictions):
            scored = prediction if calibrate is None else calibrate(prediction)
            for place, one in enumerate(metrics.values()):
                part, raw = (each if whole else each.binary(place) for each in (scored, prediction))
                probs = part.probs[None]
                changed = calibrate is not None or decision is not None
                before = raw.probs.argmax(dim=0)[None] if changed else None
                decided = None if decision is None else decision.label_map(probs)
                one.update(probs, batch_of(part, number), classes=decided, before=before)
    chosen = {} if decision is None else {"decision": decision.name}
    described = {
        name: {**meta, **chosen, **({} if whole else region_meta(source.class_names[place]))}
        for place, name in enumerate(names)
    }
    return {
        name: one.run(cases=source.cases, patients=source.patients, meta=described[name])
        for name, one in metrics.items()
    }


def batch_of(prediction: Prediction, number: int) -> Batch:
    """Return a case as a batch of one, with its number."""
    found = {
        "label": prediction.label[None],
        "case": [prediction.case],
        "index": torch.tensor([number]),
        "spacing": torch.tensor([prediction.spacing], dtype=torch.float32),
    }
    return cast(Batch, found)


def decision_for(how: str, source: PredictionFolder) -> OptimalDice | Thresholds | None:
    """Return what ``dice``, ``argmax`` or a file of thresholds means for predictions.

    Raises:
        DecisionError: It is none of these, or a file of other classes.
    """
    named = named_decision(how)
    if named == "threshold":
        raise DecisionError(
            "threshold is the file of a run of mbls. For other predictions name the file: "
            "make thresholds RUN=runs/audit/NAME writes RUN/decisions/dice.json."
        )
    if named in ("argmax", OPTIMAL):
        return None if named == "argmax" else OptimalDice()
    found, theirs = Thresholds.load(Path(named)), source.class_names
    mine = found.class_keys
    if source.kind == "regions" or len(mine) != len(theirs) or named_otherwise(mine, theirs):
        raise DecisionError(
            f"{named} has thresholds of the {len(mine)} classes {', '.join(mine)}, and "
            f"{source.root} has {len(theirs)} {source.kind} ({', '.join(theirs)}): choose "
            f"thresholds of these, or take dice. Other names: --class-names."
        )
    if found.calibrator is not None:
        print_notes([
            f"The thresholds are of probabilities calibrated by {found.calibrator}: is this what "
            f"{source.root} has (mbls apply)?"
        ])  # fmt: skip
    return found


def guarantee_for(file: Path, source: PredictionFolder) -> Guarantee:
    """Return a guarantee for predictions.

    Raises:
        DecisionError: It is of other classes, or the predictions are of regions.
    """
    found, theirs = Guarantee.load(file), source.class_names
    mine = found.class_keys
    if source.kind == "regions" or len(mine) != len(theirs) or named_otherwise(mine, theirs):
        raise DecisionError(
            f"{file} is of the {len(mine)} classes {', '.join(mine)}, and {source.root} has "
            f"{len(theirs)} {source.kind} ({', '.join(theirs)}): calibrate one to an audit of the "
            "same program's predictions (make audit, make guarantee). Other names: --class-names."
        )
    return found


def require_new_patients(thresholds: Thresholds, source: PredictionFolder) -> None:
    """Require that thresholds were chosen on none of the patients that are scored.

    Raises:
        DecisionError: They have seen a patient.
    """
    if seen := sorted(set(thresholds.patients) & set(source.patients)):
        raise DecisionError(
            f"The thresholds for {thresholds.target} were chosen on {len(seen)} of these patients "
            f"({', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''}): this would be no valid "
            "test. make thresholds RUN=... cross-fits those of an audit."
        )


def audit_meta(source: PredictionFolder, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a test of predictions, for ``metrics.json`` and ``bins.npz``."""
    keys = [re.sub(r"\W+", "_", one.lower()).strip("_") for one in source.class_names]
    return {
        "dataset": source.name,
        "loss": card["loss"],
        **({"seed": card["seed"]} if card["seed"] else {}),
        "origin": source.origin,
        "data_fingerprint": None,
        "class_names": list(source.class_names),
        "class_keys": keys,
        "predictor": predictor_of(source),
        "grid": "native",
        "n_bins": N_BINS,
    }


def predictor_of(source: PredictionFolder) -> str:
    """Return a short hash of the files of probabilities: their names, sizes and times.

    It is equal for tests of one export, before and after a calibration, and differs once a file is
    written again.
    """
    content = hashlib.sha256()
    for path in (path for one in source.found.values() for path in one.stored.paths):
        stat = path.stat()
        name = path.relative_to(source.root).as_posix()
        content.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return content.hexdigest()[:12]


def region_meta(region: str) -> dict[str, Any]:
    """Return what differs in the description of a region's test."""
    return {
        "class_names": [f"outside {region}", region],
        "class_keys": ["outside", folder_name(region)],
        "region": region,
    }


def folder_name(region: str) -> str:
    """Return a region's name as that of a folder.

    Example:
        >>> folder_name("whole tumor")
        'whole-tumor'
    """
    return re.sub(r"[^\w.+-]+", "-", region).strip(".-") or "region"


def audit_card(source: PredictionFolder, *, name: str, seed: int = 0) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    return {
        "dataset": source.name,
        "network": None,
        "loss": name,
        "preset": None,
        "seed": seed,
        "fold": None,
        "data_origin": source.origin,
        "data_fingerprint": None,
        "cases": {"test": len(source.cases)},
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
        "finished": True,
    }


def audit_facts(source: PredictionFolder) -> dict[str, Any]:
    """Return what was read, for ``run.json``."""
    labels = sorted({str(one.label.parent) for one in source.found.values()})
    return {
        "labels": labels[:10],
        "format": source.format,
        "axes": source.axes,
        "folds": sorted(set(source.folds)) if source.folds is not None else None,
        "notes": source.notes,
        "renormalized": source.renormalized,  # not copied: it is filled by reading
    }


def write_audit(
    output: Path,
    runs: Mapping[str, TestRun],
    card: Mapping[str, Any],
    *,
    log: str = "",
    tag: str = TAG,
) -> dict[str, dict[str, Any]]:
    """Write run folders that a report reads, and return the content of each ``metrics.json``.

    Args:
        output: The run folder; the folder of those of the regions.
        runs: Result of :func:`score`.
        card: Content of ``run.json``.
        log: Content of ``audit.log``.
        tag: Name of the results' folder below ``test/``.

    Raises:
        OutputError: The folder cannot be written.
    """
    found = {}
    for name, run in runs.items():
        folder, test = output / name, output / name / "test" / tag
        with writing(test):
            test.mkdir(parents=True, exist_ok=True)
        own = dict(card) | {"dataset": run.meta["dataset"]}
        config = {"seed_everything": card["seed"], "model": {"loss": card["loss"]}}
        with (
            locked_folder(test, patience=PATIENCE),
            writing(test),
            replace_files(test, mark="metrics.json") as incoming,
        ):
            found[name] = write_results(incoming, run)
            replace_file(folder / "config.yaml", yaml.safe_dump(config).encode())
            replace_file(folder / "audit.log", log.encode())
        replace_file(folder / "run.json", (json.dumps(own, indent=2) + "\n").encode())
    return found


def opening_notes(source: PredictionFolder) -> list[str]:
    """Return what a user should know before the cases are read."""
    folds = sorted(set(source.folds)) if source.folds is not None else []
    kind = "regions" if source.kind == "regions" else "classes"
    held = f", validation of fold {', '.join(map(str, folds))}" if folds else ""
    first = (
        f"{source.name}: {len(source.cases)} cases{held} ({source.format}, axes {source.axes}); "
        f"{len(source.class_names)} {kind}: {', '.join(source.class_names)}."
    )
    return [first, *source.notes]


def renormalized_note(source: PredictionFolder) -> list[str]:
    """Return how many voxels were renormalized, if any."""
    if not source.renormalized:
        return []
    voxels, cases = sum(source.renormalized.values()), len(source.renormalized)
    return [
        f"{voxels} voxels of {cases} cases renormalized: their sums were off by the rounding of "
        "the stored numbers."
    ]
