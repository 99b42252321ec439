"""Names chosen by the user are printed as they are, brackets included."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from datamodules.cache.commands import cache_table
from mbls.benchmark.views import LiveView
from mbls.commands import benchmark
from mbls.commands.check_data import problem_table, summary
from mbls.losses.catalogue import loss_table
from mbls.report.screen import screen_table
from mbls.report.views import View

NAMES = ["kidney [left]", "organ [/red]"]
"""Eaten as a style, and refused as the end of one."""


def printed(*things):
    console = Console(width=400, record=True)
    for thing in things:
        console.print(thing)
    return console.export_text()


def of_report(name):
    frame = pd.DataFrame([[f"{name}\n{name}", name]], columns=[name, f"Dice, {name}"])
    return screen_table(View(name, name, (), frame, best=frozenset({(0, 1)})))


def of_cache(name):
    cache = SimpleNamespace(path=Path(name.replace("/", "")), dataset=name, summary=name, size=1,
                            cases=1, age=1.0, reason=name)  # fmt: skip
    return [cache_table([cache], Path(name))]


def of_cases(name):
    fact = SimpleNamespace(shape=(1, 1, 1), spacing=(1.0, 1.0, 1.0), codes="LPS", ignored=0,
                           intensities=[[0.0] * 5] * 2, volumes=[1.0, 1.0])  # fmt: skip
    data = SimpleNamespace(dataset=name, origin="real", modalities=(name, "T2"),
                           class_names=["background", name])  # fmt: skip
    problem = SimpleNamespace(path=name, rule=name, found=name, fix=name)
    return [summary([fact], data, Path(name), name=name), problem_table([problem], Path(name))]


def of_grid(name):
    return [LiveView(Console(), title=name, jobs=1, epochs=1).render([])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tables", [of_report, of_cache, of_cases, of_grid])
def test_names_are_no_markup(name, tables):
    for table in tables(name):
        assert name in " ".join(printed(table).split())


@pytest.mark.parametrize("name", NAMES)
def test_failed_run_is_named_as_it_is(name, tmp_path, capsys):
    cell = SimpleNamespace(name=name, folder=tmp_path / name)
    benchmark.print_failure(Console(width=400), SimpleNamespace(cell=cell, code=1))
    assert f"{name} failed (exit 1)" in capsys.readouterr().out


def test_loss_file_is_named_as_it_is(tmp_path):
    file = tmp_path / "my [loss].yaml"
    file.write_text("model: {loss: {class_path: mbls.losses.CrossEntropyLoss}}")
    assert "my [loss]" in printed(loss_table(tmp_path))
