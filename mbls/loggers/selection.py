"""Which epoch's checkpoint is best: by Dice, NLL or ECE, or by a compromise of Dice and NLL.

The compromise is the best NLL among the epochs whose Dice lies within one standard error of the
best, over patients of the validation. Dice alone, which published tables select on, is blind to
what the confidences do; NLL alone may give up overlap that could be told from noise.
"""

from collections.abc import Mapping, Sequence
from math import isnan, nan

__all__ = ["COMPROMISE", "KEYS", "RULES", "chosen_epoch", "contenders"]

COMPROMISE = "compromise"
BY_VALUE = {"dice": ("val/dice", "max"), "nll": ("val/nll", "min"), "ece": ("val/ece", "min")}
RULES = (*BY_VALUE, COMPROMISE)
KEYS = ("val/dice", "val/dice_se", "val/nll", "val/ece")
"""What the rules look at."""

Row = Mapping[str, float]


def chosen_epoch(rows: Sequence[Row], rule: str | tuple[str, str]) -> int | None:
    """Return the position of the row a rule takes, or None if there is none.

    Among equals the first is taken. A NaN is worse than any number. Where a rule's value is NaN in
    all rows, as Dice is where no case of the validation has any structure, the best NLL is taken,
    and where that is NaN or not kept either, the last row.

    Args:
        rows: Logged values of each validation, in their order.
        rule: One of :data:`RULES`, or a logged key and ``"min"`` or ``"max"``.
    """
    everywhere = range(len(rows))
    if rule == COMPROMISE:
        close = [n for n in everywhere if rows[n]["val/dice"] >= threshold(rows)]
        by_dice = sorted(close, key=lambda n: -rows[n]["val/dice"])  # of equal NLL the better Dice
        tries = [(by_dice, *BY_VALUE["nll"]), (everywhere, *BY_VALUE["dice"])]
    else:
        tries = [(everywhere, *(BY_VALUE[rule] if isinstance(rule, str) else rule))]
    for among, key, mode in [*tries, (everywhere, *BY_VALUE["nll"])]:
        if (found := _extreme(rows, among, key, mode)) is not None:
            return found
    return len(rows) - 1 if rows else None


def threshold(rows: Sequence[Row]) -> float:
    """Return the least Dice that counts as the best: the best less its standard error.

    It never falls from one epoch to the next, also where a better Dice is a less certain one, so
    that an epoch once out of reach stays so.
    """
    best, least = float("-inf"), float("-inf")
    for row in rows:
        if row["val/dice"] > best:
            best, error = row["val/dice"], row["val/dice_se"]
            least = max(least, best - (error if error == error else 0.0))
    return least


def contenders(rows: Sequence[Row]) -> list[int]:
    """Return the positions of rows that the compromise may yet take, whatever follows.

    They are within reach of the best Dice, and no other has as good a Dice and as good an NLL.
    """
    least = threshold(rows)
    kept: list[int] = []
    for n, row in enumerate(rows):
        if row["val/dice"] >= least and not any(_beats(rows, k, n) for k in range(len(rows))):
            kept.append(n)
    return kept or ([] if (first := chosen_epoch(rows, COMPROMISE)) is None else [first])


def _beats(rows: Sequence[Row], one: int, other: int) -> bool:
    """Return True if a row is as good in both, and better in one or earlier."""
    a, b = rows[one], rows[other]
    if not (a["val/dice"] >= b["val/dice"] and a["val/nll"] <= b["val/nll"]):
        return False
    equal = a["val/dice"] == b["val/dice"] and a["val/nll"] == b["val/nll"]
    return one < other if equal else one != other


def _extreme(rows: Sequence[Row], among: Sequence[int], key: str, mode: str) -> int | None:
    """Return the first of the best rows ``among`` some, None where all are NaN or lack the key."""
    sign = 1 if mode == "min" else -1
    known = [n for n in among if not isnan(rows[n].get(key, nan))]
    return min(known, key=lambda n: sign * rows[n][key]) if known else None
