"""Each LOSS=name: the file opens with a comment, states every argument and resolves."""

import copy
import re
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from mbls.losses import Loss
from tests.losses.every_loss import CONFIGS, batch, build

NAMES = [
    *("ce", "ce_dice", "dice", "ls", "focal", "focal_adaptive", "ecp", "l1_penalty"),
    *("mbls", "mbls_dice", "svls", "nacl", "brier", "mmce", "mmce_weighted", "cpc"),
    *("dscpp", "dscpp_ce", "tverskypp", "focal_tverskypp", "unified_focalpp"),
    *("ace_hard", "ace_soft", "acls", "mdca", "dca", "fcl"),
    *("cals", "cals_hr", "crac", "adafocal"),
]


def resolve(config: dict[str, Any]) -> Any:
    parser = ArgumentParser()
    parser.add_subclass_arguments(nn.Module, "loss")
    return parser, parser.parse_object({"loss": copy.deepcopy(config)})


def plain(node: Any) -> Any:
    """Turn the parser's namespaces and tuples into dicts and lists, at any depth."""
    if isinstance(node, Namespace):
        node = vars(node)
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list | tuple) else node


def test_the_names() -> None:
    assert set(NAMES) <= set(CONFIGS)


@pytest.mark.parametrize("name", NAMES)
def test_file(name: str) -> None:
    text = CONFIGS[name].read_text()
    assert re.match(r"# [A-Zm].+\.\n[a-z]", text), "one comment line, a sentence, on top"
    config = yaml.safe_load(text)
    assert list(config) == ["model"]
    assert list(config["model"]) == ["loss"]
    parser, parsed = resolve(config["model"]["loss"])
    assert plain(parsed.loss) == config["model"]["loss"]  # nothing filled in: all is stated
    loss = parser.instantiate(parsed).loss
    assert isinstance(loss, Loss)
    torch.manual_seed(1)
    logits, target = batch(name)
    assert loss(logits, target) == build(name)(logits, target)


COMBINATIONS = {
    "CALS by regions": """
        class_path: mbls.losses.ClassAdaptiveMarginLoss
        init_args: {margin: 1.0, groups: region, statistics: region}
        """,
    "CRaC's regions on margins": """
        class_path: mbls.losses.AugmentedLagrangianLoss
        init_args:
          constraint: {class_path: mbls.losses.MarginConstraint, init_args: {margin: 1.0}}
          groups: region
          statistics: region
        """,
    "CRaC by classes": """
        class_path: mbls.losses.RegionAdaptiveLoss
        init_args: {groups: class, penalty: p2}
        """,
    "CALS on neighbors, over Dice": """
        class_path: mbls.losses.AugmentedLagrangianLoss
        init_args:
          constraint: mbls.losses.NeighborConstraint
          base: mbls.losses.DiceLoss
        """,
}


def quadrants() -> tuple[torch.Tensor, torch.Tensor]:
    """Four classes, each with boundary and inner voxels."""
    logits, _ = batch("cals", (12, 12))
    blocks = torch.arange(4).view(2, 2).repeat_interleave(6, 0).repeat_interleave(6, 1)
    return logits, blocks.expand(2, 12, 12)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_is_a_few_lines(name: str) -> None:
    """Constraint, penalty and groups meet in the YAML; the loss adapts by class or region."""
    parser, parsed = resolve(yaml.safe_load(COMBINATIONS[name]))
    loss = parser.instantiate(parsed).loss
    loss.bind(4)
    logits, target = quadrants()
    regions = 2 if "region" in COMBINATIONS[name] else 1
    before = loss(logits, target)
    loss.observe(logits, target)
    loss.adapt()
    assert loss.multipliers.shape == (regions, 4)
    assert (loss.multipliers > 1e-6).all()
    assert loss(logits, target) != before


def test_margins_by_region_are_the_same_said_twice() -> None:
    ours, theirs = (
        parser.instantiate(parsed).loss
        for parser, parsed in (
            resolve(yaml.safe_load(COMBINATIONS[name]))
            for name in ("CALS by regions", "CRaC's regions on margins")
        )
    )
    logits, target = quadrants()
    for loss in (ours, theirs):
        loss.bind(4)
        loss.observe(logits, target)
        loss.adapt()
    assert torch.equal(ours.multipliers, theirs.multipliers)
    assert ours(logits, target) == theirs(logits, target)


def test_a_parser_fills_in_what_is_not_stated() -> None:
    """So the comparison above can fail, also below a base and in a sum."""
    for name in ("ce", "mbls_dice", "ace_soft"):
        config = yaml.safe_load(CONFIGS[name].read_text())["model"]["loss"]
        args = config["init_args"]
        inner = args["base"]["init_args"] if name == "mbls_dice" else args
        inner = args["losses"]["dice"][1]["init_args"] if name == "ace_soft" else inner
        del inner["validate"]
        _, parsed = resolve(config)
        assert plain(parsed.loss) != config
