r"""The LaTeX of a report compiles, and its tables fit a page."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from mbls.report.text import latex_pieces, latex_text
from mbls.report.views import View

LETTERS = "mbls_2 50% a&b {x} c#1 $d ~e ^f \\g <h> i--j"


def view(columns: int, *, number: str = "0.1234 ± 0.0012", same: bool = False) -> View:
    heads = ("loss", *(f"class-wise ECE {k}, corrected ↓" for k in range(columns)))
    names = ["mbls" if same else f"mbls margin={r}" for r in range(3)]
    rows = [
        [f"{name}\n3 seeds", *(f"{number}{' †' * (r > k)}\n[-0.12, 0.13]" for k in range(columns))]
        for r, name in enumerate(names)
    ]
    best = frozenset((r, 1 + r) for r in range(min(3, columns)))
    frame = pd.DataFrame(rows, columns=heads)
    return View(f"Title {LETTERS}", f"Caption: {LETTERS}", ("± †: 5 %.",), frame, best)


def test_wide_tables_are_set_in_pieces() -> None:
    assert latex_pieces(view(2)) == [[0, 1, 2]]
    assert latex_pieces(view(6)) == [[0, 1, 2, 3], [0, 4, 5, 6]]
    assert latex_pieces(view(6, same=True)) == [list(range(7))]
    pieces = latex_text([view(6)]).split(r"\begin{tabular}")[1:]
    assert [re.findall(r"class-wise ECE (\d)", piece) for piece in pieces] == [
        list("012"),
        list("345"),
    ]
    assert all(piece.count("mbls margin=") == 3 for piece in pieces)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles_and_fits_the_page(tmp_path: Path) -> None:
    views = [view(2), view(6), view(6, same=True), view(1, number="a long name " * 12)]
    (tmp_path / "table.tex").write_text(latex_text(views))
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}"
        "\\begin{document}\\input{table}\\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
    assert "Output written" in done.stdout
