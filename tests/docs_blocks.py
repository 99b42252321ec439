"""The code blocks of README.md and docs/*.md, with the comments before them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: The file.
        line: Where it starts.
        language: After the backticks.
        code: What is between them.
        needs: What it needs that is not there, from ``<!-- needs: ... -->``; None if nothing.
    """

    page: Path
    line: int
    language: str
    code: str
    needs: str | None

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"

    def commands(self) -> list[str]:
        """The commands of a shell block, continued lines joined, comments left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        commands = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines]
        return [command for command in commands if command]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(
            page,
            text.count("\n", 0, match.start("code")),
            match["language"],
            match["code"],
            match["needs"],
        )
        for match in BLOCK.finditer(text)
    ]
