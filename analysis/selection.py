"""The rules of choosing: on validation figures only, the same answer every time, no trial chosen that has no figure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from analysis.fidelity import full_metrics
from analysis.labels import flatten
from analysis.records import TrialRecord, final_metrics

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


def best(candidates: Iterable[Candidate], *, goal: Goal = "maximise") -> Candidate:
    """The best candidate.

    Raises:
        ValueError: no candidate has a finite value.
    """
    return top_of(candidates, 1, goal=goal)[0]


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


def candidates(
    records: Sequence[TrialRecord],
    *,
    phase: str | None = None,
    metric: str = "acc/noise",
    finalists: Collection[str] = (),
) -> list[Candidate]:
    """The finished search trials (of one phase) with the final value of a metric; NaN where it was not reported.

    Search trials alone: what confirming and single trials report in the end is measured on the test split.

    Args:
        finalists: Where there are some, they alone are candidates, by their figures on the whole validation grid.
    """
    found = []
    for record in records:
        mine = phase is None or record.info["phase"] == phase
        mine = mine and (not finalists or record.key in finalists)
        if mine and record.info["role"] == "search" and record.status == "finished":
            figures = final_metrics(record.events)
            if finalists and metric.startswith("acc/"):
                figures = full_metrics(record.events)
            value = figures.get(metric, float("nan"))
            number = int(record.info.get("number", 0))
            found.append(Candidate(record.key, value, number, record.info["config"]))
    return found
