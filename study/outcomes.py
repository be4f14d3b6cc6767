"""How a trial ended, as Optuna is told: its state, its objectives, and by how much it breaks each constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from analysis.constraints import excesses
from study.config_search import SearchConfig
from study.ledger import Ledger, Status

State = Literal["COMPLETE", "PRUNED", "FAIL"]
_STATES: dict[Status, State] = {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}


class Outcome(NamedTuple):
    """Args:
    state: Name of Optuna's state.
    constraints: Constraint -> its excess, above 0 where it is broken.
    """

    state: State
    values: list[float] | None = None
    constraints: Mapping[str, float] = MappingProxyType({})


def outcome_of(search: SearchConfig, status: Status, metrics: Mapping[str, Any]) -> Outcome:
    """What a trial's end and its last figures are to Optuna; a finished one without its objectives failed.

    Of a pruned trial only those constraints are told that more training would not mend.
    """
    limits = search.limits
    excess = excesses(limits, metrics)
    if status == "pruned":
        lasting = [str(limit) for limit in limits if limit.is_static]
        lasting += [str(limit) for limit in limits if limit.only_gets_worse and excess[str(limit)] > 0]
        return Outcome("PRUNED", None, {text: excess[text] for text in lasting})
    if status != "finished":
        return Outcome(_STATES[status])
    values = [number(metrics.get(objective.metric)) for objective in search.objectives]
    known = [value for value in values if value is not None]
    return Outcome("COMPLETE", known, excess) if len(known) == len(values) else Outcome("FAIL")


def course(ledger: Ledger, key: str, metric: str) -> dict[int, float]:
    """A trial's figure after each epoch, from the ledger."""
    rows = {
        event["epoch"]: number(event["metrics"].get(metric))
        for event in ledger.events(key)
        if event["event"] == "epoch"
    }
    return {epoch: value for epoch, value in sorted(rows.items()) if value is not None}


def number(value: Any) -> float | None:
    """A finite number, else None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
