"""YAML 1.2 as plain data with the line of every value; nothing in a file can run, expand without end or hide.

The file is read event by event, so that neither deep nesting nor aliases cost more than their limits.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from study.problems import Path, shown

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 24
MAX_VALUES = 20_000

_BOOLS = {"true": True, "false": False}
_TAG = "tag:yaml.org,2002:"


class YamlError(ValueError):
    """The text is no YAML that is read here; `line` counts from 1 (0: the whole file)."""

    def __init__(self, text: str, *, line: int = 0, path: Path = ()) -> None:
        super().__init__(text)
        self.line, self.path = line, path


@dataclass
class _Open:
    """A mapping or list whose end is not yet read; `key` waits for its value."""

    value: dict[str, Any] | list[Any]
    path: Path
    line: int
    anchor: str | None
    key: str | None = None


@dataclass
class _Reader:
    lines: dict[Path, int] = field(default_factory=dict)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    stack: list[_Open] = field(default_factory=list)
    root: Any = None
    documents: int = 0
    count: int = 0

    def read(self, event: Event) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise YamlError("must hold one document, but '---' starts another; give it its own file", line=line)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._start({} if isinstance(event, MappingStartEvent) else [], event, line)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            closed = self.stack.pop()
            if closed.anchor:
                self.anchors[closed.anchor] = (closed.value, _size(closed.value))
        elif isinstance(event, ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, AliasEvent):
            self._alias(str(event.anchor), line)

    def _here(self, line: int) -> Path:
        """The place of the value that comes next."""
        if not self.stack:
            return ()
        holder = self.stack[-1]
        if isinstance(holder.value, list):
            return (*holder.path, len(holder.value))
        if holder.key is None:
            raise YamlError("a key must be text, but a list or mapping stands there", line=line, path=holder.path)
        return (*holder.path, holder.key)

    def _add(self, value: Any, line: int, count: int = 1) -> None:
        self.count += count
        if self.count > MAX_VALUES:
            raise YamlError(f"must hold at most {MAX_VALUES} values, aliases counted as written out", line=line)
        path = self._here(line)
        self.lines.setdefault(path, line)
        if not self.stack:
            self.root = value
            return
        holder = self.stack[-1]
        if isinstance(holder.value, list):
            holder.value.append(value)
        else:
            assert holder.key is not None
            holder.value[holder.key] = value
            holder.key = None

    def _start(self, value: dict[str, Any] | list[Any], event: Any, line: int) -> None:
        path = self._here(line)
        _refuse_tag(event, line, path)
        if len(self.stack) >= MAX_DEPTH:
            raise YamlError(f"must not nest deeper than {MAX_DEPTH} levels", line=line)
        self._add(value, line)
        self.stack.append(_Open(value, path, line, event.anchor))

    def _scalar(self, event: Any, line: int) -> None:
        holder = self.stack[-1] if self.stack else None
        if holder is not None and isinstance(holder.value, dict) and holder.key is None:
            self._key(holder, event, line)
            return
        path = self._here(line)
        _refuse_tag(event, line, path)
        value = _value(event, line, path)
        if event.anchor:
            self.anchors[event.anchor] = (value, 1)
        self._add(value, line)

    def _key(self, holder: _Open, event: Any, line: int) -> None:
        key = _value(event, line, holder.path)
        if not isinstance(key, str) or not key:
            raise YamlError(f"a key must be text, but got {shown(key)}", line=line, path=holder.path)
        path = (*holder.path, key)
        if key in holder.value:
            raise YamlError(f"stands twice, first in line {self.lines[path]}; keep one of them", line=line, path=path)
        self.lines[path] = line
        holder.key = key

    def _alias(self, name: str, line: int) -> None:
        path = self._here(line)
        if name not in self.anchors:
            raise YamlError(f"*{name} must name an anchor that is complete by here (&{name})", line=line, path=path)
        value, size = self.anchors[name]
        self._add(json.loads(json.dumps(value)), line, size)  # a copy: one place may be overridden, not all


def read_yaml(text: str, *, first_line: int = 1) -> tuple[Any, dict[Path, int]]:
    """The data of a YAML text and the line of each value (of its key, in a mapping).

    Numbers and words follow YAML 1.2: `1e-3` is a number, `off` and `yes` are text.

    Args:
        first_line: Number of the text's first line.

    Raises:
        YamlError: Not YAML, a key twice, tags, numbers that are not finite, or more than the limits of this module.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"must be at most {MAX_CHARACTERS:,} characters, but has {len(text):,}; is it a study file?")
    reader = _Reader()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            reader.read(event)
    except YAMLError as error:
        raise _readable(error, text) from None
    shift = first_line - 1
    return reader.root, {path: line + shift for path, line in reader.lines.items()}


def _size(value: Any) -> int:
    """How many values stand inside, aliases counted as written out (each at most MAX_VALUES: `_add` sees to it)."""
    waiting, count = [value], 0
    while waiting and count <= MAX_VALUES:
        item = waiting.pop()
        count += 1
        if isinstance(item, (dict, list)):
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return count


def _refuse_tag(event: Any, line: int, path: Path) -> None:
    if event.tag is not None and event.tag != "!":
        name = str(event.tag).replace(_TAG, "!!")
        raise YamlError(f"tags are not read in study files, but got {name}; leave it out", line=line, path=path)


def _value(event: Any, line: int, path: Path) -> Any:
    """A scalar by YAML 1.2's rules; quoted ones and dates stay text."""
    text = event.value
    if not event.implicit[0]:
        return text
    kind = str(_RESOLVER.resolve(ScalarNode, text, (True, False))).removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return _BOOLS.get(text.lower(), text)
    if kind not in {"int", "float"}:
        return text
    try:
        number = _number(text, kind)
    except (ValueError, OverflowError):
        return text
    if not math.isfinite(number):
        raise YamlError(f"must be a finite number below 2^63, but got {text[:40]}", line=line, path=path)
    return number


def _number(text: str, kind: str) -> int | float:
    plain = text.replace("_", "").lower()
    if kind == "float":
        return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    if plain.lstrip("+-").startswith(("0x", "0o", "0b")):
        number = int(plain, 0)
    else:
        number = int(plain)
    # A whole number that no float can hold is no setting; the same bound as for 1e999.
    return number if abs(number) < 2**63 else float("inf")


def _readable(error: Any, text: str) -> YamlError:
    """The parser's error in words that need no knowledge of parsers."""
    mark, begun = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    line = mark.line + 1 if mark is not None else 0
    if isinstance(error, ReaderError):
        line = text[: error.position].count("\n") + 1
        return YamlError("must be plain text, but holds control characters", line=line)
    if "\\t" in problem or "tab" in problem.split():
        return YamlError("must be indented by spaces, but has a tab", line=line)
    if begun is not None and "',' or" in problem:
        sign = problem.split("'")[3]
        return YamlError(f"must close by '{sign}' the list or mapping that begins here", line=begun.line + 1)
    if begun is not None and "quoted scalar" in str(error.context):
        return YamlError("must close the quote that begins here", line=begun.line + 1)
    if "mapping values" in problem:
        text = "has a ':' where none may stand: quote a text that holds ': ', and indent the keys of a section alike"
        return YamlError(text, line=line)
    return YamlError(f"must be YAML, but {problem}; is a space missing after ':', or a quote not closed?", line=line)


_RESOLVER: Any = YAML(typ="safe", pure=True).resolver
