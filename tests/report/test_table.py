"""The printed table says what each number is."""

import pytest
from rich.console import Console

from mbls.metrics.summary import summarize
from mbls.report import results_table
from tests.metrics.test_results import ABOUT, META, scored


def shown(origin):
    histogram, dice = scored(posterior=origin == "phantom")
    about = ABOUT | {"meta": META | {"origin": origin}}
    metrics = summarize(histogram.bins(), dice.counts.numpy(), **about)
    console = Console(width=200, record=True)
    console.print(results_table(metrics))
    return metrics, console.export_text()


def test_phantom_says_so_and_shows_the_true_error():
    metrics, text = shown("phantom")
    assert "acdc PHANTOM (synthetic data): 3 cases of 2 patients, checkpoint best" in text
    assert "no statement about acdc" in " ".join(text.split())
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    ece = metrics["sound"]["all"]["pooled"]["ece"]["value"]
    assert any(line.startswith(f"ECE sound all voxels pooled {ece:.4f}") for line in lines)
    true = metrics["sound"]["label"]["per_case"]["true_cece"]["value"]
    words = f"true class-wise ECE sound label foreground mean of cases {true:.4f}"
    assert any(line.startswith(words) for line in lines)
    assert any(line.startswith("Dice MYO") and line.endswith("2 (1 absent)") for line in lines)
    assert "15 equal right-closed bins" in text


@pytest.mark.parametrize("word", ["PHANTOM", "true ECE", "Dice background"])
def test_real_data_is_not_called_a_phantom(word):
    assert word not in shown("real")[1]
