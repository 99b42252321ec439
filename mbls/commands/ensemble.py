"""``mbls ensemble PREDICTIONS PREDICTIONS ...``: average folders of probability maps.

Trained runs of mbls are averaged without files in between: ``mbls evaluate --runs "A B"``, ``mbls
predict --runs "A B"``.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbls.config.options import parse, parser
from mbls.runtime.clock import stamped
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from torch import Tensor

    from mbls.predictions import PredictionFolder

__all__ = ["main"]

ABOUT = """Write the mean probabilities of several folders of predictions in the format of the
first, with maps of the uncertainty, in nats; with labels the mean is also audited."""


def main(args: list[str]) -> int:
    """Average the cases that all folders have, one at a time."""
    options, rest = parse(parser("ensemble", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls ensemble --help.")
    if len(options.predictions) < 2 or options.output is None:
        raise UsageError("Name two or more folders of predictions, and --output FOLDER.")
    audited = None if options.labels is None else audit_options(options)
    average(options)
    print_once(f"Predictions: {options.output}")
    if audited is not None:
        from mbls.commands.audit import audit

        audit(audited, shlex.join(["mbls", "ensemble", *args]))
    return 0


def audit_options(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options of the audit of the mean: all that both commands have.

    Raises:
        UsageError: The name has other characters than tables show.
        RunFolderError: The audit's folder has something else.
    """
    from mbls.commands.audit import place_of

    found, _ = parse(parser("audit", None), [str(options.output)])
    own = {"predictions", "output", "command"}
    shared = (vars(options).keys() & vars(found).keys()) - own
    audited = argparse.Namespace(**vars(found) | {name: getattr(options, name) for name in shared})
    place_of(audited)
    return audited


def average(options: argparse.Namespace) -> None:
    """Write the mean of each case, its maps of uncertainty, and ``uncertainty.csv``."""
    import pandas as pd

    from mbls.commands.audit import print_notes, renormalized_note, source_of
    from mbls.predictions.folder import require_new_folder
    from mbls.runtime.files import replace_file

    # with labels they are read from the start, so that what is wrong with them stops the first case
    known = options.labels is not None
    sources = [source_of(options, folder, labeled=known) for folder in options.predictions]
    print_notes(f"{source.root}: {note}" for source in sources for note in source.notes)
    require_new_folder(options.output, sources)
    first = sources[0]
    for other in sources[1:]:
        if other.class_names != first.class_names or other.kind != first.kind:
            raise UsageError(
                f"All folders must have the same {first.kind}: {other.root} has "
                f"{', '.join(other.class_names)}, {first.root} {', '.join(first.class_names)}."
            )
    shared = [case for case in first.cases if all(case in other.cases for other in sources)]
    if not shared:
        raise UsageError("No case is in all folders: see that the files have the same names.")
    require_same_grids(sources, shared)
    left = len({case for source in sources for case in source.cases}) - len(shared)
    if left:
        print_notes([f"{left} cases are not in all folders and are left out."])
    rows = []
    for number, case in enumerate(shared, 1):
        rows.append(write_mean(sources, case, options.output))
        print_once(stamped(f"case {number} of {len(shared)}, {case}"))
    print_notes(f"{each.root}: {note}" for each in sources for note in renormalized_note(each))
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    replace_file(options.output / "uncertainty.csv", text.encode())


def require_same_grids(sources: Sequence["PredictionFolder"], cases: Sequence[str]) -> None:
    """Require that each case is on one grid in all folders; only headers are read.

    Raises:
        UsageError: A shape or a place differs.
    """
    from mbls.predictions.grids import corners_apart, same_place
    from mbls.predictions.opening import grid_header

    for case in cases:
        files = [source.found[case] for source in sources]
        (shape, affine), *others = map(grid_header, files)
        for file, (other, theirs) in zip(files[1:], others, strict=True):
            if other == shape and same_place(shape, theirs, affine):
                continue
            how = (
                f"the shapes are {other} and {shape}"
                if other != shape
                else "the affines put a corner of the volume "
                f"{corners_apart(shape, theirs, affine):.4g} mm apart"
            )
            raise UsageError(
                f"{case} is on different grids: {file.label} is not on that of {files[0].label}, "
                f"{how}. Resample the one folder to the grids of the other."
            )


def write_mean(sources: Sequence["PredictionFolder"], case: str, output: Path) -> dict[str, Any]:
    """Write the mean of a case and its maps, and return its row of ``uncertainty.csv``."""
    import torch

    from mbls.commands.audit import read_case
    from mbls.posthoc.ensemble import pairwise_dice, uncertainty
    from mbls.posthoc.regions import two_classes

    found = [read_case(source, case) for source in sources]
    mean = torch.stack([each.probs.double() for each in found]).mean(dim=0)
    sources[0].write(output, case, mean.float())
    logs = [each.log_probs() for each in found]
    if found[0].regions:
        each_region = [
            uncertainty([two_classes(log[r]) for log in logs]) for r in range(len(logs[0]))
        ]
        maps = {n: torch.stack([one[n] for one in each_region]) for n in each_region[0]}
        labels = [(each.probs > 0.5) for each in found]
        agreed = [
            pairwise_dice([label[r].long() for label in labels], 2) for r in range(len(logs[0]))
        ]
        dice = float(torch.tensor(agreed).nanmean())
    else:
        maps = uncertainty(logs)
        dice = pairwise_dice([each.probs.argmax(dim=0) for each in found], len(logs[0]))
    for name, values in maps.items():
        _write_map(sources[0], case, output, name, values)
    means = {f"mean_{name}": float(values.mean()) for name, values in maps.items()}
    return {"case": case, **means, "pairwise_dice": dice}


def _write_map(
    source: "PredictionFolder", case: str, output: Path, name: str, values: "Tensor"
) -> None:
    """Write a map ``(*S)``, or one of each region ``(R, *S)`` with the regions last, as NIfTI."""
    import nibabel as nib

    from mbls.predictions.stored import save_nifti

    array = values.movedim(0, -1) if values.ndim > 3 else values
    folder = output / "uncertainty"
    folder.mkdir(parents=True, exist_ok=True)
    grid = nib.load(source.found[case].label)
    save_nifti(folder / f"{case}_{name}.nii.gz", array.float().numpy(), grid)
