"""The best model of a finished study, chosen by validation figures alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from analysis.choice import trials_of_choice
from analysis.fidelity import FULL_EVENT, chosen_value
from analysis.repeats import first_choice
from analysis.searches import Ended, finalists_of, pool_of, unconfirmed
from analysis.selection import Candidate, ranked

DEFAULT_METRIC = "acc/noise"


class Finished(NamedTuple):
    """A finished trial; see `metrics_of` for its `metrics`, of which `acc/...` are of validation images.

    `info` is its `trial.json`; without it a confirm phase's trials are told apart by their numbers.
    """

    key: str
    phase: str
    number: int
    metrics: Mapping[str, float | None]
    info: Mapping[str, Any] = MappingProxyType({})


class Champion(NamedTuple):
    """The chosen trial; `reason` says in words how it was chosen."""

    key: str
    metric: str
    value: float
    reason: str


def champion_of(study: Mapping[str, Any], trials: Iterable[Finished]) -> Champion | None:
    """The trial whose network stands for a study; None until all its phases are finished, or where no trial is.

    The last confirm phase has chosen already: its first choice (with adaptive seeds the one that led on validation in
    the end), with the first seed that finished; where none did, the search's trial of it, never another choice. Without
    a confirm phase it is the best trial of the last search in which any finished, the very one that the report calls
    chosen (none where none keeps the constraints); without a search the best of all trained ones. The `test/...`
    figures are never looked at.

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
    metric, goal = _accuracy(study, of_kind["search"])
    for name in reversed(of_kind["confirm"]):
        chosen = first_choice(_phase(study, name))
        origin = by_key.get(chosen or "")
        if found := _of_the_first(study, name, own[name], origin):
            first = min(found, key=lambda trial: trial.number)
            return Champion(first.key, metric, _value(first, metric), f"first choice of phase {name}")
        if origin is not None:
            reason = f"first choice of phase {name}, as the search trained it: none of its seeds finished there"
            value = _value(origin, metric, whole=bool(finalists_of(study, origin.phase)))
            return Champion(origin.key, metric, value, reason)
        if chosen is not None:
            return None
    pools = {name: pool_of(study, name, map(_ended, own[name])) for name in of_kind["search"] if own[name]}
    if (best := unconfirmed(study, pools)) is not None:
        if best.best is None:
            return None
        return Champion(best.best.key, best.metric, best.best.value, f"best of phase {best.phase} by {best.metric}")
    found = _best([trial for name in of_kind["train"] for trial in own[name]], metric, goal)
    return Champion(*found, f"best trained by {metric}") if found else None


def metrics_of(events: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Metrics of a finished trial's end; a finalist's on the whole grid beside them, as `full/acc/noise`."""
    found: dict[str, dict[str, float | None]] = {}
    for event in events:
        if event.get("event") in ("final", FULL_EVENT):
            found[event["event"]] = event.get("metrics") or {}
    return found.get("final", {}) | found.get(FULL_EVENT, {})


def _phase(study: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(item for item in study["phases"] if item["name"] == name)


def _of_the_first(
    study: Mapping[str, Any], name: str, trials: list[Finished], origin: Finished | None
) -> list[Finished]:
    """A confirm phase's trials of the configuration that it puts first, as far as its record tells them apart."""
    own = {trial.key: {"number": trial.number, **trial.info} for trial in trials}
    keys = trials_of_choice(study, _phase(study, name), own, None if origin is None else origin.info)
    return [trial for trial in trials if trial.key in keys]


def _ended(trial: Finished) -> Ended:
    return Ended(trial.key, trial.number, _known(trial))


def _accuracy(study: Mapping[str, Any], searches: list[str]) -> tuple[str, Any]:
    """By what trained networks are ranked and confirmed ones described: the last search's first accuracy, its goal."""
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
        values = [(trial, _value(trial, name)) for trial in trials]
        order = ranked([Candidate(trial.key, value, trial.number) for trial, value in values], goal=goal)
        if order:
            return order[0].key, name, order[0].value
    return None


def _value(trial: Finished, metric: str, *, whole: bool = False) -> float:
    known = _known(trial)
    return chosen_value(known, metric) if whole else known.get(metric, math.nan)


def _known(trial: Finished) -> dict[str, float]:
    return {name: float(value) for name, value in trial.metrics.items() if value is not None}
