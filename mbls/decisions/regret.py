r"""What a network loses to the best possible answer, by its cause.

On a phantom the true probabilities q = p(label | image) are known, and labels can be drawn. For
each case and structure, expected Dice over drawn labels, of masks each worse informed than the one
before:

1. *ceiling*: the Dice-optimal mask (:mod:`mbls.decisions.optimal`) of q itself;
2. *calibrated*: that of the network's probabilities p after perfect calibration, E[q | p];
3. *own*: that of p as it is;
4. *argmax*: the predicted class.

The differences are the regret by the **network** (1 - 2: what p does not know of q, however well
calibrated), by its **calibration** (2 - 3), and by the **decision** rule (3 - 4). They sum to the
total. E[q | p] is fitted by isotonic regression to the true q of the test cases themselves: an
oracle, which no user has. The same for volumes, with the relative error of the expected volume
(the sum of probabilities), of q none; and for the width of an interval around it, of all patients
alike relative to the true volume, that contains the drawn volumes of 90 % of the patients. Around
the sum of q it is what the labels alone leave open.

Dice-optimal masks take voxels as independent, the drawn labels are not. So a term can be negative:
sharper probabilities than the true ones may give the better mask by chance of correlation. What
the best mask by a threshold on q would reach, chosen for each case on half of the labels and
scored on the other half, is reported as *best*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from mbls.decisions.levels import Levels, calibrated_mass
from mbls.decisions.widths import quantiles, width_scores
from mbls.metrics.bootstrap import interval, mean_of_draws, patient_weights

__all__ = [
    "PARTS",
    "Term",
    "dice_of_rules",
    "regret_table",
    "regrets",
    "volume_errors",
]

PARTS = ("network", "calibration", "decision")
TERMS = {"dice": ("best", "ceiling", "calibrated", "own", "argmax", *PARTS, "total"),
         "volume": ("calibrated", "own", "argmax", *PARTS, "total"),
         "width": ("ceiling", "calibrated", "own", "argmax", *PARTS, "total")}  # fmt: skip
MEAN = "mean"
DRAWS = 2000
WIDTH_DRAWS = 500


@dataclass(frozen=True)
class Term:
    """A value of a rule, or a part of the regret, as the mean of the cases.

    Attributes:
        quantity: ``"dice"``, expected Dice, ``"volume"``, relative error of the volume, or
            ``"width"``, of an interval of the volume.
        structure: Name of the class, or ``"mean"`` of them.
        name: The rule ``best``, ``ceiling``, ``calibrated``, ``own`` or ``argmax``, or ``network``,
            ``calibration``, ``decision`` or ``total``.
        value: The mean; NaN if it is defined for no case.
        interval: 95 % interval over patients; None with a single patient.
        n_cases: Number of cases with a value.
    """

    quantity: str
    structure: str
    name: str
    value: float
    interval: tuple[float, float] | None
    n_cases: int

    def row(self) -> dict[str, object]:
        """Return it as a row of a table."""
        low, high = self.interval or (None, None)
        return {
            "quantity": self.quantity, "structure": self.structure, "term": self.name,
            "value": self.value, "low": low, "high": high, "n_cases": self.n_cases,
        }  # fmt: skip


def dice_of_rules(posterior: Levels, own: Levels) -> dict[str, np.ndarray]:
    """Return the expected Dice of each rule ``(cases, structures)``; NaN where never labeled.

    Args:
        posterior: Levels of the true probabilities.
        own: Levels of the network's, of the same cases and drawn labels.
    """
    rules = {
        "ceiling": _at(posterior, posterior.optimal(posterior.truth)),
        "calibrated": _at(own, own.optimal(calibrated_mass(own))),
        "own": _at(own, own.optimal(own.probs)),
        "argmax": _mean(own.likeliest_dice(), axis=1),
    }
    return {"best": _best(posterior), **rules}


def volume_errors(own: Levels) -> dict[str, np.ndarray]:
    """Return the relative error of each volume ``(cases, structures)``.

    The true one is the mean over labels, the sum of q; NaN if that is less than a voxel.
    """
    true = own.truth.sum(axis=-1)
    volumes = {
        "calibrated": calibrated_mass(own).sum(axis=-1),
        "own": own.probs.sum(axis=-1),
        "argmax": own.likeliest,
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: np.where(true >= 1, np.abs(volume - true) / true, np.nan)
            for name, volume in volumes.items()
        }


def regrets(
    posterior: Levels, own: Levels, *, structures: Sequence[str], patients: Sequence[str]
) -> list[Term]:
    """Return what each rule reaches and each part of the regret, by structure and their mean.

    Args:
        posterior: Levels of the true probabilities.
        own: Levels of the network's, of the same cases and drawn labels.
        structures: Names of the foreground classes.
        patients: Patient of each case, the unit of the intervals.
    """
    dice, volume = dice_of_rules(posterior, own), volume_errors(own)
    with_parts = {
        "dice": dice | _parts([dice[n] for n in ("ceiling", "calibrated", "own", "argmax")]),
        "volume": volume | _parts([0 - volume[n] for n in ("calibrated", "own", "argmax")]),
    }
    weights = patient_weights(patients, DRAWS) if len(set(patients)) > 1 else None
    found = []
    for quantity, names in TERMS.items():
        if quantity == "width":
            found += _width_terms(posterior, own, structures, patients, weights)
            continue
        values = np.stack([with_parts[quantity][name] for name in names], axis=-1)
        for name, one in _columns(values, structures).items():
            found += _terms(quantity, name, names, one, weights)
    return found


def _width_terms(
    posterior: Levels,
    own: Levels,
    structures: Sequence[str],
    patients: Sequence[str],
    weights: np.ndarray | None,
) -> list[Term]:
    """Return the widths and their parts, with intervals over patients."""
    scores, names = width_scores(posterior, own, patients)
    first = [list(patients).index(name) for name in names]
    draws = np.ones((1, len(names))) if weights is None else weights[:WIDTH_DRAWS, first]
    draws = np.concatenate([np.ones((1, len(names))), draws])
    widths = {rule: 2 * quantiles(values, draws) for rule, values in scores.items()}
    parts = [np.diff([widths[a], widths[b]], axis=0)[0] for a, b in pairwise(widths)]
    widths |= dict(zip(PARTS, parts, strict=True))
    widths["total"] = widths["argmax"] - widths["ceiling"]
    found = []
    for s, structure in enumerate([*structures, MEAN]):
        for name in TERMS["width"]:
            values = widths[name].mean(axis=1) if structure == MEAN else widths[name][:, s]
            limits = None if weights is None else interval(values[1:])
            found.append(Term("width", structure, name, float(values[0]), limits, len(patients)))
    return found if len(structures) > 1 else found[: len(TERMS["width"])]


def _parts(chain: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the differences along a chain that begins with the ceiling (0 if it is left out)."""
    chain = [np.zeros_like(chain[0]), *chain] if len(chain) == len(PARTS) else chain
    steps = [before - after for before, after in pairwise(chain)]
    return dict(zip(PARTS, steps, strict=True)) | {"total": chain[0] - chain[-1]}


def _columns(values: np.ndarray, structures: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Return ``(cases, terms)`` of each structure, and of several their mean by case."""
    found = {name: values[:, place] for place, name in enumerate(structures)}
    return found | ({MEAN: _mean(values, axis=1)} if len(structures) > 1 else {})


def _terms(
    quantity: str,
    structure: str,
    names: Sequence[str],
    values: np.ndarray,
    weights: np.ndarray | None,
) -> list[Term]:
    mean = mean_of_draws(values, np.ones((1, len(values))))[0]
    drawn = None if weights is None else mean_of_draws(values, weights)
    return [
        Term(
            quantity, structure, name, float(mean[place]),
            None if drawn is None else interval(drawn[:, place]),
            int((~np.isnan(values[:, place])).sum()),
        )
        for place, name in enumerate(names)
    ]  # fmt: skip


def _at(levels: Levels, cells: np.ndarray) -> np.ndarray:
    """Return the expected Dice of masks from a cell on, ``(cases, structures)``."""
    places = np.arange(cells.shape[1])
    return np.array(
        [_mean(levels.dice(case)[:, places, own], axis=0) for case, own in enumerate(cells)]
    )


def _best(posterior: Levels) -> np.ndarray:
    """Return the expected Dice of the best level, chosen on the other half of the labels."""
    found = []
    places = np.arange(posterior.voxels.shape[1])
    for case in range(len(posterior.voxels)):
        dice = posterior.dice(case)
        halves = [_mean(dice[start::2], axis=0) for start in (0, 1)]
        chosen = [np.nan_to_num(half).argmax(axis=-1) for half in halves]
        across = [halves[0][places, chosen[1]], halves[1][places, chosen[0]]]
        found.append(_mean(np.array(across), axis=0))
    return np.array(found)


def _mean(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Return the mean without NaN; NaN if there is nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(known, values, 0).sum(axis=axis) / known.sum(axis=axis)
    return mean


def regret_table(
    found: Mapping[str, Sequence[Term]], quantity: str, *, title: str, caption: str
) -> Table:
    """Return a table with a row for each kind of probabilities and structure.

    It reads from left to right: from the best possible value over what is lost to that of argmax.

    Args:
        found: Terms by kind of probabilities.
        quantity: ``"dice"``, ``"volume"`` or ``"width"``.
        title: Its title.
        caption: Its caption.
    """
    first = ("ceiling",) if quantity != "volume" else ()
    table = Table(title=escape(title), caption=escape(caption), box=SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    for heading in ("", *first, *PARTS, "argmax"):
        left = not heading
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left,
                         min_width=10 if left else None)  # fmt: skip
    for kind, terms in found.items():
        table.add_row(f"[bold]{escape(kind)}[/]")
        own = [term for term in terms if term.quantity == quantity]
        for structure in dict.fromkeys(term.structure for term in own):
            values = {term.name: term for term in own if term.structure == structure}
            cells = [_cell(values[name]) for name in (*first, *PARTS, "argmax")]
            table.add_row(escape(structure), *cells)
    return table


def _cell(term: Term) -> str:
    if term.name not in PARTS:
        return f"{term.value:.4f}"
    limits = term.interval
    reach = "" if limits is None else escape(f"\n[{limits[0]:.3f}, {limits[1]:.3f}]")
    return f"{term.value:+.4f}{reach}"
