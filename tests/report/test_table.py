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
    console = Console(width=220, record=True)
    console.print(results_table(metrics))
    return metrics, console.export_text()


def test_phantom_says_so_and_shows_the_true_error():
    metrics, text = shown("phantom")
    assert "acdc PHANTOM (synthetic data): 3 cases of 2 patients, checkpoint best" in text
    assert "no statement about acdc" in " ".join(text.split())
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]

    def row(words, protocol, region, metric):
        pooled, mean = (metrics[protocol][region][p][metric] for p in ("pooled", "per_case"))
        numbers = [f"{c['value']:.4f} [{c['low']:.4f}, {c['high']:.4f}]" for c in (pooled, mean)]
        return f"{words} {' '.join(numbers)}"

    for words, metric in (("ECE", "ece"), ("true class-wise ECE", "true_cece")):
        expected = row(f"{words} sound label foreground", "sound", "label", metric)
        assert any(line.startswith(expected) for line in lines), expected
    published = metrics["murugesan-med"]["label"]["per_case"]["cece"]["value"]
    words = f"class-wise ECE murugesan-med label foreground {published:.4f}"
    assert any(line.startswith(words) for line in lines)
    floors = [metrics["sound"]["all"][p]["ece"]["floor"] for p in ("pooled", "per_case")]
    assert f"{floors[0]:.4f} / {floors[1]:.4f}" in text
    assert any(line.startswith("Dice MYO") and line.endswith("2 (1 absent)") for line in lines)
    assert "15 equal right-closed bins" in text


@pytest.mark.parametrize("word", ["PHANTOM", "true ECE", "Dice background"])
def test_real_data_is_not_called_a_phantom(word):
    assert word not in shown("real")[1]
