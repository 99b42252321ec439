"""Names of losses, classes and cases are escaped in each format."""

import csv
import re

import pandas as pd
import pytest

from mbls.evaluation.results import load_results as load
from mbls.evaluation.run import csv_field, csv_name
from mbls.report.build import views_of
from mbls.report.text import csv_text, latex_text, markdown_text
from tests.report.fake import analysis_of, write_run

FORMULA = "=cmd|' /C calc'!A0"
NAMES = ["background", "<script>alert(1)</script>\n\n[left](http://x)", "[right]"]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for loss in ("ce", FORMULA, "[own]"):
        card = {"loss": loss}
        write_run(root, loss.partition("/")[0], patients=3, card=card, meta={"class_names": NAMES})
    return analysis_of(root)


def test_no_field_of_a_csv_file_is_a_formula(analysis):
    rows = list(csv.DictReader(csv_text([analysis]).splitlines()))
    names = dict.fromkeys(row["loss"] for row in rows)
    assert f"'{FORMULA}" in names
    assert csv_name(f"'{FORMULA}") == FORMULA
    fields = [row[key] for row in rows for key in ("dataset", "loss", "measure", "run_folders")]
    assert not [text for text in fields if text.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("name", [FORMULA, "'=1", "''-1", "@x", "\tx", "007", "NA", "'quoted'"])
def test_names_of_cases_come_back(name, tmp_path):
    test = write_run(tmp_path, patients=2) / "test/best"
    text = (test / "cases.csv").read_text()
    field = f'"{csv_field(name)}"'
    assert not csv_field(name).startswith(("=", "@", "\t"))
    (test / "cases.csv").write_text(text.replace("p0_ED,p0,", f"{field},{field},"))
    assert list(load(test).cases.iloc[0][["case", "patient"]]) == [name, name]
    assert pd.api.types.is_float_dtype(load(test).cases["ece/all"])


def test_markdown_has_no_tag_no_link_and_no_broken_row(analysis):
    text = markdown_text(views_of(analysis))
    assert "&lt;script>" in text
    assert not re.search(r"<(?!br>)[A-Za-z/!]", text)
    assert "](" not in text
    tables = [line for line in text.splitlines() if "script" in line or "[own]" in line]
    assert all(line.startswith(("|", "#")) for line in tables)


def test_no_row_of_latex_begins_like_an_argument(analysis):
    text = latex_text(views_of(analysis))
    assert "{}[own]" in text
    after = re.findall(r"(?:\\\\|rule|scriptsize)\s*(\S)", text)
    assert len(after) > 50
    assert not set(after) & set("[*")
    assert "\n\n" not in text.partition(r"\begin{tabular}")[2].partition(r"\end{tabular}")[0]
    assert r"\shortstack[r]{Dice, \\ {}[right] $\uparrow$}" in text
