"""``mbls decide HOW PREDICTIONS OUTPUT``: label maps of any program's probabilities, by a rule."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mbls.config.options import parse, parser
from mbls.runtime.clock import stamped
from mbls.runtime.errors import DecisionError, UsageError
from mbls.runtime.ranks import print_once

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mbls.predictions import PredictionFolder

__all__ = ["main"]

ABOUT = """Write label maps of probability maps: the masks of the highest expected Dice (dice), by a
file of thresholds, or the likeliest class (argmax); or the outer and inner masks of a guarantee.
Labels are not needed."""


def main(args: list[str]) -> int:
    """Decide each case of a folder, one at a time."""
    options, rest = parse(parser("decide", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls decide --help.")

    from mbls.commands.audit import decision_for, print_notes, read_case, source_of
    from mbls.decisions import Thresholds
    from mbls.decisions.guarantee import is_guarantee
    from mbls.predictions.folder import require_new_folder

    source = source_of(options, options.predictions, labeled=False)
    if is_guarantee(Path(options.decide)):
        write_promised(source, Path(options.decide), options.output)
        return 0
    decision = decision_for(options.decide, source)
    if source.kind == "regions" and source.channels.order is None:
        raise DecisionError(
            f"The regions {', '.join(source.class_names)} of {source.root} have no order, so there "
            "is no label map: state one as regions_class_order in dataset.json."
        )
    require_new_folder(options.output, [source])
    chosen_on = decision.cases if isinstance(decision, Thresholds) else ()
    print_notes([*seen_note(chosen_on, source), *source.notes])
    for number, case in enumerate(source.cases, 1):
        probs = read_case(source, case).probs
        if source.kind == "regions":
            chosen = region_masks(probs, optimal=decision is not None)
        else:
            whole = probs[None]
            chosen = whole.argmax(dim=1)[0] if decision is None else decision.label_map(whole)[0]
        source.write_label(options.output, case, chosen)
        print_once(stamped(f"case {number} of {len(source.cases)}, {case}"))
    print_once(f"Label maps: {options.output}")
    return 0


def write_promised(source: "PredictionFolder", file: Path, output: Path) -> None:
    """Write the outer and inner masks of a guarantee for each case."""
    from mbls.commands.audit import guarantee_for, print_notes, read_case
    from mbls.decisions.masks import promised_masks
    from mbls.predictions.folder import require_new_folder

    found = guarantee_for(file, source)
    require_new_folder(output, [source])
    print_notes([*seen_note(found.cases, source), *source.notes])
    print_once(
        f"{found.promise.text.capitalize()}: this holds for predictions of the program that was "
        "audited, of patients like those of the audit."
    )
    for number, case in enumerate(source.cases, 1):
        one = read_case(source, case)
        masks = promised_masks(found, one.probs, unions=source.unions, spacing=one.spacing)
        source.write_masks(output, case, masks)
        print_once(stamped(f"case {number} of {len(source.cases)}, {case}"))
    print_once(f"Masks: {output}")


def seen_note(chosen_on: "Sequence[str]", source: "PredictionFolder") -> list[str]:
    """Return a line if some of the cases were used to choose."""
    seen = sorted(set(chosen_on) & set(source.cases))
    named = ", ".join(seen[:3]) + (", ..." if len(seen) > 3 else "")
    text = (
        f"{len(seen)} of these cases ({named}) were used to choose what decides: results on them "
        "would be no valid test."
    )
    return [text] if seen else []


def region_masks(probs: Tensor, *, optimal: bool) -> Tensor:
    """Return the mask of each region ``(R, *S)``, Dice-optimal or of probabilities above 1/2."""
    from mbls.decisions import optimal_dice

    dice = optimal_dice(probs[None])[0] if optimal else torch.ones(len(probs))
    limits = (dice / 2).float()
    return torch.stack([p > limit for p, limit in zip(probs, limits, strict=True)])
