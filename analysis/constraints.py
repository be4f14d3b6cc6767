"""Constraints of a search, such as `clean_accuracy >= 0.9`: read from text, and by how much figures break them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

NAMES = {
    "clean_accuracy": "acc/clean",
    "noise_accuracy": "acc/noise",
    "worst_family_accuracy": "acc/worst_family",
    "passes": "cost/passes",
    "seconds": "cost/seconds",
    "params": "cost/params",
    "macs": "cost/macs",
    "latency_ms": "cost/latency_ms",
}
"""What a constraint may name -> the metric of a trial."""
STATIC = ("cost/params", "cost/macs")
"""Metrics that follow from a configuration alone, before anything is trained."""
_GROWING = (*STATIC, "cost/passes", "cost/seconds")
_FORM = re.compile(r"\s*([A-Za-z_/]+)\s*(<=|>=|==|=|<|>)\s*(\S+)\s*")
_MISSING = 1.0  # the excess of a figure that is not there: as far off as the bound is large


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric of a finished trial, measured on validation images.

    Attributes:
        name: As it is written.
        metric: Of the trial.
        side: `<=` or `>=`.
    """

    name: str
    metric: str
    side: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        return f"{self.name} {self.side} {self.bound:g}"

    @property
    def is_static(self) -> bool:
        """Whether it can be judged before a trial is trained."""
        return self.metric in STATIC

    @property
    def only_gets_worse(self) -> bool:
        """Whether a trial that breaks it half-way has broken it for good."""
        return self.side == "<=" and self.metric in _GROWING

    def excess(self, metrics: Mapping[str, Any]) -> float | None:
        """By which share of the bound a figure lies beyond it: 0 or less where it is kept; None without a figure."""
        value = metrics.get(self.metric)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        beyond = value - self.bound if self.side == "<=" else self.bound - value
        return beyond / (abs(self.bound) or 1.0)


def read_constraint(text: str) -> Constraint:
    """A constraint from its text.

    Raises:
        ValueError: It is not of the form, names no figure of a trial, or asks for what cannot be.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"must be of the form 'clean_accuracy >= 0.9', but got {text!r}")
    name, side, number = found.groups()
    if side not in ("<=", ">="):
        raise ValueError(f"must compare by <= or >=, but got {side} in {text!r}")
    metric = NAMES.get(name) or (name if name in NAMES.values() else None)
    if metric is None:
        known = ", ".join(f"{key} ({value})" for key, value in NAMES.items())
        raise ValueError(f"must name one of {known}, but got {name!r}")
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ValueError(f"must end in a number such as 0.9 or 25e6, but got {number!r} in {text!r}")
    if metric.startswith("acc/") and not 0 <= bound <= 1:
        raise ValueError(f"must have a share from 0 to 1 as the bound of {name}, but got {bound:g}")
    if metric.startswith("cost/") and (bound < 0 or (bound == 0 and side == "<=")):
        raise ValueError(f"must have a bound above 0 for {name}, which no trial has for nothing, but got {bound:g}")
    return Constraint(name, metric, "<=" if side == "<=" else ">=", bound)


def read_constraints(texts: Iterable[str]) -> tuple[Constraint, ...]:
    """Several of them.

    Raises:
        ValueError: One cannot be read, a figure is bounded twice from the same side, or two leave nothing between.
    """
    found: dict[tuple[str, str], Constraint] = {}
    for text in texts:
        constraint = read_constraint(text)
        other = found.get((constraint.metric, constraint.side))
        if other is not None:
            raise ValueError(f"must bound {constraint.name} once from each side, but got {other} and {constraint}")
        found[constraint.metric, constraint.side] = constraint
    for (metric, side), upper in found.items():
        lower = found.get((metric, ">=")) if side == "<=" else None
        if lower is not None and lower.bound > upper.bound:
            raise ValueError(f"must leave something between them, but got {lower} and {upper}")
    return tuple(found.values())


def excesses(constraints: Sequence[Constraint], metrics: Mapping[str, Any]) -> dict[str, float]:
    """Each constraint's text -> its excess; a figure that is missing counts as far off."""
    found = {str(constraint): constraint.excess(metrics) for constraint in constraints}
    return {text: _MISSING if value is None else value for text, value in found.items()}


def is_feasible(constraints: Sequence[Constraint], metrics: Mapping[str, Any]) -> bool:
    """Whether figures keep all constraints; without a figure a constraint is not kept."""
    return all(value <= 0 for value in excesses(constraints, metrics).values())


def total_excess(constraints: Sequence[Constraint], metrics: Mapping[str, Any]) -> float:
    """How far figures lie outside, all constraints together; 0 where all are kept."""
    return sum(max(0.0, value) for value in excesses(constraints, metrics).values())


def broken(constraints: Sequence[Constraint], metrics: Mapping[str, Any]) -> str:
    """The constraints that figures break, with the figures, in words; "" where none."""
    parts = []
    for constraint in constraints:
        beyond = constraint.excess(metrics)
        if beyond is None:
            parts.append(f"{constraint} (no figure)")
        elif beyond > 0:
            parts.append(f"{constraint} (it has {metrics[constraint.metric]:.4g})")
    return " and ".join(parts)
