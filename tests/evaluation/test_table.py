"""The printed table names each number."""

from dataclasses import replace

import pytest
from rich.console import Console

from mbls.evaluation import results_table, summary_table
from mbls.metrics import dice_scores
from tests.evaluation.counted import META, counted, fine_histogram

pytestmark = pytest.mark.usefixtures("few_draws")


def shown(origin, width=80, fine=True, table=results_table, meta=None):
    metrics = counted(
        posterior=origin == "phantom",
        meta=META | {"origin": origin} | (meta or {}),
        fine=fine_histogram() if fine else None,
    ).summary()
    console = Console(width=width, record=True)
    console.print(table(metrics))
    return metrics, console.export_text()


def rows(text):
    return [line.split() for line in text.splitlines() if line.strip()]


def interval(cell):
    return f"{cell['low']:.4f}-{cell['high']:.4f}"


def test_every_number_is_whole_at_80_columns():
    metrics, text = shown("phantom")
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    poolings = [metrics["sound"][r][p] for r in ("all", "label") for p in ("pooled", "per_case")]
    for name, metric in (("ECE", "ece"), ("class-wise ECE", "cece"), ("NLL", "nll")):
        at = rows(text).index([*name.split(), *(f"{c[metric]['value']:.4f}" for c in poolings)])
        assert rows(text)[at + 1] == [interval(c[metric]) for c in poolings]
    floors = [f"{c['ece']['floor']:.4f}" for c in poolings]
    assert ["noise", "floor", *floors] in rows(text)
    true = [f"{c['true_cece']['value']:.4f}" for c in poolings]
    assert ["true", "value", *true] in rows(text)


def test_metrics_that_are_only_pooled_leave_the_other_columns_empty():
    metrics, text = shown("real")
    pooled = [metrics["sound"][region]["pooled"] for region in ("all", "label")]
    names = {"equal-mass ECE": "adaptive_ece", "TACE": "tace", "smooth ECE": "smece",
             "corrected": "cece_corrected"}  # fmt: skip
    for name, metric in names.items():
        at = rows(text).index([*name.split(), *(f"{c[metric]['value']:.4f}" for c in pooled)])
        interval_below = [interval(c[metric]) for c in pooled if c[metric]["low"] is not None]
        assert not interval_below or rows(text)[at + 1] == interval_below
    assert "above 0.01" in " ".join(text.split())
    assert "TACE" not in shown("real", fine=False)[1]


def test_published_protocols_are_shown():
    metrics, text = shown("real")
    cells = metrics["murugesan-med"]["label"]["per_case"]
    values = [f"{cells[m]['value']:.4f}" for m in ("ece", "cece", "dice/mean")]
    at = rows(text).index(["murugesan-med", *values])
    where = [*rows(text)[at + 1][:2], *rows(text)[at + 2]]
    assert " ".join(where) == "labeled foreground (label), per case"


def test_a_phantom_is_named_and_absent_structures_are_counted():
    metrics, text = shown("phantom")
    assert "acdc PHANTOM (synthetic data): 3 cases of 2 patients" in " ".join(text.split())
    assert "no statement about acdc" in " ".join(text.split())
    assert metrics["dice"]["MYO"]["n_absent"] == 1
    at = next(k for k, row in enumerate(rows(text)) if row[:1] == ["MYO"])
    assert rows(text)[at + 1][-2:] == ["1", "absent"]
    assert "15 equal right-closed bins" in " ".join(text.split())


@pytest.mark.parametrize("absent", ["PHANTOM", "true value", "background 0"])
def test_real_data_is_not_called_a_phantom(absent):
    assert absent not in shown("real")[1]


def test_the_tolerance_of_the_surface_dice_is_named():
    run = counted(meta=META | {"nsd_tolerance_mm": 2.0})
    metrics = replace(run, surfaces={"nsd": dice_scores(run.dice)}).summary()
    console = Console(width=80, record=True)
    console.print(results_table(metrics))
    assert "NSD (2 mm)" in console.export_text()


def test_the_calibration_of_a_union_is_shown():
    metrics, text = shown("real")
    poolings = [metrics["sound"][r][p] for r in ("all", "label") for p in ("pooled", "per_case")]
    cells = [c["ece/heart"] for c in poolings]
    at = rows(text).index(["ECE", "of", "heart", *(f"{cell['value']:.4f}" for cell in cells)])
    assert rows(text)[at + 1] == [interval(cell) for cell in cells if cell["low"] is not None]
    assert "ECE of heart: the sum of the classes' prob" in " ".join(text.split())


def test_the_main_numbers_are_four_rows():
    metrics, text = shown("phantom", table=summary_table)
    assert max(map(len, text.splitlines())) <= 80
    label, every = metrics["sound"]["label"]["per_case"], metrics["sound"]["all"]["pooled"]

    def cell(found):
        return f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"

    lines = [" ".join(row) for row in rows(text)]
    assert f"Dice {cell(metrics['dice']['mean'])}" in lines
    for name, metric in (("ECE", "ece"), ("class-wise ECE", "cece"), ("NLL", "nll")):
        assert f"{name} {cell(label[metric])} {cell(every[metric])}" in lines
    text = " ".join(text.split())
    assert "labeled foreground (label)" in text
    assert "PHANTOM" in text
    assert "of 3 cases: MYO (1)" in text  # in whose labels it is absent


@pytest.mark.parametrize("table", [results_table, summary_table])
def test_names_are_no_markup(table):
    names = ["background", "organ [/red]", "kidney [left]"]
    meta = {"class_names": names, "network": "[bold]", "loss": "ce [/]"}
    _, text = shown("real", table=table, meta=meta)
    assert "[bold] · ce [/]" in " ".join(text.split())
    if table is results_table:
        assert "organ [/red]" in text
    assert "kidney [left]" in text
