"""``mbls apply CALIBRATOR PREDICTIONS OUTPUT``: calibrate probability maps of any program."""

from mbls.config.options import parse, parser
from mbls.runtime.clock import stamped
from mbls.runtime.errors import UsageError
from mbls.runtime.ranks import print_once

__all__ = ["main"]

ABOUT = """Write calibrated probabilities and their label maps in the format and under the names
that they came in. Labels are not needed."""


def main(args: list[str]) -> int:
    """Apply a calibrator to each case of a folder, one at a time."""
    options, rest = parse(parser("apply", ABOUT), args)
    if rest:
        raise UsageError(f"Unknown option --{rest[0][0]}. See mbls apply --help.")

    from mbls.commands.audit import print_notes, source_of
    from mbls.posthoc import Calibrator

    calibrator = Calibrator.load(options.calibrator)
    names = calibrator.card.class_names
    source = source_of(options, options.predictions, labeled=False)
    if len(source.class_names) != len(names):
        raise UsageError(
            f"{options.calibrator} is of {len(names)} classes ({', '.join(names)}), and "
            f"{options.predictions} has {len(source.class_names)} "
            f"({', '.join(source.class_names)}): fit one to these classes."
        )
    if seen := sorted(set(calibrator.card.cases) & set(source.cases)):
        print_notes([
            f"The calibrator was fitted to {len(seen)} of these cases ({', '.join(seen[:3])}"
            f"{', ...' if len(seen) > 3 else ''}): results on them would be no valid test."
        ])  # fmt: skip
    print_notes(source.notes)
    for number, case in enumerate(source.cases, 1):
        log_probs = source.read(case).log_probs()
        source.write(options.output, case, calibrator.apply(log_probs, dim=0).exp_())
        print_once(stamped(f"case {number} of {len(source.cases)}, {case}"))
    print_once(f"Predictions: {options.output}")
    return 0
