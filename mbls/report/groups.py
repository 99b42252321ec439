"""Group runs into comparable tests, and into arms that differ only in their seed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbls.config.identity import RUNTIME_ONLY, added_callbacks, is_below
from mbls.plots.labels import data_label, origin_label
from mbls.report.folds import FOLD, with_folds_merged
from mbls.report.runs import LeftOut, Run, natural_key

__all__ = ["Arm", "Group", "groups_of"]

FAMILY = (
    *("seed_everything", "data.init_args.seed", "model.loss", "model.network", "trainer.callbacks"),
    *("model.grid", "model.mirror", "model.n_bins", "model.overlap", "model.window"),
    *("trainer.limit_test_batches", "trainer.limit_predict_batches"),
)
"""Settings that a report shows in other ways."""
LABELS_ALONE = ("dataset", "origin", "test cases", "names of the cases", "classes", "bins", "test")
"""Facts that an audit must share with a run, apart from the labeled voxels of each case.

The others say how a run of mbls reads data and predicts, which says nothing about an audit.
"""


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed.

    Attributes:
        name: Loss in the form of ``LOSS=``, with the settings that were given and those that
            distinguish it, e.g. ``mbls:margin=3``.
        loss: Name of the loss's file, with what was done with the trained networks: ``ce+ts``.
        settings: Settings that distinguish it from other arms with its network and loss.
        runs: One run per seed.
    """

    name: str
    loss: str
    settings: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order of the runs."""
        return [run.seed for run in self.runs]

    @property
    def trainings(self) -> list[Run]:
        """The runs on disk: one per seed, or one per seed and fold."""
        return [training for run in self.runs for training in run.trainings]


@dataclass(frozen=True)
class Group:
    """Comparable runs: tested in the same way on the same cases.

    Attributes:
        facts: The facts that they share, by display name.
        arms: The arms.
        notes: Differences between them other than the loss.
    """

    facts: dict[str, Any]
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]

    @property
    def first(self) -> Run:
        """A run, for facts that all share."""
        return self.arms[0].runs[0]

    @property
    def data(self) -> str:
        """The dataset and its origin."""
        return data_label(self.first.meta)


def groups_of(runs: Sequence[Run]) -> tuple[list[Group], list[LeftOut]]:
    """Return groups of comparable runs, the largest first, and the runs left out."""
    single, repeated = _without_repeats(runs)
    kept, incomplete = with_folds_merged(single, facts=comparable, key=_training)
    repeated += incomplete
    tested: dict[tuple[str, ...], list[Run]] = {}
    for run in sorted(kept, key=lambda run: run.audited):  # runs of mbls first
        facts = comparable(_on_the_same_labels(run, kept))
        tested.setdefault(tuple(map(str, facts.values())), []).append(run)
    groups = []
    for members in tested.values():
        arms, again = _arms(members)
        repeated += again
        groups.append(Group(comparable(members[0]), arms, _notes(members)))
    return sorted(groups, key=lambda g: -sum(len(a.runs) for a in g.arms)), repeated


def comparable(run: Run) -> dict[str, Any]:
    """Return the facts that must be equal for two runs to share a table, by display name."""
    meta = run.meta
    return {
        "dataset": meta["dataset"],
        "origin": origin_label(meta),
        "data fingerprint": str(meta.get("data_fingerprint"))[:12],
        "fold": run.card.get("fold"),
        "test cases": f"{len(run.cases)} cases of {len(set(run.patients))} patients",
        "names of the cases": hashlib.sha256("\n".join(run.cases).encode()).hexdigest()[:12],
        "classes": ", ".join(meta["class_names"]),
        "grid": meta.get("grid", "preprocessed"),
        "mirrored axes": ", ".join(map(str, meta.get("mirror") or [])) or "none",
        "inference": meta.get("inference", "not stated"),
        "bins": meta["n_bins"],
        "test": run.tag.partition("+")[0] if run.post_hoc else run.tag,
    }


def _on_the_same_labels(run: Run, among: Sequence[Run]) -> Run:
    """Return for an audit a run of mbls that was tested on the same labels, else the run itself.

    The labels are the same if the cases, the classes and the labeled voxels of each are.
    """
    if not run.audited:
        return run
    facts = comparable(run)
    for other in among:
        theirs = {} if other.audited or other.folds else comparable(other)
        if run.labeled == other.labeled and all(
            theirs.get(name) == facts[name] for name in LABELS_ALONE
        ):
            return other
    return run


def differing(one: Group, other: Group) -> list[str]:
    """Return the facts in which two groups differ."""
    return [
        f"{name} {other.facts[name]}, not {value}"
        for name, value in one.facts.items()
        if other.facts[name] != value
    ]


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a configuration by their dotted names."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flat_settings(value, f"{name}.")
        else:
            yield name, value


def _loss_name(run: Run) -> str:
    return str(run.card["loss"]).partition(",")[0]


def _training(run: Run) -> str:
    """Return a key that is equal for runs that differ only in seed and fold."""
    settings = {name: v for name, v in _settings(run).items() if name != FOLD}
    return str((_family(run), sorted(settings.items())))


def _family(run: Run) -> tuple[str, str, str]:
    """Return the names of network and loss, and what was done with the trained networks."""
    return str(run.card["network"]), _loss_name(run), run.post_hoc


def _settings(run: Run) -> dict[str, Any]:
    """Return all settings that affect results."""
    return {
        name: value
        for name, value in flat_settings(run.config)
        if not is_below(name, (*RUNTIME_ONLY, *FAMILY))
        or name.startswith(("model.loss.", "model.network."))
    } | {
        "preset": run.card.get("preset"),
        "trainer.callbacks": added_callbacks(run.config) or None,
    }


def _varying(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that differ.

    A setting that is missing in some configurations (of an earlier version) does not count; but
    ``base: null`` and a ``base`` with settings differ.
    """
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    return [
        n
        for n in names
        if len({str(s[n]) for s in all_settings if n in s}) > 1
        or any(n not in s and _has_above_or_below(s, n) for s in all_settings)
    ]


def _has_above_or_below(settings: Mapping[str, Any], name: str) -> bool:
    """Return True if settings have a value above or below a dotted name."""
    return any(n.startswith(f"{name}.") or name.startswith(f"{n}.") for n in settings)


def _without_repeats(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
    """Return the runs without repetitions of the same settings and seed; the last one is kept."""
    last: dict[str, Run] = {}
    members: dict[str, dict[Path, Run]] = {}  # of the ensembles that were tested alike
    out = []
    for run in runs:
        settings = sorted(_settings(run).items(), key=lambda pair: pair[0])
        own = sorted((run.folder / name).resolve() for name in run.card.get("members", ()))
        alike = members.setdefault(str((_family(run), comparable(run))), {})
        if shared := next((alike[member] for member in own if member in alike), None):
            reason = f"shares networks with {shared.folder}: not an independent ensemble"
            out.append(LeftOut(run.folder, reason))
            continue
        alike |= dict.fromkeys(own, run)
        key = str((_family(run), run.seed, settings, comparable(run), own))
        if earlier := last.get(key):
            reason = f"same settings and seed as {run.folder}: not an independent training"
            out.append(LeftOut(earlier.folder, reason))
        last[key] = run
    return list(last.values()), out


def _arms(runs: Sequence[Run]) -> tuple[tuple[Arm, ...], list[LeftOut]]:
    """Return the arms with one run per seed (the last one), and the runs left out."""
    several = len({run.card["network"] for run in runs if not run.audited}) > 1
    families: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        families.setdefault(_family(run), []).append(run)
    arms, out = [], []
    for (network, loss, post_hoc), members in families.items():
        settings = [_settings(run) for run in members]
        names = _varying(settings)
        by_values: dict[str, list[int]] = {}
        for place, values in enumerate(settings):
            by_values.setdefault(str([values.get(n) for n in names]), []).append(place)
        for places in by_values.values():
            first = settings[places[0]]
            own = {_short(n, names): first[n] for n in names if n in first}
            name = _arm_name(loss, {n: first[n] for n in names if n in first}, members[places[0]])
            by_seed = {members[p].seed: members[p] for p in places}
            chosen = [by_seed[seed] for seed in sorted(by_seed)]
            prefixed = several and not chosen[0].audited
            name = (f"{network} {name}" if prefixed else name) + post_hoc
            arms.append(Arm(name, loss + post_hoc, own, tuple(chosen)))
            for run in (members[p] for p in places):
                if (kept := by_seed[run.seed]) is not run:
                    reason = f"same seed as {kept.folder}, and no common setting differs"
                    out.append(LeftOut(run.folder, reason))
    return tuple(sorted(arms, key=lambda arm: natural_key(arm.name))), out


def _arm_name(loss: str, varying: Mapping[str, Any], run: Run) -> str:
    """Return a loss in the form of ``LOSS=``, with its given and its varying settings.

    Example:
        >>> from types import SimpleNamespace
        >>> run = SimpleNamespace(card={"loss": "mbls,margin=8"})
        >>> _arm_name("mbls", {"model.loss.init_args.alpha": 0.1, "preset": "quick"}, run)
        'mbls:margin=8,alpha=0.1 preset=quick'
    """
    given = str(run.card["loss"]).split(",")[1:]
    settings = dict(pair.split("=", 1) for pair in given if "=" in pair)
    others = []
    for name, value in varying.items():
        key = _short(name, list(varying))
        if name.startswith("model.loss."):
            settings[key] = _value(value)
        else:
            others.append(f"{key}={_value(value)}")
    own = ",".join(f"{key}={value}" for key, value in settings.items())
    return " ".join([f"{loss}:{own}" if own else loss, *others])


def _fold_note(run: Run) -> list[str]:
    """Return a note on how the folds were merged, if there are any."""
    fold = run.card.get("fold")
    if fold is None:
        return []
    if not run.folds:
        return [f"Only fold {fold}: each fold is a separate group; nothing is averaged."]
    how = (
        "Patients are pooled over folds; each was tested by the network not trained on it."
        if run.pooled
        else "The value of a seed is the mean over its folds, tested on the same cases."
    )
    return [f"{how} Folds share training patients, so the folds of a seed count as one training."]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(name: str, among: Sequence[str]) -> str:
    """Return the last part of a dotted name if it is unique, else the whole name."""
    last = name.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in among) == 1 else name


def _notes(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return notes on differences between the runs other than loss, network and seed."""
    notes = []
    audited = dict.fromkeys(_loss_name(run) for run in runs if run.audited)
    if audited:
        notes.append(
            f"{', '.join(audited)}: predictions of another program, scored by mbls audit on the "
            "same labels; how it was trained and predicts is unknown."
        )
    runs = [run for run in runs if not run.audited]
    if not runs:
        return tuple(notes)
    notes += _fold_note(runs[0])
    training = [
        {n: v for n, v in _settings(r).items() if not n.startswith(("model.loss", "model.network"))}
        for r in runs
    ]
    for name in _varying(training):
        values: dict[str, dict[str, None]] = {}
        for run, settings in zip(runs, training, strict=True):
            values.setdefault(str(settings.get(name)), {})[_loss_name(run)] = None
        named = "; ".join(f"{value} for {', '.join(losses)}" for value, losses in values.items())
        notes.append(f"Trainings differ in {name}: {named}.")
    for key, label in (("commit", "commits of mbls"), ("versions", "sets of package versions")):
        if (number := len({str(t.card.get(key)) for run in runs for t in run.trainings})) > 1:
            notes.append(f"The runs come from {number} {label}; see the table of runs.")
    if adapted := sorted({_loss_name(r) for r in runs if r.card.get("adapts_on") == "val"}):
        notes.append(
            f"{', '.join(adapted)} adapted to the validation cases, which also selected the "
            "checkpoint; other losses used them only for selection."
        )
    return tuple(notes)
