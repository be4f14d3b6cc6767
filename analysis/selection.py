"""The rules of choosing: on validation figures only, the same answer every time, no trial chosen that has no figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from analysis.labels import flatten

Goal = Literal["maximise", "minimise"]


@dataclass(frozen=True)
class Candidate:
    """A finished trial as choosing sees it.

    Attributes:
        key: the trial's key.
        value: its objective, measured on validation images under validation noise.
        number: its place in the phase; the earlier trial wins a tie.
        config: its configuration, for choosing by the value of a key.
        others: further objectives, for a choice by several.
    """

    key: str
    value: float
    number: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[float, ...] = ()


def ranked(candidates: Iterable[Candidate], *, goal: Goal = "maximise") -> list[Candidate]:
    """Best first. Ties go to the lower number, then to the lower key; values that are not finite are left out."""
    sign = {"maximise": -1.0, "minimise": 1.0}.get(goal)
    if sign is None:
        raise ValueError(f"goal must be 'maximise' or 'minimise', but got {goal!r}")
    finite = [c for c in candidates if math.isfinite(c.value)]
    return sorted(finite, key=lambda c: (sign * c.value, c.number, c.key))


def top_of(candidates: Iterable[Candidate], count: int, *, goal: Goal = "maximise") -> list[Candidate]:
    """The best `count` candidates, fewer where there are fewer.

    Raises:
        ValueError: `count` is below 1, or no candidate has a finite value.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, but got {count}")
    order = ranked(candidates, goal=goal)
    if not order:
        raise ValueError("choosing needs a finished trial with a finite objective, but there is none; see the report")
    return order[:count]


def top_per(candidates: Iterable[Candidate], count: int, *, key: str, goal: Goal = "maximise") -> list[Candidate]:
    """The best `count` of each value of a dotted configuration key, best value first.

    Raises:
        ValueError: as in `top_of`, or no candidate's configuration has the key.
    """
    groups: dict[str, list[Candidate]] = {}
    known: set[str] = set()
    for candidate in ranked(candidates, goal=goal):
        flat = flatten(candidate.config)
        known |= set(flat)
        groups.setdefault(repr(flat.get(key)), []).append(candidate)
    if groups and key not in known:
        raise ValueError(f"per must be a dotted key of the configuration, but got {key!r}; there are {sorted(known)}")
    if not groups:
        return top_of([], count, goal=goal)
    return [chosen for group in groups.values() for chosen in top_of(group, count, goal=goal)]
