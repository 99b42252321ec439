"""Updates the tables of README.md, docs and the Makefile.

``make readme`` writes the losses, the options, the diagram of the code and the results on real
data, and the default benchmark's results on the phantom where ``make benchmark`` has left its runs.
A table is between
``<!-- losses -->`` and ``<!-- /losses -->``, in the Makefile between ``# <options>`` and
``# </options>``.
"""

import argparse
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mbls.losses
from experiments.decisions import decisions_table, regret_table
from experiments.results import BENCHMARKS, results_table
from experiments.structure import diagram
from mbls.commands.benchmark import DEFAULT_LOSSES, DEFAULT_PRESET, DEFAULT_ROOT
from mbls.config.choices import config_folder
from mbls.config.options import OPTIONS, Option
from mbls.losses.catalogue import Entry, loss_entries

__all__ = [
    "TABLES",
    "benchmark_table",
    "losses_table",
    "main",
    "make_variables",
    "options_table",
    "section",
    "with_section",
]

ROOT = Path(__file__).parents[1]
USUAL = ("CompoundLoss", "CrossEntropyLoss")
COLUMNS: dict[str, tuple[str, ...]] = {  # heading -> where metrics.json has it
    "Dice": ("dice", "mean"),
    "ECE, all voxels": ("sound", "all", "pooled", "ece"),
    "true ECE": ("sound", "all", "pooled", "true_ece"),
    "ECE, foreground": ("sound", "label", "pooled", "ece"),
    "true confidence - accuracy, foreground": ("sound", "label", "pooled", "true_signed"),
}


NOT_RUN = "Not run for this version: `make benchmark`, then `make readme`."


def losses_table() -> str:
    """Return the table of the losses in Markdown: name, formula, soft labels, paper, file."""
    rows = ["| `LOSS` | formula | soft | paper | file |", "|---|---|---|---|---|"]
    for entry in loss_entries(config_folder() / "loss"):
        formula, soft = _code(entry.formula), "yes" if entry.soft else ""
        cells = [f"`{entry.name}`", formula, soft, entry.paper, f"`{_file(entry)}`"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def options_table() -> str:
    """Return the table of the options in Markdown: option, variable of make, targets, meaning."""
    rows = ["| `make` | option | of | |", "|---|---|---|---|"]
    for option in OPTIONS:
        variable = f"`{option.name.upper()}`" if option.make else ""
        flag = f"`{option.name.upper()}`" if option.positional else f"`{option.flag}`"
        commands = ", ".join(option.commands.split())
        rows.append(f"| {variable} | {flag} | {commands} | {_meaning(option)} |")
    return "\n".join(rows)


def make_variables() -> str:
    """Return the Makefile's variables: those of each target, the switches, and help on each."""
    options = [option for option in OPTIONS if option.make]
    targets = dict.fromkeys(command for option in options for command in option.commands.split())
    lines = [
        f"vars.{target} := {' '.join(o.name.upper() for o in options if o.of(target))}"
        for target in targets
    ]
    switches = [option.name.upper() for option in options if option.type is bool]
    lines.append(f"SWITCHES := {' '.join(dict.fromkeys(switches))}")
    for option in options:
        if not option.kind or option.help:
            commands = ", ".join(option.commands.split())
            lines.append(f"#: {option.name.upper():<15}{_meaning(option)} ({commands})")
    return "\n".join(lines)


def _meaning(option: Option) -> str:
    """Return the values that an option takes and its help."""
    return ": ".join(filter(None, (", ".join(map(str, option.choices or ())), option.help)))


def benchmark_table(runs: Path, *, losses: str | None = None) -> str:
    """Return the table of a benchmark: mean and standard deviation over seeds, a row a loss.

    Args:
        runs: Folder of the dataset's runs, ``runs/benchmark/acdc``.
        losses: Which, and in which order; None for those of the default benchmark.

    Raises:
        ValueError: A loss has fewer than two finished runs, or tests are not of one kind.
    """
    found = {loss: _results(runs, loss) for loss in (losses or DEFAULT_LOSSES).split()}
    about = {_about(metrics["meta"]) for tests in found.values() for metrics in tests}
    if len(about) != 1:
        raise ValueError(f"{runs} must hold tests of one kind, found {'; '.join(sorted(about))}.")
    seeds = sorted({len(tests) for tests in found.values()})
    heads = ["loss", *COLUMNS, "command"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for loss, tests in found.items():
        cells = [_mean(tests, path) for path in COLUMNS.values()]
        rows.append(f"| `{loss}` | {' | '.join(cells)} | `{_command(loss)}` |")
    counts = " or ".join(map(str, seeds))
    return "\n".join([*rows, "", f"Mean ± sd of {counts} seeds; {about.pop()}; pooled voxels."])


def section(text: str, name: str) -> str:
    """Return the text between the markers of a name.

    Raises:
        ValueError: The text does not have the markers once.
    """
    return _split(text, name)[1].strip("\n")


def with_section(text: str, name: str, content: str) -> str:
    """Return the text with other content between the markers of a name."""
    before, _, after = _split(text, name)
    return f"{before}\n{content}\n{after}"


def main(args: Sequence[str] | None = None) -> None:
    """Write the tables into their files."""
    p = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    p.add_argument("--runs", type=Path, default=DEFAULT_ROOT / "acdc", metavar="FOLDER",
                   help=f"of the benchmark (default: {DEFAULT_ROOT}/acdc, if there)")  # fmt: skip
    p.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="the checkout")
    options = p.parse_args(args)
    contents = {place: table() for place, table in TABLES.items()}
    if options.runs.is_dir():
        contents["docs/results.md", "benchmark"] = benchmark_table(options.runs)
    for (name, marker), content in contents.items():
        file = options.root / name
        file.write_text(with_section(file.read_text(), marker, content))


def _split(text: str, name: str) -> tuple[str, str, str]:
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    if f"# <{name}>" in text:  # a Makefile
        opening, closing = f"# <{name}>", f"# </{name}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        raise ValueError(f"The text must have {opening} and {closing} once each.")
    before, _, rest = text.partition(opening)
    inside, _, after = rest.partition(closing)
    return before + opening, inside, closing + after


def _file(entry: Entry) -> str:
    """Return the file of a loss's formula: of a sum, that of the part that is not a usual one."""
    names = [name for name in re.findall(r"\w+Loss", entry.cls) if name not in USUAL]
    cls = getattr(mbls.losses, names[0] if names else entry.cls)
    return f"{cls.__module__.removeprefix('mbls.losses.').replace('.', '/')}.py"


def _code(formula: str) -> str:
    escaped = formula.replace("|", "\\|")
    return f"`{escaped}`" if escaped else ""


def _results(runs: Path, loss: str) -> list[Mapping[str, Any]]:
    files = sorted(runs.glob(f"*-{loss}/seed*/test/best/metrics.json"))
    if len(files) < 2:
        raise ValueError(
            f"{runs} must hold at least two tested runs of {loss}, found {len(files)}."
        )
    return [json.loads(file.read_text()) for file in files]


def _about(meta: Mapping[str, Any]) -> str:
    phantom = "PHANTOM in the layout of " if meta["origin"] == "phantom" else ""
    counts = f"{meta['n_cases']} cases of {meta['n_patients']} patients"
    return f"{phantom}{meta['dataset'].upper()}, test set, {counts}, network {meta['network']}"


def _mean(tests: Sequence[Mapping[str, Any]], path: Sequence[str]) -> str:
    values = [_at(metrics, path) for metrics in tests]
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def _at(metrics: Mapping[str, Any], path: Sequence[str]) -> float:
    found: Any = metrics
    for key in path:
        found = found[key]
    return float(found["value"])


def _command(loss: str) -> str:
    return f"make benchmark LOSSES={loss} PRESET={DEFAULT_PRESET} ROOT={DEFAULT_ROOT}"


TABLES: dict[tuple[str, str], Callable[[], str]] = {  # (file, marker) -> its content
    ("docs/losses.md", "losses"): losses_table,
    ("docs/commands.md", "options"): options_table,
    ("docs/architecture.md", "diagram"): diagram,
    ("Makefile", "options"): make_variables,
    ("README.md", "results"): partial(results_table, BENCHMARKS[0]),
    **{
        ("docs/results.md", benchmark.name): partial(results_table, benchmark)
        for benchmark in BENCHMARKS
        if benchmark.file.is_file()
    },
    ("docs/decisions.md", "decisions"): decisions_table,
    ("docs/decisions.md", "regret"): regret_table,
    ("docs/decisions.md", "widths"): partial(regret_table, "width"),
}


if __name__ == "__main__":
    main()
