"""The code on pages: every block and every command in a line, in the page's order."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[3]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
SHELL = {"bash", "sh", "console"}
LANGUAGES = {*SHELL, "python", "yaml", "json", "text", "formula"}

_COMMAND = r"(murk|python|make|ray|mlflow|kubectl|docker|sbatch|export|optuna-dashboard) |[A-Z_]+="
_IN_LINES = r"(murk|make) [a-z]|([A-Z_]+=\S+ )*python -m "
_READER = MarkdownIt("commonmark").enable("table")


class Block(NamedTuple):
    """Code on a page: its line (from 1), its language and text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def is_below(self, other: "Block") -> bool:
        """Whether it stands right below a fenced one, one line between them: what that prints."""
        return self.line == other.line + other.text.count("\n") + 3


def blocks(page: str) -> Iterator[Block]:
    """Fenced blocks by their word, indented ones by what they look like."""
    for token in _READER.parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type in {"fence", "code_block"}:
            assert token.map is not None
            text = textwrap.dedent(token.content)
            language = token.info.strip() or _look(text)
            yield Block(page, token.map[0] + 1, language, text)


def commands_in_lines(page: str) -> Iterator[str]:
    """What stands in backquotes inside a sentence or table and calls `murk`, `make` or a module of Python by a word."""
    for token in _READER.parse((ROOT / page).read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and re.match(_IN_LINES, child.content):
                yield child.content


def _look(text: str) -> str:
    """What an indented block is: it has no word that says so."""
    first = text.split("\n", 1)[0]
    if re.match(_COMMAND, first):
        return "bash"
    return "yaml" if re.match(r"(- )?[\w.{-]+:( |$)|- \{", first) else "text"
