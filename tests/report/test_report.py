"""``mbls report``: its numbers are those of the runs, in groups that can be compared."""

import csv
import json
import math

import numpy as np
import pytest

from mbls.report.build import build_report
from mbls.report.groups import differing
from mbls.report.runs import find_runs
from mbls.runtime.errors import ReportError
from tests.report.fake import DRAWS, analysis_of, group_of, grouped, write_run

pytestmark = pytest.mark.usefixtures("no_report_figures")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of three losses, of which the last was swept, and a run that did not finish."""
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        write_run(root, "ce", seed)
        write_run(root, "mbls,margin=5", seed, settings={"margin": 5.0}, sharpness=1, noise=0.2)
        write_run(root, "mbls,margin=10", seed, settings={"margin": 10.0}, sharpness=1.2)
    (write_run(root, "ls", 0) / "run.json").write_text('{"finished": false}')
    return root


@pytest.fixture(scope="module")
def analysis(runs):
    return analysis_of(runs)


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    build_report([runs], output, draws=DRAWS)
    return output


def rows(folder):
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def stored(run, row):
    """The value of a row of table.csv in a run's own metrics.json."""
    metrics = json.loads((run / "test/best/metrics.json").read_text())
    metric = row["measure"].split("/")
    if row["protocol"] == "overlap":
        return metrics[metric[0]][metric[1]]["value"]
    name = "dice/mean" if metric[0] == "dice" else metric[0]
    return metrics[row["protocol"]][row["region"]][row["pooling"]][name]["value"]


def test_every_number_is_that_of_the_runs(written, runs):
    table = rows(written)
    assert len({row["measure"] for row in table}) > 40
    for row in table:
        folders = [runs / name for name in row["run_folders"].split(";")]
        values = [stored(folder, row) for folder in folders]
        if any(value is None for value in values):
            continue
        each = list(map(float, row["value_of_each_seed"].split()))
        assert each == pytest.approx(values, rel=1e-12), row["measure"]
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["sd_over_seeds"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_swept_losses_are_named_by_the_settings_that_differ(analysis):
    assert [arm.name for arm in analysis.group.arms] == ["ce", "mbls:margin=5", "mbls:margin=10"]
    assert [arm.seeds for arm in analysis.group.arms] == [[0, 1, 2]] * 3


def test_a_single_run_is_named_by_its_loss(tmp_path):
    write_run(tmp_path, "mbls,margin=8,base.squared=True", settings={"margin": 8.0})
    assert [arm.name for arm in group_of(tmp_path).arms] == ["mbls:margin=8,base.squared=True"]


def test_the_calibrated_loss_is_significantly_best(analysis):
    cells = analysis.cells["nll/all/pooled"]
    assert {name: (cell.best, cell.tied) for name, cell in cells.items()} == {
        "ce": (False, False),
        "mbls:margin=5": (True, True),
        "mbls:margin=10": (False, False),
    }


def test_a_patients_cases_are_no_further_patients(analysis):
    pairs = {c.first + c.second: c for c in analysis.comparisons["nll/all/per_case"]}
    found = pairs.get("cembls:margin=5") or pairs["mbls:margin=5ce"]
    runs = {arm.name: arm.runs for arm in analysis.group.arms}
    patients = []
    for name in (found.first, found.second):
        with_means = []
        for run in runs[name]:
            with (run.test / "cases.csv").open(newline="") as file:
                by_patient = {}
                for row in csv.DictReader(file):
                    by_patient.setdefault(row["patient"], []).append(float(row["nll/all"]))
            with_means.append([np.mean(v) for v in by_patient.values()])
        patients.append(np.mean(with_means, 0))
    error = (patients[0] - patients[1]).std(ddof=1) / 8**0.5
    assert found.effect.se_patients == pytest.approx(error)


def test_a_single_seed_supports_no_claim(tmp_path):
    write_run(tmp_path, "ce", 0)
    write_run(tmp_path, "mbls", 0, sharpness=1.0)
    found = analysis_of(tmp_path)
    assert all(cell.tied for cell in found.cells["nll/all/pooled"].values())
    (pair,) = found.comparisons["nll/all/pooled"]
    assert math.isnan(pair.adjusted)
    assert pair.p_networks < 0.05
    assert "single seed" in found.cautions[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"data_fingerprint": "0" * 64}}, "data fingerprint"),
        ({"meta": {"grid": "native"}}, "grid native, not preprocessed"),
        ({"meta": {"mirror": [0, 1]}}, "mirrored axes 0, 1, not none"),
        ({"patients": 6}, "12 cases of 6 patients, not 16 cases of 8 patients"),
        ({"card": {"fold": 1}}, "fold 1, not None"),
    ],
)
def test_runs_that_must_not_be_compared_are_in_another_group(change, message, runs, tmp_path):
    other = write_run(tmp_path, "mbls", 0, **change)
    groups, _ = grouped(runs, other)
    assert [len(group.arms) for group in groups] == [3, 1]
    assert message in "; ".join(differing(*groups))


def test_groups_are_numbered_on_screen_and_in_the_csv_file(tmp_path, capsys):
    write_run(tmp_path, "ce", patients=2)
    write_run(tmp_path, "mbls", patients=2, meta={"grid": "native"})
    build_report([tmp_path], tmp_path / "report", draws=DRAWS)
    assert "Must not be compared with group 1: grid native" in capsys.readouterr().out
    assert {row["group"] for row in rows(tmp_path / "report")} == {"1", "2"}


def test_settings_of_the_training_that_differ_are_noted(runs, tmp_path):
    longer = write_run(tmp_path, "dice", 0, config={"trainer": {"max_epochs": 9}})
    notes = " ".join(group_of(runs, longer).notes)
    assert "trainer.max_epochs: 3 for ce, mbls; 9 for dice" in notes


def test_the_same_training_twice_is_one(runs, tmp_path):
    again = write_run(tmp_path, "ce", 0)
    (group,), left_out = grouped(runs, again)
    assert group.arms[0].seeds == [0, 1, 2]
    assert len(left_out) == 1
    assert "same settings and seed" in left_out[0].reason


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "run.json").write_text('{"finished": false}'), "not finished; resume it"),
        (lambda f: (f / "run.json").write_text("{"), "cannot be read: JSONDecodeError"),
        (lambda f: (f / "run.json").unlink(), "no run.json"),
        (lambda f: (f / "test/best/metrics.json").unlink(), "not tested: no test/best"),
        (lambda f: (f / "test/best/bins.npz").write_bytes(b"PK"), "cannot be read"),
        (lambda f: (f / "config.yaml").write_text("a: ["), "cannot be read"),
        (lambda f: (f / "config.yaml").unlink(), "cannot be read: FileNotFoundError"),
    ],
)
def test_a_broken_run_is_left_out_with_the_reason(spoil, message, tmp_path):
    write_run(tmp_path, "ce", 0)
    spoil(write_run(tmp_path, "mbls", 0))
    found, left_out = find_runs([tmp_path])
    assert [run.card["loss"] for run in found] == ["ce"]
    assert message in left_out[0].reason


def test_the_screen_fits_80_columns_and_names_the_phantom(runs, tmp_path, capsys):
    build_report([runs], tmp_path, draws=DRAWS)
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(len(line) for line in out.splitlines() if str(tmp_path) not in line) <= 80
    assert out.count("PHANTOM") >= 3
    assert "unet-ls/seed0: not finished" in "".join(out.split("\n"))
    assert "conditional on the trained networks" in " ".join(out.split())


def test_markdown_and_latex_contain_the_tables(written):
    markdown, latex = (written / "table.md").read_text(), (written / "table.tex").read_text()
    assert markdown.count("PHANTOM") == markdown.count("### ")
    assert "| mbls:margin=10<br>3 seeds |" in markdown
    assert latex.count(r"\begin{table}") == markdown.count("### ")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule")
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({line.count(" & ") for line in body}) > 1
    for table in latex.split(r"\begin{tabular}")[1:]:
        columns = len(table[table.index("{") + 1 : table.index("}")])
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") for line in lines} == {columns - 1}


def test_a_reference_is_compared_with_each_other_loss(runs, tmp_path):
    (found,) = build_report([runs], tmp_path, reference="ce", draws=DRAWS)
    pairs = [(c.first, c.second) for c in found.against_reference["dice/mean"]]
    assert pairs == [("mbls:margin=5", "ce"), ("mbls:margin=10", "ce")]
    with pytest.raises(ReportError, match=r"one loss .* 'mbls:margin=5', 'mbls:margin=10'"):
        build_report([runs], tmp_path, reference="mbls", draws=DRAWS)


def test_wrong_arguments(tmp_path, refusal):
    assert "nowhere is not a folder" in refusal("report", str(tmp_path / "nowhere"))
    assert "No finished run with a test 'best'" in refusal("report", str(tmp_path))
    assert "--refrence" in refusal("report", str(tmp_path), "--refrence", "ce")
