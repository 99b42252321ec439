"""Error rates in simulated worlds of known truth: those on the page, and the claims."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import statistics
from experiments.benchmarks.statistics import (
    CLASSWISE_WORLDS,
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
    ClasswiseWorld,
    crossed_coverage,
    crossed_rejections,
    pooled_network_coverage,
    pooled_rejections,
    signs_rejections,
)
from experiments.readme import section
from mbls.metrics.calibration import expected_error
from mbls.report.stats import cautions
from mbls.report.views import POOLED_COVERAGE

BY_NAME = {table.name: table for table in TABLES}
CORRECTED = ("pooled-patient-interval", "classwise-patient-interval")
NOT_CLAIMED = ("signs", "percentiles", *CORRECTED)
"""Methods that the report does not use for a claim, or whose coverage it always states."""
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


@pytest.mark.parametrize("world", CLASSWISE_WORLDS.values(), ids=CLASSWISE_WORLDS)
def test_the_truth_of_a_classwise_world_is_that_of_very_many_patients(world: ClasswiseWorld):
    rng = np.random.default_rng(0)
    ((slopes, counts),) = world.tables(rng, 1, 2, 4000)
    found = expected_error(*counts.sum(-2)).mean(0)
    np.testing.assert_allclose(found, world.errors(slopes), rtol=0.03, atol=2e-4)


def test_a_few_trials_of_classwise_ece():
    world = CLASSWISE_WORLDS["three classes, trainings differ"]
    assert pooled_network_coverage(world, 3, 10, 20) > 0.95 - two_errors(20)


def test_sign_flips_of_one_seed_reject_too_often():
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
def test_the_page_marks_wrong_rates_and_the_report_warns_of_them(table: ErrorRates):
    for world, cells in shown(table).items():
        for (seeds, patients), cell in zip(table.sizes, cells, strict=True):
            wrong = table.wrong(float(cell.strip("*")) / 100)
            assert wrong == cell.startswith("**"), (world, seeds, patients)
            if wrong and table.name not in NOT_CLAIMED:
                assert not table.claimed(world, seeds, patients), (world, seeds, patients)
                few = cautions([seeds, seeds], patients)
                assert few or world == "strongly skewed patients", (world, seeds, patients)


def test_tables_with_corrected_errors_state_the_coverage_of_their_intervals():
    rows = [row for name in CORRECTED for row in shown(BY_NAME[name]).values()]
    rates = [float(cell.strip("*")) for row in rows for cell in row]
    assert f"{math.floor(min(rates))} to {math.ceil(max(rates))} %" == POOLED_COVERAGE


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    statistics.main(["--trials", "2", "--table", "pooled", "--page", str(page), "--write"])
    printed = capsys.readouterr().out
    assert printed.count(section(page.read_text(), "pooled")) == 1
    assert section(page.read_text(), "crossed") == section(PAGE.read_text(), "crossed")


@pytest.mark.slow
@pytest.mark.parametrize(("table", "world"), ROWS)
def test_rates_are_the_pages_and_right_where_claimed(table: ErrorRates, world: str):
    for (seeds, patients), cell in zip(table.sizes, shown(table)[world], strict=True):
        rate = table.cell(world, seeds, patients)
        assert 100 * rate == pytest.approx(float(cell.strip("*")), abs=0.11)
        if table.claimed(world, seeds, patients):
            assert not table.wrong(rate), (seeds, patients, rate)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3, 30), (5, 10), (5, 30), (5, 100)])
def test_where_patients_differ_most_the_level_is_exact(size: tuple[int, int]):
    rate = crossed_rejections(WORLDS["patients differ most"], *size, TRIALS)
    assert abs(rate - 0.05) < two_errors(TRIALS)
