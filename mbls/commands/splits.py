"""``mbls splits``: write the folds of a dataset's patients as JSON."""

import json
from pathlib import Path

from mbls.commands.data import datamodule_of, parse_dataset
from mbls.config.runs import dataset_name
from mbls.runtime.errors import OutputError, UsageError

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Write patient folds to a JSON file, for SPLIT=file and FOLD=k (--split, --fold)."""
    options, settings = parse_dataset("splits", main.__doc__, args)
    count = 5 if options.folds is None else options.folds
    if count < 2:
        raise UsageError(f"--folds must be at least 2, got {count}.")
    folds = datamodule_of(settings).fold_splits(count)
    output = (
        options.output
        or Path("splits") / f"{dataset_name(options.dataset, options.data_root)}-{count}.json"
    )
    text = json.dumps({"folds": folds}, indent=1) + "\n"
    if output.exists() and output.read_text() != text:
        raise OutputError(
            f"{output} exists with other folds, which runs may have used. Remove it, or choose "
            "another file with --output FILE (make: OUTPUT=FILE)."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written ({error.strerror}). Choose another file: --output FILE."
        ) from error

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{output}: patients of each fold"), title_justify="left")
    for column in ("fold", "train", "val", "test"):
        table.add_column(column, justify="right")
    for number, split in enumerate(folds):
        table.add_row(str(number), *(str(len(split[part])) for part in ("train", "val", "test")))
    Console().print(table)
    return 0
