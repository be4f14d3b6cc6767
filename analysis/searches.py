"""How each search phase of a study was asked to search, and which of its trials may be chosen by which figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from analysis.constraints import Constraint, is_feasible, read_constraints
from analysis.fidelity import FULL_PREFIX, chosen_value, full_metrics, judged
from analysis.pareto import front_of
from analysis.records import TrialRecord, final_metrics
from analysis.selection import Candidate, Goal, ranked


class Ended(NamedTuple):
    """A finished trial of a search; `metrics` has a finalist's on the whole grid too, as `full/acc/noise`."""

    key: str
    number: int
    metrics: Mapping[str, float]
    config: Mapping[str, Any] = {}


class Unconfirmed(NamedTuple):
    """What a search chose by itself; `best` is None where no trial of it may be chosen."""

    phase: str
    metric: str
    best: Candidate | None


def search_of(study: Mapping[str, Any], phase: str) -> Mapping[str, Any]:
    """The `search` section that holds for a phase, by the study's record."""
    config = study.get("config") or {}
    own = {item.get("name"): item.get("search") for item in config.get("phases") or []}
    return own.get(phase) or config.get("search") or {}


def objectives_of(study: Mapping[str, Any], phase: str) -> dict[str, Goal]:
    """Metric -> goal, in the order of the study file."""
    found = search_of(study, phase).get("objectives") or [{}]
    return {item.get("metric", "acc/noise"): item.get("goal", "maximise") for item in found}


def objective_of(study: Mapping[str, Any], phase: str) -> tuple[str, Goal]:
    """Metric and goal of a phase's first objective, by which its trials are ranked."""
    return next(iter(objectives_of(study, phase).items()))


def limits_of(study: Mapping[str, Any], phase: str) -> tuple[Constraint, ...]:
    """The constraints of a search phase."""
    return read_constraints(search_of(study, phase).get("constraints") or ())


def can_be_chosen(record: TrialRecord, study: Mapping[str, Any]) -> bool:
    """Whether a search's trial finished and keeps its constraints; a trial of another phase was never asked to."""
    if record.info["role"] != "search":
        return True
    return record.status == "finished" and is_feasible(limits_of(study, record.info["phase"]), figures_of(record))


def figures_of(record: TrialRecord) -> dict[str, float]:
    """A trial's figures, of a finalist those on the whole validation grid in place of the small one's."""
    return final_metrics(record.events) | full_metrics(record.events)


def finalists_of(study: Mapping[str, Any], phase: str) -> tuple[str, ...]:
    """Keys of the trials that a search measured on the whole validation grid; none where it had no small one."""
    found = next((item for item in study.get("phases") or [] if item["name"] == phase), {})
    return tuple(found.get("finalists") or ())


def current(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> list[TrialRecord]:
    """Trials the study counts as its own now; earlier ones of a changed study (`--again`) stay in the trial list.

    A phase names its trials when it ends. Until then its own are those that are not of earlier settings: an earlier
    trial that the phase takes over counts again once it is named.
    """
    named = {key for phase in study.get("phases") or [] for key in phase.get("trials") or []}
    listed = {phase["name"] for phase in study.get("phases") or [] if phase.get("trials")}
    earlier = _read_earlier(study)
    return [
        record for record in records
        if record.key in named
        or not (record.info["phase"] in listed or record.key in earlier or _is_older(record, study))
    ]  # fmt: skip


def _read_earlier(study: Mapping[str, Any]) -> set[str]:
    """Keys of the trials that read the test split before `--again` began the present generation of settings."""
    now = study.get("generation", 0)
    reads = study.get("test_reads") or []
    return {key for read in reads if read.get("generation", 0) < now for key in read.get("trials") or []}


def _is_older(record: TrialRecord, study: Mapping[str, Any]) -> bool:
    """Whether a trial is there from before the present generation of settings; times are UTC in one form."""
    created, begun = record.info.get("created"), study.get("created")
    return bool(study.get("generation", 0) and created and begun and created < begun)


def searched(records: Sequence[TrialRecord], study: Mapping[str, Any]) -> dict[str, list[Candidate]]:
    """Phase -> what may be chosen of each search, by its own first objective, phases in the study's order.

    These are finished trials of the present settings. A search none of whose trials may be chosen is there without any.
    """
    places = {phase["name"]: place for place, phase in enumerate(study.get("phases") or [])}
    ended: dict[str, list[Ended]] = {}
    for record in current(records, study):
        if record.info["role"] == "search" and record.status == "finished":
            ended.setdefault(record.info["phase"], []).append(_ended(record))
    names = sorted(ended, key=lambda name: places.get(name, len(places)))
    return {name: pool_of(study, name, ended[name]) for name in names}


def pool_of(study: Mapping[str, Any], phase: str, ended: Iterable[Ended]) -> list[Candidate]:
    """Those of a search's finished trials that may be chosen, with its objectives; NaN where one was not measured.

    They keep its constraints. A search with finalists counts these alone, by their figures on the whole grid.
    """
    metric, *others = objectives_of(study, phase)
    limits, finalists = limits_of(study, phase), finalists_of(study, phase)

    def figure(trial: Ended, name: str) -> float:
        return chosen_value(trial.metrics, name) if finalists else trial.metrics.get(name, math.nan)

    return [
        Candidate(
            trial.key, figure(trial, metric), trial.number, trial.config, tuple(figure(trial, name) for name in others)
        )
        for trial in ended
        if (not finalists or trial.key in finalists) and is_feasible(limits, judged(trial.metrics))
    ]  # fmt: skip


def unconfirmed(study: Mapping[str, Any], pools: Mapping[str, Sequence[Candidate]]) -> Unconfirmed | None:
    """What a study chose that confirmed nothing: the best of the last search in which a trial finished, no other's.

    It is the trial that a confirm phase would put first: of several objectives the best on the Pareto front by the
    first one.

    Args:
        pools: Of each search in which a trial finished, in the study's order; see `pool_of`.

    Returns:
        None where no search has a finished trial.
    """
    if not pools:
        return None
    phase = list(pools)[-1]
    goals = objectives_of(study, phase)
    metric, goal = objective_of(study, phase)
    whole = [trial for trial in pools[phase] if all(map(math.isfinite, trial.others))]
    order = ranked(whole, goal=goal)
    # No trial that is worse in the first objective dominates the best ones there.
    level = [trial for trial in order if trial.value == order[0].value]
    return Unconfirmed(phase, metric, next(iter(front_of(level, list(goals.values()))), None))


def _ended(record: TrialRecord) -> Ended:
    whole = {f"{FULL_PREFIX}{name}": value for name, value in full_metrics(record.events).items()}
    return Ended(record.key, int(record.info.get("number", 0)), final_metrics(record.events) | whole,
                 record.info["config"])  # fmt: skip
