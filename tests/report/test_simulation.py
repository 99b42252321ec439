"""Error rates in worlds of known truth: what the page says of them, right where claimed."""

import math
import re
from pathlib import Path

import pytest

from experiments.benchmarks import statistics
from experiments.benchmarks.statistics import (
    PAGE,
    POOLED_WORLDS,
    TABLES,
    TRIALS,
    WORLDS,
    ErrorRates,
    markdown,
    two_errors,
)
from experiments.benchmarks.trials import (
    crossed_coverage,
    crossed_rejections,
    pooled_network_coverage,
    pooled_rejections,
    signs_rejections,
)
from experiments.readme import section
from mbls.report.stats import cautions
from mbls.report.views import POOLED_HELD

BY_NAME = {table.name: table for table in TABLES}
TOLD = ("signs", "percentiles", "pooled-patient-interval")
"""Methods that the report does not use for a claim, or says of what they hold, always."""
ROWS = [
    pytest.param(table, world, id=f"{table.name}-{world}")
    for table in TABLES
    for world in table.worlds
]


def shown(table: ErrorRates) -> dict[str, list[str]]:
    """Return the page's cells by world, marks included."""
    _, _, *rows = section(PAGE.read_text(), table.name).splitlines()
    cells = [row.strip("| ").split(" | ") for row in rows]
    return {world: numbers for world, *numbers in cells}


def test_a_few_trials_of_the_crossed_test():
    assert crossed_rejections(WORLDS["seeds as patients"], 3, 10, 200) < 0.05 + two_errors(200)
    assert crossed_coverage(WORLDS["patients differ most"], 5, 10, 200) > 0.95 - two_errors(200)


def test_a_few_trials_of_pooled_ece():
    world = POOLED_WORLDS["overconfident, trainings differ"]
    assert pooled_rejections(world, 3, 10, 100) < 0.05 + two_errors(100)
    assert pooled_network_coverage(world, 3, 10, 100) > 0.95 - two_errors(100)


def test_signs_alone_take_another_seed_for_another_loss():
    assert signs_rejections(WORLDS["seeds differ most"], 1, 30, 100) > 0.5


@pytest.mark.parametrize("table", TABLES, ids=BY_NAME)
def test_the_page_has_the_form_of_the_commands_output(
    table: ErrorRates, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ErrorRates, "cell", lambda *_: 0.5)
    number = re.compile(r"\*{0,2}\d+\.\d\*{0,2}")
    page = section(PAGE.read_text(), table.name)
    assert number.sub("x", page) == number.sub("x", markdown(table, TRIALS))


@pytest.mark.parametrize("table", TABLES, ids=BY_NAME)
def test_the_page_marks_what_is_wrong_and_the_report_warns_of_it(table: ErrorRates):
    for world, cells in shown(table).items():
        for (seeds, patients), words in zip(table.sizes, cells, strict=True):
            wrong = table.wrong(float(words.strip("*")) / 100)
            assert wrong == words.startswith("**"), (world, seeds, patients)
            if wrong and table.name not in TOLD:
                assert not table.claimed(world, seeds, patients), (world, seeds, patients)
                few = cautions([seeds, seeds], patients)
                assert few or world == "strongly skewed patients", (world, seeds, patients)


def test_tables_with_corrected_errors_say_how_often_their_intervals_hold():
    cells = shown(BY_NAME["pooled-patient-interval"]).values()
    rates = [float(words.strip("*")) for row in cells for words in row]
    assert f"{math.floor(min(rates))} to {math.ceil(max(rates))} %" == POOLED_HELD


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    words = ["--trials", "4", "--table", "pooled", "--page", str(page)]
    statistics.main(words)
    assert page.read_text() == PAGE.read_text()
    statistics.main([*words, "--write"])
    printed = capsys.readouterr().out
    assert printed.count(section(page.read_text(), "pooled")) == 2
    assert section(page.read_text(), "crossed") == section(PAGE.read_text(), "crossed")


@pytest.mark.slow
@pytest.mark.parametrize(("table", "world"), ROWS)
def test_rates_are_the_pages_and_right_where_claimed(table: ErrorRates, world: str):
    for (seeds, patients), words in zip(table.sizes, shown(table)[world], strict=True):
        rate = table.cell(world, seeds, patients)
        assert 100 * rate == pytest.approx(float(words.strip("*")), abs=0.11)
        if table.claimed(world, seeds, patients):
            assert not table.wrong(rate), (seeds, patients, rate)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3, 30), (5, 10), (5, 30), (5, 100)])
def test_where_patients_differ_most_the_level_is_exact(size: tuple[int, int]):
    rate = crossed_rejections(WORLDS["patients differ most"], *size, TRIALS)
    assert abs(rate - 0.05) < two_errors(TRIALS)
