"""Every loss there is to test: each configuration, and variants that no configuration has."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mbls import losses
from mbls.losses import Loss

CONFIGS = {
    path.stem: path
    for path in sorted(Path(__file__).parents[2].glob("experiments/configs/loss/*.yaml"))
}
WEIGHT = [0.2, 1.0, 1.5, 2.0]  # of classes


def _values(node: Any) -> list[Any]:
    """Every value in nested mappings."""
    inner = list(node.values()) if isinstance(node, dict) else []
    return inner + [value for child in inner for value in _values(child)]


VARIANTS = {
    "mbls_l2": ("mbls", {"norm": "l2", "margin": 1.0}),
    "mbls_tight": ("mbls", {"margin": 0.5}),
    "nacl_gaussian_probs": ("nacl", {"kernel": "gaussian", "on": "probs", "border": "replicate"}),
    "nacl_monai": ("nacl", {"border": "monai", "distance": "l2"}),
    "nacl_monai_gaussian": ("nacl", {"border": "monai", "kernel": "gaussian", "sigma": 0.7}),
    "focal_half": ("focal", {"gamma": 0.5}),
    "mdca_image": ("mdca", {"scope": "image"}),
    "acls_raw": ("acls", {"positive": "raw", "margin": 1.0}),
    "acls_tight": ("acls", {"margin": 1.0}),
    "cals_p2": ("cals", {"margin": 1.0, "penalty": "p2", "normalize": False, "lambda_min": 0.3}),
    "cals_p3": ("cals", {"margin": 1.0, "penalty": "p3", "lambda_min": 0.3}),
    "cals_regions": ("cals", {"margin": 1.0, "groups": "region", "lambda_min": 0.3}),
    "cals_hr_tight": ("cals_hr", {"margin": 0.5}),
    "crac_classes": ("crac", {"groups": "class", "border": "replicate", "lambda_min": 0.3}),
    "adafocal_inverse": ("adafocal", {"gamma": -1.5}),
    "ce_weighted": ("ce", {"weight": WEIGHT, "label_smoothing": 0.1}),
    "ls_weighted": ("ls", {"weight": WEIGHT}),
    "focal_weighted": ("focal", {"weight": WEIGHT}),
    "focal_adaptive_weighted": ("focal_adaptive", {"weight": WEIGHT}),
    "dice_weighted": ("dice", {"weight": WEIGHT, "include_background": False}),
    "ce_dice_weighted": ("ce_dice", {"weight": WEIGHT}),
    "dscpp_weighted": ("dscpp", {"weight": WEIGHT}),
    "tverskypp_weighted": ("tverskypp", {"weight": WEIGHT}),
    "focal_tverskypp_weighted": ("focal_tverskypp", {"weight": WEIGHT}),
    "mbls_weighted": ("mbls", {"margin": 1.0, "base": {
        "class_path": "mbls.losses.CrossEntropyLoss",
        "init_args": {"weight": WEIGHT, "ignore_index": -100, "validate": False},
    }}),
}  # fmt: skip
NAMES = [*CONFIGS, *VARIANTS]
WEIGHTED = {name for name, (_, settings) in VARIANTS.items() if WEIGHT in _values(settings)}
BINARY = {"unified_focalpp"}


@cache
def _read(name: str) -> Any:
    return yaml.safe_load(CONFIGS[name].read_text())["model"]["loss"]


def loss_config(name: str, **changes: Any) -> dict[str, Any]:
    """Return a loss's configuration; the changes go to every nested loss that has the argument."""
    base, variant = VARIANTS.get(name, (name, {}))
    config = copy.deepcopy(_read(base))
    config["init_args"] |= copy.deepcopy(variant)
    _change(config, changes)
    return config


def build(name: str, **changes: Any) -> Loss:
    """Build a loss without the command line's parser, which test_configs runs once a file."""
    return _instantiate(loss_config(name, **changes))


def classes(name: str) -> int:
    return 2 if name in BINARY else 4


def batch(
    name: str, space: tuple[int, ...] = (5, 6), n: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Logits and labels in which every class occurs, where there is room."""
    C = classes(name)
    logits = 3 * torch.randn(n, C, *space, dtype=dtype)
    target = torch.randint(C, (n, *space))
    target.flatten()[: min(C, target.numel())] = torch.arange(C)[: target.numel()]
    return logits, target


def _instantiate(node: Any) -> Any:
    if isinstance(node, dict):
        made = {key: _instantiate(value) for key, value in node.items()}
        if "class_path" in node:
            return getattr(losses, node["class_path"].rpartition(".")[2])(**made["init_args"])
        return made
    return [_instantiate(value) for value in node] if isinstance(node, list) else node


def _change(node: Any, changes: dict[str, Any]) -> None:
    if isinstance(node, dict):
        for key in node.keys() & changes.keys():
            node[key] = changes[key]
        for value in node.values():
            _change(value, changes)
    elif isinstance(node, list):
        for value in node:
            _change(value, changes)
