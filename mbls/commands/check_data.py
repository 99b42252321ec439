"""``mbls check-data``: check every case; list all problems, and summarize the other cases."""

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbls.commands.data import datamodule_of, parse_dataset
from mbls.config.runs import dataset_name
from mbls.runtime.errors import OutputError

__all__ = ["main", "problem_table"]

EXAMPLES = 3  # files shown in a row
NOTES = 10  # notes shown


def main(args: list[str]) -> int:
    """Check every case; exit status 1 if there is any problem."""
    options, settings = parse_dataset("check-data", main.__doc__, args)
    data = datamodule_of(settings)
    pictures = 24 if options.pictures is None else options.pictures
    found = data.examine(pictures=pictures)
    root, console = Path(data.data_root), Console()
    name = dataset_name(options.dataset, options.data_root)  # as of runs
    if found.facts:
        console.print(summary(found.facts, data, root, name=name))
        parts = {} if found.problems else {part: data.cases(part) for part in data.parts}
        notes = [*found.notes, *absent(found.facts, data.class_names, parts, every=options.every)]
        notes += [text for fact in found.facts for text in fact.notes]
        shown = notes if options.every else notes[:NOTES]
        if len(shown) < len(notes):
            shown = [*shown, f"and {len(notes) - len(shown)} more such notes (--every shows all)."]
        for text in shown:
            console.print(text, style="yellow", markup=False, highlight=False)
    if found.facts and pictures > 0:
        sheet = options.sheet or Path("data") / f"{name}-sheet.png"
        save_sheet(sheet, found.facts, data, name=name)
        console.print(f"Contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)
    if found.problems:
        console.print(problem_table(found.problems, root, grouped=not options.every))
        return 1
    console.print(f"[green]No problems[/] in {escape(str(root))}.")
    return 0


def absent(
    facts: Sequence[Any],
    class_names: Sequence[str],
    parts: Mapping[str, Sequence[str]],
    *,
    every: bool = False,
) -> list[str]:
    """Return notes on cases without any structure, and on parts that lack one.

    Args:
        facts: Facts of the valid cases; those without a label are skipped.
        class_names: Class names; the first is background.
        parts: Ids of the cases in each part of the split.
        every: If True, name all cases instead of the first few.
    """
    found = {fact.id: [volume > 0 for volume in fact.volumes[1:]] for fact in facts if fact.volumes}
    empty = [case for case, there in found.items() if not any(there)]
    notes = []
    if empty:
        shown = empty if every or len(empty) <= EXAMPLES + 1 else empty[:EXAMPLES]
        more = f" and {len(empty) - len(shown)} more" if len(shown) < len(empty) else ""
        notes.append(
            f"{len(empty)} of {len(found)} cases have no voxel of any structure: "
            f"{', '.join(shown)}{more}. They are used; Dice and surface distances skip them."
        )
    for part, cases in parts.items():
        rows = [found[case] for case in cases if case in found]
        lacking = [
            name for k, name in enumerate(class_names[1:]) if rows and not any(r[k] for r in rows)
        ]
        what = "cannot be learned" if part == "train" else f"has no Dice in {part}"
        notes += [f"{name} is absent from all {len(rows)} cases of {part}: it {what}."
                  for name in lacking]  # fmt: skip
    return notes


def save_sheet(sheet: Path, facts: Sequence[Any], data: Any, *, name: str) -> None:
    """Write the contact sheet; its title marks a phantom."""
    phantom = " PHANTOM (synthetic data)" if data.origin == "phantom" else ""
    try:
        data.save_contact_sheet(sheet, facts, title=f"{name}{phantom}")
    except OSError as error:
        raise OutputError(
            f"The contact sheet {sheet} cannot be written ({error.strerror}). Choose another: "
            "--sheet FILE, or none: --pictures 0."
        ) from error


def summary(facts: Sequence[Any], data: Any, root: Path, *, name: str) -> Table:
    """Return a table of the cases' shapes, spacings, intensities and label volumes."""
    phantom = " PHANTOM (synthetic data)" if data.origin == "phantom" else ""
    table = Table(
        title=escape(f"{name}{phantom}: {len(facts)} cases without problems in {root}"),
        title_justify="left",
    )
    table.add_column("of each case")
    for name in ("least", "median", "most"):
        table.add_column(name, justify="right")
    table.add_column("")
    for axis in range(3):
        _row(table, f"voxels, axis {axis + 1}", [fact.shape[axis] for fact in facts])
    for axis in range(3):
        _row(table, f"voxel size, axis {axis + 1} (mm)", [fact.spacing[axis] for fact in facts])
    codes = Counter(fact.codes for fact in facts).most_common(4)
    table.add_row("axes", "", "", "", ", ".join(f"{code} in {n}" for code, n in codes))
    modalities = max(len(fact.intensities) for fact in facts)
    named = dict(enumerate(data.modalities))
    for m in range(modalities):
        name = named.get(m, f"image {m + 1}") if modalities > 1 else "intensity"
        for k, quantile in enumerate(("minimum", "1 %", "median", "99 %", "maximum")):
            _row(table, f"{name}, {quantile}", [fact.intensities[m][k] for fact in facts])
    labeled = [fact for fact in facts if fact.volumes]
    for k, name in list(enumerate(data.class_names))[1:] if labeled else ():
        volumes = [fact.volumes[k] for fact in labeled]
        missing = sum(volume == 0 for volume in volumes)
        note = f"absent in {missing}" if missing else ""
        flat = all(fact.shape[-1] == 1 for fact in facts)  # slices of 1 mm, as pictures are
        sizes = [1000 * v if flat else v for v in volumes if v > 0]
        _row(table, f"{name} ({'mm3' if flat else 'ml'})", sizes, note)
    if any(fact.ignored for fact in facts):
        _row(table, "ignored voxels (%)", [100 * fact.ignored for fact in facts])
    return table


def _row(table: Table, name: str, values: Iterable[float], note: str = "") -> None:
    values = sorted(values)
    cells = ["", "", ""]
    if values:
        cells = [f"{v:.4g}" for v in (values[0], statistics.median(values), values[-1])]
    table.add_row(escape(name), *cells, note)


def problem_table(problems: Sequence[Any], root: Path, *, grouped: bool = True) -> Table:
    """Return a table of all problems, with paths relative to their common folder.

    Args:
        problems: The problems.
        root: The dataset's folder.
        grouped: If True, problems with the same rule and fix share a row, with some of their files.
    """
    rows: dict[Any, list[Any]] = {}
    for number, problem in enumerate(problems):
        key = (problem.rule, problem.fix) if grouped else number
        rows.setdefault(key, []).append(problem)
    base = _base(problems, root)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    kinds = f" in {len(rows)} rows" if len(rows) < len(problems) else ""
    table = Table(
        title=escape(f"{count}{kinds}, in {base}"),
        title_justify="left",
        show_lines=True,
        expand=True,
    )
    table.add_column("files", overflow="fold", ratio=2)
    table.add_column("rule, what was found, way out", overflow="fold", ratio=3)
    for same in rows.values():
        table.add_row(_files(same, base), _description(same))
    return table


def _base(problems: Sequence[Any], root: Path) -> Path:
    """Return the common folder of all files with problems: ``root`` or one below it."""
    folders = {Path(problem.path).parent for problem in problems}
    if not all(folder.is_relative_to(root) for folder in folders):
        return root
    return Path(os.path.commonpath(folders))


def _files(problems: Sequence[Any], base: Path) -> str:
    names = list(dict.fromkeys(_short(problem, base) for problem in problems))
    shown = names if len(names) <= EXAMPLES + 1 else names[:EXAMPLES]
    more = [f"and {len(names) - len(shown)} more files"] if len(shown) < len(names) else []
    return "\n".join([*map(escape, shown), *more])


def _description(problems: Sequence[Any]) -> str:
    first = problems[0]
    alike = all(problem.found == first.found for problem in problems)
    found = f"found {first.found}" if alike else f"found, in the first, {first.found}"
    return f"[bold]{escape(first.rule)}[/]\n{escape(found)}\n[cyan]{escape(first.fix)}[/]"


def _short(problem: Any, base: Path) -> str:
    path = Path(problem.path)
    if path == base:
        return "(the folder itself)"
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
