"""The best epoch by each rule, over the epochs of a run, and on resume."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mbls.cli import main
from mbls.loggers.metrics_csv import read_rows
from mbls.loggers.selection import KEYS, RULES, chosen_epoch, contenders, threshold
from mbls.module import patient_error
from tests import tiny

NAN = float("nan")


def rows(*values):
    """Rows of (Dice, its standard error, NLL, ECE)."""
    return [dict(zip(KEYS, map(float, value), strict=True)) for value in values]


def test_each_rule_on_paper():
    logged = rows(
        (0.60, 0.05, 0.50, 0.01), (0.79, 0.05, 0.20, 0.05), (0.80, 0.02, 0.30, 0.04),
        (0.77, 0.01, 0.10, 0.09), (0.79, 0.01, 0.25, 0.02),
    )  # fmt: skip
    chosen = {rule: chosen_epoch(logged, rule) for rule in RULES}
    assert chosen == {"dice": 2, "nll": 3, "ece": 0, "compromise": 1}
    assert threshold(logged) == pytest.approx(0.78)
    assert contenders(logged) == [1, 2]


def test_nan_is_chosen_only_without_alternative():
    assert chosen_epoch(rows((NAN, NAN, NAN, NAN)), "compromise") == 0
    assert chosen_epoch(rows((NAN, NAN, NAN, NAN), (0.1, NAN, 0.9, 0.2)), "compromise") == 1
    assert chosen_epoch(rows((0.3, NAN, NAN, 0.2), (0.1, NAN, 0.9, NAN)), "compromise") == 0
    assert chosen_epoch(rows((NAN, NAN, 0.1, 0.2), (0.1, NAN, 0.9, 0.3)), "dice") == 1


@pytest.mark.parametrize("rule", [*RULES, ("val/own", "max")])
def test_validation_without_structures_is_chosen_by_nll(rule):
    assert chosen_epoch([], rule) is None
    without = rows(*((NAN, NAN, nll, NAN) for nll in (0.5, 0.3, 0.4)))
    assert chosen_epoch(without, rule) == 1
    assert contenders(without) == [1]
    ignored = rows(*[[NAN] * len(KEYS)] * 3)
    assert [chosen_epoch(ignored[:n], rule) for n in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_contenders_include_the_final_compromise(seed):
    rng = np.random.default_rng(seed)
    dice = np.round(0.8 - 0.5 * np.exp(-np.arange(25) / 5) + rng.normal(0, 0.02, 25), 3)
    nll = np.round(0.3 + 0.01 * (np.arange(25) - 8) ** 2 / 25 + rng.normal(0, 0.01, 25), 3)
    logged = rows(*zip(dice, rng.uniform(0.01, 0.05, 25), nll, nll, strict=True))
    kept = set()
    for n in range(1, len(logged) + 1):
        now = set(contenders(logged[:n]))
        assert now <= kept | {n - 1}  # none that was removed is a contender again
        assert chosen_epoch(logged[:n], "compromise") in now
        kept = now


def test_standard_error_is_over_patients():
    scores = torch.tensor([[0.8, 0.6], [0.4, NAN], [0.9, 0.9], [NAN, NAN]])
    found = patient_error(scores, ["a", "a", "b", "c"])
    assert found.item() == pytest.approx(np.std([0.55, 0.9], ddof=1) / 2**0.5)
    assert patient_error(scores[:2], ["a", "a"]) == 0
    assert patient_error(scores[3:], ["c"]).isnan()


def taken(run, name):
    """The epoch that a checkpoint is of."""
    content = torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)
    return content["epoch"]


@pytest.mark.filterwarnings("ignore")
def test_resumed_run_keeps_the_checkpoint_of_each_rule(tmp_path: Path) -> None:
    args = tiny.train_args(tmp_path, epochs=6)
    args += ["--checkpoint.keep", "true", "--select", "compromise"]
    assert tiny.fit(*args, *tiny.callback("Interrupt", epoch=3, batch=0)) == 130
    run = tiny.run_folder(tmp_path)
    assert tiny.resume(run) == 0
    logged = [
        {key: float(row[key]) for key in ("epoch", *KEYS)}
        for row in read_rows(run / "metrics.csv")
        if "val/dice" in row
    ]
    assert len(logged) == 6
    for rule in RULES:
        assert taken(run, f"best-{rule}") == logged[chosen_epoch(logged, rule)]["epoch"], rule
    assert taken(run, "best") == taken(run, "best-compromise")
    there = {path.stem for path in (run / "checkpoints").glob("contender-*.ckpt")}
    assert {f"contender-{n}" for n in contenders(logged)} <= there
    assert main(["evaluate", str(run), "--ckpt", "best-nll"]) == 0
    assert (run / "test/best-nll/metrics.json").is_file()


def test_unknown_selection_rule_is_refused(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--dataset", "acdc", "--loss", "ce", "--select", "dize"])
    assert "choose from" in capsys.readouterr().err
