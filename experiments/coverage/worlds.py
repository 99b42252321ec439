r"""Worlds: a label of each patient, and a division into patients who calibrate and who are tested.

In every world the patients are exchangeable by construction, so the coverage over all worlds is
nominal whatever the probabilities are: an interval of a volume misses a share
:math:`1 - \lceil (n+1)(1-\alpha) \rceil / (n+1)` of the patients where scores have no ties, the
risk of a mask is at most its level. Tested labels of another annotator than those that calibrate
are a shift.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from experiments.coverage.bank import FAMILIES, STRUCTURES, Bank
from mbls.decisions.conformal import conformal_quantile, controlled_place
from mbls.decisions.guarantee import Promise
from mbls.decisions.nested import Family
from mbls.decisions.quantities import FLOOR_ML

__all__ = [
    "Result",
    "World",
    "controlled_risk",
    "draw_worlds",
    "masks",
    "missed_patients",
    "volumes",
]


@dataclass(frozen=True)
class World:
    """Who calibrates and who is tested, with the number of each one's label.

    Attributes:
        calibrating: Numbers of the patients ``(n,)``.
        tested: Numbers of the others.
        label: Number of the label of each patient ``(P,)``.
    """

    calibrating: np.ndarray
    tested: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Result:
    """What was measured over worlds.

    Attributes:
        what: ``"volume"``, ``"ejection fraction"``, ``"outer mask"`` or ``"inner mask"``.
        how: The interval, or the family of masks and its promise.
        structure: Name of the structure.
        bound: What the share must not pass: alpha, or the mean missed share.
        share: Mean over worlds of the share of tested patients who are not covered, or of their
            mean loss.
        error: Its Monte-Carlo standard error.
        size: Mean width of an interval; mean ratio of the masks' volume and the true one.
    """

    what: str
    how: str
    structure: str
    bound: float
    share: float
    error: float
    size: float


def draw_worlds(
    number: int, *, patients: int, calibrating: int, labels: int, seed: int
) -> list[World]:
    """Return worlds."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(number):
        order = rng.permutation(patients)
        label = rng.integers(labels, size=patients)
        found.append(World(order[:calibrating], order[calibrating:], label))
    return found


def volumes(bank: Bank, tested: Bank, worlds: list[World], alpha: float) -> Iterator[Result]:
    """Yield how often intervals of volumes and of the ejection fraction miss.

    Args:
        bank: The labels that calibrate.
        tested: The labels that are tested, of the same patients and probabilities.
        worlds: Of :func:`draw_worlds`.
        alpha: Share of patients whose interval may miss.
    """
    scale = bank.variance + FLOOR_ML

    def scores(one: Bank) -> np.ndarray:
        error = np.abs(one.labeled - one.expected[:, None]) / scale[:, None]
        return np.asarray(error.max(axis=2))  # (P, B, structures)

    own, other = scores(bank), scores(tested)
    for s, name in enumerate(STRUCTURES):
        wide = 2 * scale[..., s].mean(axis=1)
        yield missed_patients(
            "volume", "interval, ml", name, own[..., s], other[..., s], wide, worlds, alpha
        )
    left = len(STRUCTURES) - 1
    guess = ejection(bank.expected[..., left])
    own, other = (
        np.abs(ejection(one.labeled[..., left]) - guess[:, None]) for one in (bank, tested)
    )
    wide = np.full(len(guess), 2.0)
    yield missed_patients(
        "ejection fraction", "interval, %", STRUCTURES[left], own, other, wide, worlds, alpha
    )


def ejection(volume: np.ndarray) -> np.ndarray:
    """Return the ejection fraction in % for volumes at ED and ES ``(..., 2)``."""
    return np.asarray(100 * (volume[..., 0] - volume[..., 1]) / volume[..., 0])


def missed_patients(
    what: str, how: str, name: str, own: np.ndarray, other: np.ndarray, wide: np.ndarray,
    worlds: list[World], alpha: float,
) -> Result:  # fmt: skip
    """Return how often the intervals of a quantity miss.

    Args:
        what: As of :class:`Result`.
        how: As of :class:`Result`.
        name: Name of the structure.
        own: Score of each patient and label that calibrates ``(P, B)``.
        other: The same of the labels that are tested.
        wide: Width of each patient's interval for a quantile of 1 ``(P,)``.
        worlds: Of :func:`draw_worlds`.
        alpha: Share of patients whose interval may miss.
    """
    shares, sizes = [], []
    for world in worlds:
        quantile = conformal_quantile(_of(own, world, world.calibrating), alpha)
        shares.append((_of(other, world, world.tested) > quantile).mean())
        sizes.append(quantile * wide[world.tested].mean())
    return _result(what, how, name, alpha, shares, sizes)


def masks(bank: Bank, tested: Bank, worlds: list[World], promise: Promise) -> Iterator[Result]:
    """Yield the risk of outer and inner masks of both families."""
    sides: Mapping[str, Callable[[Bank], Mapping[Family, np.ndarray]]] = {
        "outer mask": lambda one: one.missed, "inner mask": lambda one: one.outside,
    }  # fmt: skip
    kind = "mean" if promise.alpha is None else "share above"
    for what, shares_of in sides.items():
        for family in FAMILIES:
            for s, name in enumerate(STRUCTURES):
                own, other = (
                    promise.loss(shares_of(one)[family][:, :, s]) for one in (bank, tested)
                )
                true = tested.labeled[..., s].sum(axis=2)  # (P, B)
                inside = bank.inside[family][:, :, s].sum(axis=1)  # (P, masks)
                yield controlled_risk(
                    what, f"{family}, {kind}", name, own, other, inside, true, worlds, promise.level
                )


def controlled_risk(
    what: str, how: str, name: str, own: np.ndarray, other: np.ndarray, inside: np.ndarray,
    true: np.ndarray, worlds: list[World], level: float,
) -> Result:  # fmt: skip
    """Return the risk of a mask.

    Args:
        what: As of :class:`Result`.
        how: As of :class:`Result`.
        name: Name of the structure.
        own: Loss of each patient and label that calibrates, and mask ``(P, B, masks)``.
        other: The same of the labels that are tested.
        inside: Voxels or ml in each mask ``(P, masks)``.
        true: Those of the label ``(P, B)``.
        worlds: Of :func:`draw_worlds`.
        level: Bound of the risk.
    """
    shares, sizes = [], []
    if what == "inner mask":
        own = np.maximum.accumulate(own, axis=-1)[..., ::-1]
        other, inside = other[..., ::-1], inside[..., ::-1]
    for world in worlds:
        place = controlled_place(_of(own, world, world.calibrating), level)
        shares.append(_of(other, world, world.tested)[:, place].mean())
        sizes.append(inside[world.tested, place].sum() / _of(true, world, world.tested).sum())
    return _result(what, how, name, level, shares, sizes)


def _of(values: np.ndarray, world: World, chosen: np.ndarray) -> np.ndarray:
    """Return the values of some patients ``(P, B, ...)`` for their labels in this world."""
    return np.asarray(values[chosen, world.label[chosen]])


def _result(
    what: str, how: str, name: str, bound: float, shares: list[float], sizes: list[float]
) -> Result:
    error = float(np.std(shares) / len(shares) ** 0.5)
    return Result(what, how, name, bound, float(np.mean(shares)), error, float(np.mean(sizes)))
