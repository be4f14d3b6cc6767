"""How each search phase of a study was asked to search, and which of its trials may be chosen by which figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.constraints import Constraint, is_feasible, read_constraints
from analysis.fidelity import full_metrics
from analysis.records import TrialRecord, final_metrics
from analysis.selection import Candidate, Goal, candidates


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

    These are trials of the present settings that keep the search's constraints. A search with finalists counts these
    alone, by their figures on the whole grid; another counts all its trials.
    """
    kept = [record for record in current(records, study) if can_be_chosen(record, study)]
    places = {phase["name"]: place for place, phase in enumerate(study.get("phases") or [])}
    names = dict.fromkeys(record.info["phase"] for record in kept if record.info["role"] == "search")
    return {
        name: candidates(kept, phase=name, metric=objective_of(study, name)[0], finalists=finalists_of(study, name))
        for name in sorted(names, key=lambda name: places.get(name, len(places)))
    }
