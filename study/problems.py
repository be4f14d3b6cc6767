"""What is wrong with a study file, said so that a person can put it right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

Path = tuple[str | int, ...]

_SHOWN_CHARACTERS = 70
_NEAR = 3


class Problem(NamedTuple):
    """A rule that a value breaks; `path` leads to the value from the top of the file."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


class ProblemsError(ValueError):
    """Several problems at once, one on each line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def dotted(path: Path) -> str:
    """The path as it is written with --set."""
    return ".".join(str(part) for part in path)


def shown(value: Any) -> str:
    """A value as YAML would have it in one line, cut where it is long."""
    if value is None:
        return "nothing (null)"
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 4]} ..."


def flow(value: Any) -> str:
    """A value as a person would write it in a study file, in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(flow, value))}]"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def near(word: str, known: Iterable[str]) -> list[str]:
    """The known words that `word` may stand for, best first; dotted ones also by their last part."""
    known = sorted(key for key in set(known) if not word.startswith(f"{key}."))
    last = word.rpartition(".")[2]
    same = [key for key in known if key.rpartition(".")[2] == last and key != word]
    alike = difflib.get_close_matches(word, known, n=_NEAR, cutoff=0.85 if same or "." in word else 0.6)
    if same:
        return list(dict.fromkeys([*alike, *same]))[:_NEAR]
    ends: dict[str, list[str]] = {}
    for key in known:
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    by_end = [key for end in difflib.get_close_matches(last, ends, n=_NEAR, cutoff=0.7) for key in ends[end]]
    return list(dict.fromkeys([*alike, *by_end]))[:_NEAR]


def only_near(word: str, known: Iterable[str]) -> str:
    """`; near: a, b`, or nothing."""
    found = near(word, known)
    return f"; near: {', '.join(found)}" if found else ""


def near_text(word: str, known: Iterable[str]) -> str:
    """`; near: a, b`, or all that is known where nothing is near and the list is short."""
    known = list(known)
    return only_near(word, known) or (f"; known are {', '.join(known)}" if 0 < len(known) <= 12 else "")
