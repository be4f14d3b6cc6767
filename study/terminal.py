"""Colour for a person at a terminal; plain text for a pipe, a file, and whoever sets NO_COLOR."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TextIO

_BOLD, _GREEN, _RED, _QUIET, _END = "\x1b[1m", "\x1b[1;32m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m"
_VERDICTS = ((re.compile(r": better\b.*$"), _GREEN), (re.compile(r": keeps it\b.*$"), _GREEN),
             (re.compile(r": worse\b.*$"), _RED), (re.compile(r": not distinguishable\b.*$"), _QUIET),
             (re.compile(r"^no difference is stated: .*$"), _RED))  # fmt: skip


def wants_colour(stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a stream shows colours: a terminal that is not dumb, and NO_COLOR is unset or empty (no-color.org)."""
    found = os.environ if environment is None else environment
    return (stream or sys.stdout).isatty() and not found.get("NO_COLOR") and found.get("TERM") != "dumb"


def painted(text: str) -> str:
    """A report's summary with its first line bold and its verdicts coloured.

    The words stay as they are: a colour says nothing that they do not. Clean the text before, not after.
    """
    first, *others = text.split("\n")
    return "\n".join([f"{_BOLD}{first}{_END}", *map(_line, others)])


def _line(line: str) -> str:
    for verdict, colour in _VERDICTS:
        if (match := verdict.search(line)) is not None:
            start = match.start() + (2 if match.group().startswith(": ") else 0)
            return f"{line[:start]}{colour}{line[start:]}{_END}"
    return line
