"""How each search phase of a study was asked to search: its objectives and constraints, and which trials keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.constraints import Constraint, is_feasible, read_constraints
from analysis.fidelity import full_metrics
from analysis.records import TrialRecord, final_metrics
from analysis.selection import Goal


def search_of(study: Mapping[str, Any], phase: str) -> Mapping[str, Any]:
    """The `search` section that holds for a phase, by the study's record."""
    config = study.get("config") or {}
    own = {item.get("name"): item.get("search") for item in config.get("phases") or []}
    return own.get(phase) or config.get("search") or {}


def objectives_of(study: Mapping[str, Any], phase: str) -> dict[str, Goal]:
    """Metric -> goal, in the order of the study file."""
    found = search_of(study, phase).get("objectives") or [{}]
    return {item.get("metric", "acc/noise"): item.get("goal", "maximise") for item in found}


def limits_of(study: Mapping[str, Any], phase: str) -> tuple[Constraint, ...]:
    """The constraints of a search phase."""
    return read_constraints(search_of(study, phase).get("constraints") or ())


def can_be_chosen(record: TrialRecord, study: Mapping[str, Any]) -> bool:
    """Whether a search's trial finished and keeps its constraints; a trial of another phase was never asked to."""
    if record.info["role"] != "search":
        return True
    limits = limits_of(study, record.info["phase"])
    return record.status == "finished" and is_feasible(
        limits, final_metrics(record.events) | full_metrics(record.events)
    )
