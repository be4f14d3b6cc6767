"""The ledger's files read with care: what a crash, a disk or a person changed is named, never trusted."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

MAX_DEPTH = 32
"""Levels of a record; Murk's own have nine."""

_Kinds = tuple[type, ...]
_TEXT, _DICT, _LIST, _WHOLE, _NONE = (str,), (dict,), (list,), (int,), type(None)
_STUDY: dict[str, _Kinds] = {
    "study": _TEXT, "config": _DICT, "fingerprint": _TEXT, "data": (dict, _NONE), "real": (dict, _NONE), "pairs": _TEXT,
    "skipped": (list, _NONE), "baseline": (dict, _NONE), "groups": (dict, _NONE), "versions": (dict, _NONE),
    "phases": (list, _NONE), "created": _TEXT, "tracking_uri": (str, _NONE), "test_reads": (list, _NONE),
    "generation": _WHOLE, "restated": (bool,), "teachers": _DICT, "study_id": _TEXT,
}  # fmt: skip
_PHASE: dict[str, _Kinds] = {"name": _TEXT, "kind": _TEXT, "status": _TEXT, "trials": _LIST, "selected": _LIST}
_READ: dict[str, _Kinds] = {"phase": _TEXT, "trials": _LIST, "generation": _WHOLE, "again": (bool,), "time": _TEXT}
_TRIAL: dict[str, _Kinds] = {
    "key": _TEXT, "study": _TEXT, "phase": _TEXT, "role": _TEXT, "number": _WHOLE, "seed": (int, _NONE),
    "config": _DICT, "fingerprint": _TEXT, "params": _DICT, "real": _DICT, "teacher": _DICT, "pairs": _TEXT,
    "created": _TEXT,
}  # fmt: skip
_EVENT: dict[str, _Kinds] = {
    "event": _TEXT, "time": (int, float), "epoch": (int, float, _NONE), "step": (int, float, _NONE),
    "error": (str, _NONE), "traceback": (str, _NONE), "metrics": (dict, _NONE), "versions": (dict, _NONE),
}  # fmt: skip
_CONFIG: dict[str, _Kinds] = {
    "data": _DICT, "model": _DICT, "method": _DICT, "noise": _DICT, "resolution": _DICT, "optim": _DICT, "train": _DICT,
    "task": _DICT, "search": _DICT, "resources": _DICT, "tracking": _DICT, "report": _DICT, "phases": _LIST,
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class RecordError(ValueError):
    """A file of the ledger cannot be read as one."""


def parse_record(content: bytes, place: str) -> dict[str, Any]:
    """Any JSON file of the ledger.

    Args:
        place: Where it lies, for the message.

    Raises:
        RecordError: It is no JSON object.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error).split(":")[0]
        raise _damaged(place, f"it is no JSON ({reason})") from None
    if not isinstance(found, dict):
        raise _damaged(place, "it holds no JSON object")
    if not _is_shallow(found):
        raise _damaged(place, f"it nests deeper than {MAX_DEPTH} levels")
    return found


def parse_study(content: bytes, place: str) -> dict[str, Any]:
    """A `study.json`; entries that are not known are passed on.

    Raises:
        RecordError: It is no JSON object, or an entry is of another type than Murk writes.
    """
    found = parse_record(content, place)
    problem = _misfit(found, _STUDY) or _misfit(found.get("config") or {}, _CONFIG, "config.")
    for name, kinds in (("phases", _PHASE), ("test_reads", _READ)):
        for index, item in enumerate(found.get(name) or () if not problem else ()):
            problem = problem or _misfit(item, kinds, f"{name}.{index}.", required=next(iter(kinds)))
    problem = problem or _no_texts(found)
    if problem:
        raise _damaged(place, problem)
    return found


def parse_trial(content: bytes, place: str) -> dict[str, Any]:
    """A `trial.json`.

    Raises:
        RecordError: It is no JSON object, lacks what every trial has, or an entry is of another type than Murk writes.
    """
    found = parse_record(content, place)
    lacking = [name for name in ("key", "study", "phase", "config") if name not in found]
    problem = f"it has no {lacking[0]!r}" if lacking else _misfit(found, _TRIAL)
    problem = problem or _misfit(found["config"], _CONFIG, "config.")
    for name in ("key", "phase", "study") if not problem else ():
        if not _NAME.fullmatch(found[name]):  # they become names of files
            problem = f"{name} must be a name, but is {found[name][:60]!r}"
    if problem:
        raise _damaged(place, problem)
    return found


def parse_table(content: bytes, what: str, *, columns: Collection[str] = (), alone: bool = False) -> pd.DataFrame:
    """A parquet file of the ledger.

    Args:
        columns: What it must have.
        alone: Whether these columns are all that is read.

    Raises:
        RecordError: It cannot be read, or lacks one of the columns.
    """
    try:
        table = pd.read_parquet(io.BytesIO(content), columns=list(columns) if alone else None)
        if lacking := [name for name in columns if name not in table]:
            raise KeyError(f"it has no column {lacking[0]}")
        return table
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise RecordError(f"a table of the ledger must be as Murk wrote it, but {what} cannot be read ({reason}); "
                          "restore it from a copy")  from error  # fmt: skip


def parse_event(line: bytes) -> dict[str, Any] | None:
    """One line of `events.jsonl`; None where it was torn by a crash, or is no event at all."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or "event" not in event or _misfit(event, _EVENT) or not _is_shallow(event):
        return None
    times = [event[name] for name in ("time", "epoch", "step") if event.get(name) is not None]
    if not all(_is_number(value) for value in times):
        return None
    metrics = (event.get("metrics") or {}).values()
    return event if all(value is None or _is_number(value, finite=False) for value in metrics) else None


def _is_number(value: Any, *, finite: bool = True) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 2**63 if finite or isinstance(value, int) else True


def _misfit(found: Any, kinds: Mapping[str, _Kinds], prefix: str = "", *, required: str | None = None) -> str:
    """Which entry is of another type than it should be; "" where all fit."""
    if not isinstance(found, dict):
        return f"{prefix.rstrip('.')} holds no mapping"
    if required is not None and required not in found:
        return f"{prefix.rstrip('.')} has no {required!r}"
    for name, allowed in kinds.items():
        value = found.get(name)
        wrong = name in found and (not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed))
        if wrong or (isinstance(value, int) and abs(value) >= 2**63):
            words = " or ".join("nothing" if kind is _NONE else kind.__name__ for kind in allowed)
            return f"{prefix}{name} must be {words}, but is {json.dumps(value)[:60]}"
    return ""


def _no_texts(found: Mapping[str, Any]) -> str:
    """Which list of names holds something else."""
    phases: list[dict[str, Any]] = found.get("phases") or []
    for index, phase in enumerate(phases):
        for name in ("trials", "selected", "finalists"):
            keys: list[Any] = phase.get(name) or []
            if not all(isinstance(key, str) and _NAME.fullmatch(key) for key in keys):
                return f"phases.{index}.{name} must hold keys of trials"
    for name in ("groups", "versions"):
        texts: dict[str, Any] = found.get(name) or {}
        if not all(isinstance(value, (str, _NONE)) for value in texts.values()):
            return f"{name} must map names to texts"
    skipped: list[Any] = found.get("skipped") or []
    if not all(isinstance(item, list) and len(item) == 2 for item in skipped):
        return "skipped must hold pairs of a place and a reason"
    if not all(isinstance(item, dict) for item in (found.get("real") or {}).values()):
        return "real must map names to mappings"
    return ""


def _is_shallow(tree: Any) -> bool:
    waiting = [(tree, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, (dict, list)):
            if depth >= MAX_DEPTH:
                return False
            waiting.extend((inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item))
    return True


def _damaged(place: str, problem: str) -> RecordError:
    return RecordError(f"a record must be as Murk wrote it, but {place} is not: {problem}; restore it from a copy "
                       "(MLflow keeps one of each finished trial), or take it out of the study's folder")  # fmt: skip
