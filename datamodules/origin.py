"""Tells data of a phantom from real data, by the file that every phantom has."""

from pathlib import Path
from typing import Literal


def phantom_home(path: Path) -> Path | None:
    """Return the folder with ``phantom.json`` that ``path`` is or lies in, or None."""
    path = path.absolute()
    return next(
        (folder for folder in (path, *path.parents) if (folder / "phantom.json").is_file()), None
    )


def origin_of(path: Path) -> Literal["real", "phantom"]:
    """Return ``"phantom"`` if ``path`` is in a phantom's folder, else ``"real"``."""
    return "real" if phantom_home(path) is None else "phantom"
