"""``mbls splits``: the folds of a dataset's patients, as JSON."""

import json
from pathlib import Path

from mbls.commands.data import datamodule, parser
from mbls.config.wrong_words import refuse_unknown
from mbls.runtime.errors import OutputError

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Write the folds by patient to a file, of which FOLD=k (--fold) with SPLIT=file uses one."""
    p = parser("mbls splits", main.__doc__)
    p.add_argument("--folds", type=int, default=5, metavar="N")
    p.add_argument("--output", type=Path, metavar="FILE",
                   help="default: splits/<dataset>-<folds>.json")  # fmt: skip
    options, rest = p.parse_known_args(args)
    refuse_unknown(rest, p)
    if options.folds < 2:
        p.error(f"--folds must be at least 2, got {options.folds}")
    data = datamodule(options, rest)
    folds = data.fold_splits(options.folds)
    output = options.output or Path("splits") / f"{Path(options.dataset).stem}-{options.folds}.json"
    text = json.dumps({"folds": folds}, indent=1) + "\n"
    if output.exists() and output.read_text() != text:
        raise OutputError(
            f"{output} is there with other folds, which runs may have used. Remove it, or choose "
            "another with --output FILE (make: OUTPUT=FILE)."
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written ({error.strerror}). Choose another: --output FILE."
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
