"""How voxels get their classes: ``DECIDE=argmax``, ``dice``, ``threshold`` or a file.

Imports nothing heavy: a typo is reported at once.
"""

from pathlib import Path

from mbls.config.choices import did_you_mean
from mbls.config.options import Settings
from mbls.runtime.errors import DecisionError

__all__ = ["FOLDER", "OPTIMAL", "TAG", "WORDS", "decided", "decisions_folder", "named_decision"]

WORDS = ("argmax", "dice", "threshold")
OPTIMAL = "optimal-dice"
"""Name of Dice-optimal masks in settings and tests, not to be taken for thresholds for Dice."""
SETTING = "post_hoc.decide"
FOLDER, TAG = "decisions", "best"


def named_decision(value: str) -> str:
    """Return ``argmax``, ``threshold``, ``optimal-dice`` for ``dice``, or a file that exists.

    Raises:
        DecisionError: It is none of these.
    """
    if value in WORDS:
        return OPTIMAL if value == "dice" else value
    if Path(value).is_file() or value == OPTIMAL:
        return value
    if Path(value).suffix or len(Path(value).parts) > 1:
        raise DecisionError(
            f"DECIDE (--decide) names the file {value}, which is not there. make thresholds "
            "(mbls thresholds) writes one."
        )
    raise DecisionError(
        f"DECIDE (--decide) must be {', '.join(WORDS)} or a JSON file of thresholds, got "
        f"{value!r}.{did_you_mean(value, WORDS)}"
    )


def decided(given: Settings, folder: Path) -> Settings:
    """Return settings with a decision as the test or prediction takes it.

    Args:
        given: Settings, ``post_hoc.decide`` as :func:`named_decision` takes it.
        folder: Where ``threshold`` finds ``dice.json``.

    Raises:
        DecisionError: The word is unknown, or the file is not there.
    """
    found: Settings = []
    for name, value in given:
        if name == SETTING and value is not None:
            value = named_decision(value)
            if value == "argmax":
                continue
            if value == "threshold":
                value = str(folder / "dice.json")
                if not Path(value).is_file():
                    raise DecisionError(
                        f"DECIDE=threshold (--decide threshold) needs {value}, which is not there. "
                        "Choose thresholds first: make thresholds RUN=... (mbls thresholds RUN), "
                        "with the same CALIBRATOR (--calibrator) and GRID (--grid), of the best "
                        "checkpoint (no CKPT)."
                    )
        found.append((name, value))
    return found


def decisions_folder(run: Path, tag: str) -> Path:
    """Return ``RUN/decisions``, of another test than ``best`` a folder with its name below it."""
    return run / FOLDER if tag == TAG else run / FOLDER / tag
