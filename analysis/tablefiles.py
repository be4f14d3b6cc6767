"""Tables as files: numbers as CSV and parquet, what people read as Markdown and LaTeX."""
# pandas ships no stubs:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.tables import Column, Table

ENDINGS = {"csv": "csv", "parquet": "parquet", "md": "md", "latex": "tex"}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "–": "--",
    "|": r"\textbar{}", "●": r"$\bullet$", "◐": r"$\circ$", "×": r"$\times$", "−": "$-$",
}  # fmt: skip


def table_files(table: Table, formats: Sequence[str]) -> dict[str, bytes]:
    """File name -> content, in those of the formats that are tables."""
    made = {"csv": table.csv, "parquet": table.parquet, "md": table.markdown, "latex": lambda: latex(table)}
    return {f"{table.name}.{ENDINGS[name]}": _bytes(make()) for name, make in made.items() if name in formats}


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def latex(table: Table, *, columns: Sequence[str] | None = None) -> str:
    """The columns people read, as a `tabular` with the rules of the LaTeX package booktabs, and its notes below.

    An interval stands as `61.2 [58.0, 64.1]` in the cell. The table needs `\\usepackage{booktabs}` and nothing else;
    signs that are neither Latin nor escaped here stay as they are, for LuaLaTeX or XeLaTeX with a font that has them.

    Args:
        columns: Titles of those to write, in their order; all of them if left out. The notes stay as they are.

    Raises:
        ValueError: The table has no column of such a title, or two of one title.
    """
    table = table if columns is None else replace(table, columns=_chosen(table, columns))
    frame = pd.DataFrame([_latex_row(row) for row in table.texts()],
                         columns=_latex_row([column.title for column in table.columns]))  # fmt: skip
    if frame.columns.has_duplicates:
        raise ValueError(f"columns of a table must have different titles, but {table.name} has {list(frame.columns)}")
    form = "".join("r" if column.is_number else "l" for column in table.columns)
    text = frame.style.hide(axis="index").to_latex(hrules=True, column_format=form)
    return "".join([text, *(f"% {' '.join(note.split())}\n" for note in table.notes)])


def _chosen(table: Table, titles: Sequence[str]) -> list[Column]:
    known = {column.title: column for column in table.columns}
    unknown = [title for title in titles if title not in known]
    if unknown or not titles:
        raise ValueError(f"columns must be titles of the table {table.name}, but got {unknown or 'none'}; "
                         f"there are {list(known)}")  # fmt: skip
    return [known[title] for title in titles]


def _latex_row(texts: Sequence[str]) -> list[str]:
    """A row's cells; what the rule or the line end before it would read as its argument is kept from it."""
    first, *others = (latex_text(text) for text in texts)
    return [f"{{}}{first}" if first.startswith(("[", "*")) else first, *others]


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it stands: its own signs are escaped, lines joined.

    Accents are joined with their letters, as LaTeX wants them. What no engine sets, such as control signs and marks
    that turn the direction of a text, is named by its number, as `U+202E`.
    """
    joined = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(_LATEX.get(sign, _seen(sign)) for sign in joined)


def _seen(sign: str) -> str:
    return f"U+{ord(sign):04X}" if unicodedata.category(sign).startswith("C") else sign


def rows_of(table: Table) -> list[dict[str, Any]]:
    """The frame's rows as JSON can hold them: missing and infinite values are null."""
    return json.loads(table.frame.to_json(orient="records"))
