"""Folders of ensembles: run folders without checkpoints, whose ``run.json`` names the members."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mbls.config.choices import below
from mbls.config.moved import read_run_config
from mbls.runtime.errors import RunFolderError
from mbls.runtime.files import read_card, replace_file, writing

__all__ = ["CHECKPOINT", "ensemble_folder", "members_of", "refuse_shared_validation"]

CHECKPOINT = ".ckpt"
SHARING = ("folds", "splits")
"""Ensembles of which a network was trained on patients that validate another."""


def members_of(folder: Path) -> list[Path]:
    """Return the runs or checkpoints of an ensemble's folder; none if it is that of one run.

    Raises:
        RunFolderError: ``run.json`` is damaged.
    """
    if not (folder / "run.json").is_file():
        return []
    return [(folder / member).resolve() for member in read_card(folder).get("members", ())]


def ensemble_folder(runs: Sequence[Path]) -> Path:
    """Return the folder of the results of an ensemble, ``ensemble-<n>`` above its runs.

    ``config.yaml`` is that of the first run. The order of the runs does not matter.

    Args:
        runs: Run folders, of which the best checkpoints are taken, or checkpoints in them.

    Raises:
        RunFolderError: One is not a finished run, is named twice, or sees other images.
    """
    members = sorted(run.resolve() for run in runs)
    if len(set(members)) < len(members):
        named = " ".join(map(str, runs))
        raise RunFolderError(f"The runs of an ensemble must differ, got {named}.")
    folders = [m.parents[1] if m.suffix == CHECKPOINT else m for m in members]
    cards = [_finished_card(folder) for folder in folders]
    configs = [read_run_config(folder / "config.yaml") for folder in folders]
    _check_inputs(folders, configs)
    kind = _kind(folders, configs)
    folder = _folder_of(members, folders, "" if kind == "seeds" else f"-{kind}")
    card = _card(cards, kind) | {"members": [os.path.relpath(m, folder) for m in members]}
    if kind == "folds":
        configs[0]["data"]["init_args"]["division"]["fold"] = None
    with writing(folder):
        folder.mkdir(exist_ok=True)
        text = yaml.safe_dump(configs[0], sort_keys=False)
        replace_file(folder / "config.yaml", text.encode())
        replace_file(folder / "run.json", (json.dumps(card, indent=2) + "\n").encode())
    return folder


def _folder_of(members: Sequence[Path], folders: Sequence[Path], kind: str) -> Path:
    """Return the folder of these members, or one that does not exist."""
    parent = Path(os.path.commonpath([run.parent for run in folders]))
    names = (f"ensemble-{len(members)}{kind}{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
    return next(
        parent / name
        for name in names
        if not (parent / name).exists() or members_of(parent / name) == list(members)
    )


def refuse_shared_validation(run: Path) -> None:
    """Raise RunFolderError for an ensemble whose members were trained on validation patients.

    Each fold's network was trained on the validation patients of the others: the mean is too sure
    there, and what is fitted or chosen there is wrong for new patients.
    """
    kind = read_card(run).get("ensemble") if members_of(run) else None
    if kind in SHARING:
        raise RunFolderError(
            f"{run} is an ensemble of {kind}: each validation patient was trained on by some of "
            "its networks, so nothing can be fitted or chosen there. Use an ensemble of seeds, or "
            "each run alone."
        )


def _kind(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> str:
    """Return in what the networks differ."""
    divisions = [below(config, "data", "init_args", "division") or {} for config in configs]
    if any(division != divisions[0] for division in divisions):
        return "folds" if len({str(d.get("fold")) for d in divisions}) > 1 else "splits"
    return "checkpoints" if len(set(folders)) < len(folders) else "seeds"


def _card(cards: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    losses = {str(card["loss"]) for card in cards}
    return dict(cards[0]) | {
        "ensemble": kind,
        "fold": None if kind == "folds" else cards[0].get("fold"),
        "data_fingerprint": None if kind in SHARING else cards[0].get("data_fingerprint"),
        "trained_on": sorted({p for card in cards for p in card.get("trained_on") or ()}),
        "loss": losses.pop() if len(losses) == 1 else "several losses",
        "wall_seconds": sum(card.get("wall_seconds", 0) for card in cards),
    }


def _finished_card(run: Path) -> dict[str, Any]:
    """Return the content of a finished run's ``run.json``."""
    if not (run / "run.json").is_file() or not (run / "config.yaml").is_file():
        raise RunFolderError(f"{run} is not a run folder: it has no run.json or config.yaml.")
    card = read_card(run)
    if not card.get("finished"):
        raise RunFolderError(f"{run} is not finished: resume it, or leave it out.")
    return card


def _check_inputs(runs: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    """Raise RunFolderError if the networks were trained on images of another preparation."""
    for part in ("class_path", "init_args.preprocessing", "init_args.spatial_dims"):
        first, *others = (below(config, "data", *part.split(".")) for config in configs)
        for run, other in zip(runs[1:], others, strict=True):
            if other != first:
                raise RunFolderError(
                    f"The networks of an ensemble must see the same images: data.{part} of {run} "
                    f"is {other}, of {runs[0]} {first}."
                )
