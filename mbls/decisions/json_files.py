"""JSON files of what was chosen, which state their format and version."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbls.runtime.files import replace_file

__all__ = ["VERSION", "load_json", "save_json"]

VERSION = 1


def save_json(path: Path, format_name: str, content: Mapping[str, Any]) -> None:
    """Write a file with its format and version."""
    stated = {"format": format_name, "version": VERSION, **content}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(stated, indent=1) + "\n").encode())


def load_json(path: Path, format_name: str) -> dict[str, Any]:
    """Return the content of a file of :func:`save_json`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, or of another format or version.
        KeyError: It states none.
    """
    content: dict[str, Any] = json.loads(path.read_text())
    if (content.pop("format"), content.pop("version")) != (format_name, VERSION):
        raise ValueError("it has another format or version")
    return content
