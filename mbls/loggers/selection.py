"""Select the best epoch by Dice, NLL or ECE, or by a compromise of Dice and NLL.

The compromise is the best NLL among the epochs whose Dice is within one standard error (over
validation patients) of the best. Dice alone, which published tables select on, ignores the
confidences; NLL alone may accept a significantly lower Dice.
"""

from collections.abc import Mapping, Sequence
from math import isnan, nan

__all__ = ["COMPROMISE", "KEYS", "RULES", "chosen_epoch", "contenders"]

COMPROMISE = "compromise"
BY_VALUE = {"dice": ("val/dice", "max"), "nll": ("val/nll", "min"), "ece": ("val/ece", "min")}
RULES = (*BY_VALUE, COMPROMISE)
KEYS = ("val/dice", "val/dice_se", "val/nll", "val/ece")
"""Logged values that the rules use."""

Row = Mapping[str, float]


def chosen_epoch(rows: Sequence[Row], rule: str | tuple[str, str]) -> int | None:
    """Return the position of the row that a rule selects, or None if there are no rows.

    The first of equal rows is selected. NaN is worse than any number. If a rule's value is NaN in
    all rows (Dice is, if no validation case has any structure), the best NLL is selected; if that
    is NaN or missing as well, the last row.

    Args:
        rows: Logged values of each validation, in order.
        rule: One of :data:`RULES`, or a logged key and ``"min"`` or ``"max"``.
    """
    everywhere = range(len(rows))
    if rule == COMPROMISE:
        close = [n for n in everywhere if rows[n]["val/dice"] >= threshold(rows)]
        by_dice = sorted(close, key=lambda n: -rows[n]["val/dice"])  # ties in NLL: better Dice
        tries = [(by_dice, *BY_VALUE["nll"]), (everywhere, *BY_VALUE["dice"])]
    else:
        tries = [(everywhere, *(BY_VALUE[rule] if isinstance(rule, str) else rule))]
    for among, key, mode in [*tries, (everywhere, *BY_VALUE["nll"])]:
        if (found := _extreme(rows, among, key, mode)) is not None:
            return found
    return len(rows) - 1 if rows else None


def threshold(rows: Sequence[Row]) -> float:
    """Return the minimum Dice for the compromise: the best Dice minus its standard error.

    It never decreases over epochs, even if a better Dice has a larger error: an epoch that was
    excluded once stays excluded.
    """
    best, least = float("-inf"), float("-inf")
    for row in rows:
        if row["val/dice"] > best:
            best, error = row["val/dice"], row["val/dice_se"]
            least = max(least, best - (error if error == error else 0.0))
    return least


def contenders(rows: Sequence[Row]) -> list[int]:
    """Return the positions of the rows that the compromise may still select later.

    Their Dice reaches the threshold, and no other row is as good in both Dice and NLL.
    """
    least = threshold(rows)
    kept: list[int] = []
    for n, row in enumerate(rows):
        if row["val/dice"] >= least and not any(_beats(rows, k, n) for k in range(len(rows))):
            kept.append(n)
    return kept or ([] if (first := chosen_epoch(rows, COMPROMISE)) is None else [first])


def _beats(rows: Sequence[Row], one: int, other: int) -> bool:
    """Return True if row ``one`` is as good in both Dice and NLL, and better in one or earlier."""
    a, b = rows[one], rows[other]
    if not (a["val/dice"] >= b["val/dice"] and a["val/nll"] <= b["val/nll"]):
        return False
    equal = a["val/dice"] == b["val/dice"] and a["val/nll"] == b["val/nll"]
    return one < other if equal else one != other


def _extreme(rows: Sequence[Row], among: Sequence[int], key: str, mode: str) -> int | None:
    """Return the first best row ``among`` some, or None if all are NaN or lack the key."""
    sign = 1 if mode == "min" else -1
    known = [n for n in among if not isnan(rows[n].get(key, nan))]
    return min(known, key=lambda n: sign * rows[n][key]) if known else None
