"""The best model of a finished study, chosen by validation figures alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from analysis.selection import Candidate, ranked

DEFAULT_METRIC = "acc/noise"


class Finished(NamedTuple):
    """A finished trial; `metrics` are those of its final event, of which `acc/...` are of validation images."""

    key: str
    phase: str
    number: int
    metrics: Mapping[str, float | None]


class Champion(NamedTuple):
    """The chosen trial; `reason` says in words how it was chosen."""

    key: str
    metric: str
    value: float
    reason: str


def champion_of(study: Mapping[str, Any], trials: Iterable[Finished]) -> Champion | None:
    """The trial whose network stands for a study; None until all its phases are finished, or where no trial is.

    The last confirm phase has chosen already: its first choice, with the first seed that finished. Without one it is
    the best trial of the last search, without a search the best of all trained ones. The `test/...` figures are never
    looked at.

    Args:
        study: `study.json`.
        trials: Finished trials of any phase; those that no phase counts as its own any more are passed over.
    """
    phases = [phase for phase in study.get("phases", ()) if phase.get("status") == "finished"]
    wanted = [phase["name"] for phase in study.get("config", {}).get("phases") or study.get("phases", ())]
    if not phases or {phase["name"] for phase in phases} < set(wanted):
        return None
    by_key = {trial.key: trial for trial in trials}
    own = {phase["name"]: [by_key[key] for key in phase["trials"] if key in by_key] for phase in phases}
    of_kind = {
        kind: [phase["name"] for phase in phases if phase["kind"] == kind] for kind in ("confirm", "search", "train")
    }
    metric, goal = _objective(study, of_kind["search"])
    for name in reversed(of_kind["confirm"]):
        if own[name]:
            first = min(own[name], key=lambda trial: trial.number)
            return Champion(first.key, metric, _value(first, metric), f"first choice of phase {name}")
    for name in reversed(of_kind["search"]):
        if found := _best(own[name], metric, goal):
            return Champion(*found, f"best of phase {name} by {metric}")
    found = _best([trial for name in of_kind["train"] for trial in own[name]], metric, goal)
    return Champion(*found, f"best trained by {metric}") if found else None


def _objective(study: Mapping[str, Any], searches: list[str]) -> tuple[str, Any]:
    """The first objective of the last search that is an accuracy, and its goal."""
    config = study.get("config", {})
    own = {phase["name"]: phase.get("search") for phase in config.get("phases") or ()}
    section = (own.get(searches[-1]) if searches else None) or config.get("search") or {}
    for objective in section.get("objectives") or ():
        if objective["metric"].startswith("acc/"):
            return objective["metric"], objective["goal"]
    return DEFAULT_METRIC, "maximise"


def _best(trials: list[Finished], metric: str, goal: Any) -> tuple[str, str, float] | None:
    """Key, metric and value; a study without validation noise is ordered by its clean accuracy."""
    for name in dict.fromkeys([metric, "acc/clean"]):
        order = ranked([Candidate(trial.key, _value(trial, name), trial.number) for trial in trials], goal=goal)
        if order:
            return order[0].key, name, order[0].value
    return None


def _value(trial: Finished, metric: str) -> float:
    value = trial.metrics.get(metric)
    return math.nan if value is None else float(value)
