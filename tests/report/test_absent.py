"""Structures absent from some or all labels: counted in the tables, without a warning."""

import re

import pytest

from mbls.cli import main
from mbls.evaluation import summary_table
from mbls.report import build
from mbls.report.runs import find_runs
from tests.report import fake
from tests.report.fake import DRAWS

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on cases without myocardium, of which the first two have no foreground at all."""
    root, made = tmp_path_factory.mktemp("runs"), fake.predictions

    def predictions(case, **settings):
        probs, label, known = made(case, **settings)
        return probs, label.masked_fill(label == 2 if case > 1 else label > 0, 0), known

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake, "predictions", predictions)
        for loss in ("ce", "mbls"):
            fake.write_run(root, loss, patients=3, pictures=True)
    return root


@pytest.fixture(scope="module")
def written(runs):
    build.build_report([runs], runs / "report", draws=DRAWS)
    return runs / "report"


def test_tables_count_the_cases_that_have_a_structure(written, runs):
    text = (written / "table.md").read_text()
    assert "right ventricle in 2 of 6, myocardium in 6 of 6" in text
    assert "labeled foreground (label), per case (4 of 6 cases have any)" in text
    row = next(line for line in text.splitlines() if line.startswith("| ce") and "n/a" in line)
    assert "nan" not in row
    caption = str(summary_table(find_runs([runs])[0][0].metrics).caption)
    assert "of 6 cases: right ventricle (2), myocardium (6)" in caption
    assert "(label): 4 of 6 cases" in caption


def test_a_report_without_pictures_and_captions(written, runs, monkeypatch):
    page = (written / "report.html").read_text()
    (media,) = re.findall('<source media="([^"]*)" srcset="data:image/png', page)
    assert media == "screen and (prefers-color-scheme: dark)"
    assert (written / "worst_cases.png").is_file()
    all_of = build.figures_of
    monkeypatch.setattr(build, "figures_of", lambda *a, **k: all_of(*a, **k)[:1])  # dice_ece
    build.build_report([runs], written, draws=DRAWS, captions=False, pictures=False)
    page = (written / "report.html").read_text()
    assert "image/png" not in page
    assert not list(written.glob("worst_cases.*"))  # nor those of the report before
    assert "Large marks: means over seeds" in page  # a figure's caption, now the page's


def test_report_command_passes_its_options(runs, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "mbls.report.build.build_report", lambda *_, **options: calls.append(options)
    )
    for options in ([], ["--no-pictures", "--no-captions", "--reference", "ce", "--tag", "last"]):
        assert main(["report", str(runs), *options]) == 0
    names = ("pictures", "captions", "reference", "tag")
    assert [[given[n] for n in names] for given in calls] == [
        [True, True, None, "best"],
        [False, False, "ce", "last"],
    ]
