"""Merge the folds of one loss and seed into one training.

If all folds were tested on the same cases, a value is the mean over folds; if each was tested on
different patients, the patients are pooled. Folds share training patients, so they are not
independent trainings.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mbls.report.runs import LeftOut, Run

__all__ = ["FOLD", "with_folds_merged"]

FOLD = "data.init_args.division.fold"
BY_FOLD = ("fold", "data fingerprint", "test cases", "names of the cases")
"""Facts of a test that may differ between folds."""


def with_folds_merged(
    runs: Sequence[Run],
    *,
    facts: Callable[[Run], Mapping[str, Any]],
    key: Callable[[Run], str],
) -> tuple[list[Run], list[LeftOut]]:
    """Return the runs with the folds of each loss and seed merged, and the runs left out.

    Folds are not merged if there is only one, if no seed of any loss has all of them on the same
    data, or if their test patients are neither equal nor disjoint. A fold's data are those of most
    of its runs (the last in a tie). Runs on other data are left out, as are runs whose settings,
    seed and fold a later one repeats.

    Args:
        runs: Runs on any data.
        facts: Returns the facts that must be equal for two runs to share a table.
        key: Returns a key of network, loss and settings; only runs with equal keys are merged.
    """
    merged: list[Run] = [run for run in runs if run.card.get("fold") is None]
    families: dict[str, list[Run]] = {}
    for run in runs:
        if run.card.get("fold") is not None:
            alike = {name: v for name, v in facts(run).items() if name not in BY_FOLD}
            families.setdefault(str(alike), []).append(run)
    left_out: list[LeftOut] = []
    for members in families.values():
        found, incomplete = _merge(members, key)
        merged += found
        left_out += incomplete
    return merged, left_out


def _merge(
    members: Sequence[Run], key: Callable[[Run], str]
) -> tuple[Sequence[Run], list[LeftOut]]:
    usual = _usual_data(members)
    trainings: dict[tuple[str, int], dict[int, Run]] = {}
    for run in members:
        fold = int(run.card["fold"])
        if _alike(run, usual[fold]):
            trainings.setdefault((key(run), run.seed), {})[fold] = run
    whole = [[by[fold] for fold in usual] for by in trainings.values() if len(by) == len(usual)]
    kind = _kind(list(usual.values()))
    if len(usual) < 2 or kind is None or not whole:
        return members, []
    counted = [run for parts in whole for run in parts]
    reason = (
        f"fold {{}} of {', '.join(map(str, usual))}: a seed counts only if all folds were tested "
        "once, on the same data for every loss"
    )
    out = [run for run in members if not any(run is one for one in counted)]
    return (
        [_merged(parts, kind) for parts in whole],
        [LeftOut(run.folder, reason.format(run.card["fold"])) for run in out],
    )


def _usual_data(members: Sequence[Run]) -> dict[int, Run]:
    """Return, for each fold in order, the last run on the data that most of its runs have."""
    by_fold: dict[int, list[Run]] = {}
    for run in members:
        by_fold.setdefault(int(run.card["fold"]), []).append(run)
    return {
        fold: max(reversed(runs), key=lambda run: sum(_alike(run, other) for other in runs))
        for fold, runs in sorted(by_fold.items())
    }


def _alike(run: Run, other: Run) -> bool:
    """Return True if two runs of a fold have the same data and test cases."""
    key = "data_fingerprint"
    return run.cases == other.cases and run.meta.get(key) == other.meta.get(key)


def _kind(parts: Sequence[Run]) -> str | None:
    """Return how to merge folds: ``"mean"``, ``"pooled"``, or None if they cannot be merged."""
    if all(part.cases == parts[0].cases for part in parts):
        return "mean"
    patients = [patient for part in parts for patient in set(part.patients)]
    return "pooled" if len(set(patients)) == len(patients) else None


def _merged(parts: Sequence[Run], kind: str) -> Run:
    names = ", ".join(str(part.card["fold"]) for part in parts)
    label = f"mean of folds {names}" if kind == "mean" else f"folds {names}, patients pooled"
    first, pooled = parts[0], kind == "pooled"
    prints = "".join(str(part.meta.get("data_fingerprint")) for part in parts)
    meta = first.meta | {"data_fingerprint": hashlib.sha256(prints.encode()).hexdigest()}
    return replace(
        first,
        card=first.card | {"fold": label},
        config=_with_fold(first.config, label),
        metrics=first.metrics | {"meta": meta},
        cases=tuple(c for p in parts for c in p.cases) if pooled else first.cases,
        patients=tuple(q for p in parts for q in p.patients) if pooled else first.patients,
        epochs=[],
        pictured=False,
        by_rule={},
        folds=tuple(parts),
        pooled=pooled,
    )


def _with_fold(config: Mapping[str, Any], fold: str) -> dict[str, Any]:
    """Return a configuration with another fold."""
    data = config.get("data") or {}
    settings = data.get("init_args") or {}
    division = (settings.get("division") or {}) | {"fold": fold}
    return dict(config) | {"data": data | {"init_args": settings | {"division": division}}}
