"""The page loads nothing, is well nested, and describes tables and figures in text."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from mbls.report import build
from tests.report.fake import DRAWS, write_run

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and parents, and texts by tag; wrong nesting raises."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.found, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), tuple(self.stack)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data):
        for tag in self.stack:
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, tag):
        return [(attrs, parents) for name, attrs, parents in self.found if name == tag]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def text(root):
    """A page of two groups, with a line, a scatter and a swept figure where there is one."""
    for margin in (5.0, 10.0):
        settings = {"margin": margin}
        write_run(root, f"mbls,margin={margin:g}", settings=settings, sharpness=margin / 5,
                  patients=3)  # fmt: skip
    write_run(root, "<b>own</b>", 0, patients=3, meta={"grid": "native"})
    write_run(root, "ls", 0, card={"finished": False})
    all_of, some = build.figures_of, ("dice_ece", "cases", "sweep_margin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "figures_of", lambda *a, **k: [d for d in all_of(*a, **k)
                                                            if d.name in some])  # fmt: skip
        build.build_report([root], root / "report", draws=DRAWS, command="mbls report <runs>")
    return (root / "report/report.html").read_text()


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_comes_from_elsewhere(text, page):
    addresses = [a.get(key) for _, a, _ in page.found for key in ("src", "href") if a.get(key)]
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not page.all("link")
    without_data = re.sub(r'data:image/[^"]*', "", text)
    assert "http" not in without_data
    assert "@import" not in without_data
    assert "url(" not in without_data


def test_links_lead_somewhere(page):
    ids = [a["id"] for _, a, _ in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for a, _ in page.all("a")}
    assert wanted <= set(ids)
    assert {i for i in ids if i.startswith("runs-1-")} <= wanted


def test_tables_have_heads_captions_and_labels(page):
    heads = [parents for _, parents in page.all("th")]
    rows = [parents for _, parents in page.all("tr") if "tbody" in parents]
    assert len(page.all("table")) < sum("thead" in parents for parents in heads)
    assert sum("tbody" in parents for parents in heads) == len(rows)
    assert len(page.all("caption")) == len(page.all("table"))
    scrolled = [a for a, _ in page.all("div") if a.get("class", "").startswith("scroll")]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_figures_have_alternative_text(page):
    images = page.all("img")
    assert len(images) >= 5
    assert all(len(a["alt"]) > 40 for a, _ in images)
    assert {a["src"].partition(";")[0] for a, _ in images} == {"data:image/svg+xml"}


def test_the_files_of_figures_are_there(page, root):
    named = [name for files in page.texts["figcaption"].split("Files: ")[1:]
             for name in files.strip().split(", ")]  # fmt: skip
    assert len(named) == len(set(named)) == 2 * len(page.all("figure"))
    assert {name.partition("_")[0] for name in named} == {"group1", "group2"}
    assert all((root / "report" / name).stat().st_size for name in named)


def test_page_names_data_commands_and_runs_left_out(page, text):
    assert page.texts["title"] == "Losses compared on acdc (PHANTOM, synthetic)"
    assert page.texts["caption"].count("PHANTOM") == len(page.all("caption"))
    assert "Must not be compared with group 1: grid native" in page.texts["div"]
    assert "mbls report <runs>" in page.texts["code"]
    assert "mbls train --dataset acdc --loss mbls,margin=5 --seed 0" in page.texts["td"]
    assert "unet-ls/seed0" in page.texts["code"]
    assert "prefers-color-scheme: dark" in text
    assert page.all("html")[0][0]["lang"] == "en"


def test_names_of_losses_are_escaped(page, text):
    assert "<b>own" not in text
    assert "<b>own</b>" in page.texts["th"]


SORT = """
const cell = text => ({textContent: text, dataset: {}});
const rows = process.argv.slice(1).map(text => ({cells: [cell(text)]}));
let click, sorted = rows;
const head = {
  innerHTML: "", state: {}, getAttribute: k => head.state[k],
  setAttribute: (k, v) => head.state[k] = v,
  querySelector: () => ({addEventListener: (_, f) => click = f}),
};
const body = {rows, append: (...all) => sorted = all};
globalThis.document = {
  querySelectorAll: () => [{tHead: {rows: [{cells: [head]}]}, tBodies: [body]}],
};
const shown = () => sorted.map(row => row.cells[0].textContent).join("|");
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(
    "cells",
    [
        ["-0.2", "+0.1000[+0.1, +0.2]", "0.5 ± 0.1 †[0.2, 0.9]", "12.0", "n/a"],
        ["< 0.001", "0.030", "1.000", ""],
        ["mbls margin=5", "mbls margin=10", "nacl"],
    ],
)
def test_columns_sort_by_their_numbers(cells, text):
    script = text.partition("<script>")[2].partition("</script>")[0]
    code = f"{SORT}{script}\nclick(); console.log(shown()); click(); console.log(shown());"
    done = subprocess.run(
        ["node", "-e", code, "--", *reversed(cells)], capture_output=True, text=True, check=True
    )
    up, down = (line.split("|") for line in done.stdout.splitlines())
    assert up == cells
    known = [cell for cell in cells if cell not in ("", "n/a")]
    assert down[: len(known)] == known[::-1]  # missing values stay last
