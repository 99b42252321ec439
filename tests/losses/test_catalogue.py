"""The table of losses is complete and says what the files and docstrings say."""

import inspect
import io
import re

import pytest
from rich.console import Console

from mbls import losses
from mbls.losses.catalogue import loss_entries, loss_table
from tests.losses.every_loss import CONFIGS

FOLDER = CONFIGS["ce"].parent
CLASSES = [getattr(losses, name) for name in losses.__all__ if name.endswith("Loss")]


def test_every_loss_has_a_line_with_formula_and_paper() -> None:
    entries = {entry.name: entry for entry in loss_entries(FOLDER)}
    assert list(entries) == sorted(CONFIGS)
    for entry in entries.values():
        assert entry.formula, entry
        assert entry.paper, entry
    assert entries["mbls"].cls == "MarginLoss"
    assert entries["mbls"].defaults == "margin=5.0, alpha=0.1, norm=l1"
    assert "max(0, max_j z_j - z_k - margin)" in entries["mbls"].formula
    assert "arXiv:2209.09641" in entries["mbls"].paper
    assert entries["mbls_dice"].formula.startswith("DiceCrossEntropyLoss + alpha")
    assert entries["dscpp_ce"].formula == "1 CrossEntropyLoss + 1 DicePlusPlusLoss"
    assert entries["dscpp_ce"].paper.startswith("Yeung")
    assert entries["dscpp_ce"].defaults == "label_smoothing=0.0; gamma=2.0"  # as the classes stand
    assert "n_bins=20" in entries["ace_soft"].defaults
    assert "weighted: sqrt(E)" in entries["mmce_weighted"].formula  # a second line of the docstring


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if not inspect.isabstract(cls)])
def test_the_docstring_shows_own_arguments_and_points_to_the_others(cls: type[losses.Loss]) -> None:
    text = inspect.getdoc(cls)
    described = text.partition("Args:")[2].partition("\n\n")[0]
    said = re.findall(r"^    (\**\w+): ", described, re.MULTILINE)
    if "__init__" in vars(cls):
        stated = inspect.signature(cls).parameters.values()
        assert said == [str(parameter).partition(":")[0] for parameter in stated]
    else:
        assert said[-1] == "**settings"
    assert "Example:\n    >>> " in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_holds_every_loss_and_paper_uncut(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(loss_table(FOLDER))
    lines = console.export_text().splitlines()
    rows = lines[lines.index(next(line for line in lines if "───" in line)) + 1 :]
    assert all(line.strip() for line in rows[:-1])
    assert all(len(line) <= width and "…" not in line for line in lines)
    words = " ".join(" ".join(rows).split())
    for entry in loss_entries(FOLDER):
        assert entry.name in words
        assert " ".join(entry.paper.split()) in words


def test_a_loss_of_somebody_else(tmp_path) -> None:
    text = "model: {loss: {class_path: monai.losses.DiceLoss, init_args: {softmax: true}}}"
    (tmp_path / "theirs.yaml").write_text(text)
    (entry,) = loss_entries(tmp_path)
    assert (entry.name, entry.cls, entry.defaults) == ("theirs", "DiceLoss", "softmax=True")


def test_a_base_takes_the_place_of_cross_entropy_in_the_formula(tmp_path) -> None:
    base = "{class_path: mbls.losses.FocalLoss, init_args: {gamma: 2.0}}"
    loss = f"{{class_path: mbls.losses.EntropyPenaltyLoss, init_args: {{base: {base}}}}}"
    (tmp_path / "own.yaml").write_text(f"model: {{loss: {loss}}}")
    (entry,) = loss_entries(tmp_path)
    assert entry.formula == "FocalLoss - alpha * mean_vk -p_k log p_k"


def test_an_empty_folder_is_an_error(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must contain <name>.yaml files"):
        loss_entries(tmp_path)
