"""``mbls apply CALIBRATOR PREDICTIONS OUTPUT``: calibrate probability maps of any program."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mbls.config.options import parse, parser
from mbls.runtime.clock import stamped
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from mbls.posthoc import Calibrator
    from mbls.predictions import PredictionFolder

__all__ = ["main", "named_otherwise"]

ABOUT = """Write calibrated probabilities and their label maps in the format and under the names
that they came in. Labels are not needed."""
_NUMBERED = re.compile(r"background|foreground|(class|label)?_?\d+")  # keys that nobody chose


def main(args: list[str]) -> int:
    """Apply a calibrator to each case of a folder, one at a time."""
    options, rest = parse(parser("apply", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls apply --help.")

    from mbls.commands.audit import print_notes, read_case, source_of
    from mbls.posthoc import Calibrator
    from mbls.predictions.folder import require_new_folder

    calibrator = Calibrator.load(options.calibrator)
    source = source_of(options, options.predictions, labeled=False)
    require_same_classes(options.calibrator, calibrator, source)
    require_new_folder(options.output, [source])
    if seen := sorted(set(calibrator.card.cases) & set(source.cases)):
        print_notes([
            f"The calibrator was fitted to {len(seen)} of these cases ({', '.join(seen[:3])}"
            f"{', ...' if len(seen) > 3 else ''}): results on them would be no valid test."
        ])  # fmt: skip
    print_notes(source.notes)
    for number, case in enumerate(source.cases, 1):
        log_probs = read_case(source, case).log_probs()
        source.write(options.output, case, calibrator.apply(log_probs, dim=0).exp_())
        print_once(stamped(f"case {number} of {len(source.cases)}, {case}"))
    print_once(f"Predictions: {options.output}")
    return 0


def require_same_classes(file: Path, calibrator: "Calibrator", source: "PredictionFolder") -> None:
    """Require that a calibrator is of the classes, or the regions, of predictions.

    Names are compared where both are known, without the case of letters and punctuation.

    Raises:
        UsageError: Classes in place of regions, another number of them, or other names.
    """
    from mbls.posthoc import Regions

    mine, theirs = calibrator.card.class_names, source.class_names
    kind = "regions" if isinstance(calibrator, Regions) else "classes"
    head = (
        f"{file} is of {len(mine)} {kind} ({', '.join(mine)}), and {source.root} has "
        f"{len(theirs)} {source.kind} ({', '.join(theirs)})"
    )
    if kind != source.kind or len(mine) != len(theirs):
        raise UsageError(f"{head}: fit one to these {source.kind}.")
    if named_otherwise(mine, theirs):
        raise UsageError(
            f"{head}: fit one to these, or if they are the same in this order under other names, "
            f'say so: CLASS_NAMES="{",".join(mine)}" (--class-names).'
        )


def named_otherwise(mine: Sequence[str], theirs: Sequence[str]) -> bool:
    """Return True if names are known on both sides and differ, apart from case and punctuation."""
    keys = [_keys(names) for names in (mine, theirs)]
    named = [not all(map(_NUMBERED.fullmatch, each)) for each in keys]
    return all(named) and keys[0] != keys[1]


def _keys(names: Sequence[str]) -> list[str]:
    """Return names as those of results are written, ``right_ventricle`` for ``Right ventricle``."""
    return [re.sub(r"\W+", "_", name.lower()).strip("_") for name in names]
