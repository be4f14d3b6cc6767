"""The finalists of a search that was scored by a small grid: which trials they are, and their whole-grid figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.constraints import is_feasible
from analysis.fidelity import agreement_of
from analysis.labels import flatten
from analysis.pareto import front_of
from analysis.selection import Candidate, Goal, ranked, top_per
from study.config import StudyConfig
from study.config_phases import ConfirmPhase, SearchPhase
from study.config_search import SearchConfig
from study.ledger import Ledger
from study.revisit import look_at_all, look_at_whole_grid
from study.studyrun import StudyRun, say


def measure_finalists(run: StudyRun, phase: SearchPhase, search: SearchConfig, done: Sequence[str]) -> list[str]:
    """Measure the best of a search's finished trials on the whole validation grid; those measured are left alone.

    Returns:
        Their keys, best by the small grid first; none of a search without `fidelity`, or in which nothing finished.

    Raises:
        ValueError: No finalist could be measured.
    """
    if search.fidelity is None or not done:
        return []
    chosen = choose_finalists(run.ledger, run.config, phase, search, done)
    if not chosen:
        return []
    say(f"{phase.name}: {len(chosen)} finalists on the whole validation grid")
    problems = look_at_all(
        look_at_whole_grid, chosen, ledger=run.ledger, cache_dir=run.places.cache_dir, runtime=run.runtime
    )
    for key, text in problems.items():
        say(f"{phase.name}: finalist {key} could not be measured: {text}")
    if len(problems) == len(chosen):
        raise ValueError(f"phase {phase.name!r}: no finalist could be measured; the first: {problems[chosen[0]]}")
    return chosen


def choose_finalists(
    ledger: Ledger, config: StudyConfig, phase: SearchPhase, search: SearchConfig, done: Sequence[str]
) -> list[str]:
    """The best by the first objective on the small grid; where a later phase chooses per value, of each value.

    Of several objectives the Pareto front comes first, as a confirm phase chooses there; others only fill up.
    Trials that break a constraint by the small grid are left out, unless all do.
    """
    objective, count = search.objectives[0], search.fidelity.finalists if search.fidelity else 0
    kept = [key for key in done if is_feasible(search.limits, ledger.metrics(key))]
    records = {key: ledger.trial(key) for key in kept or done}
    candidates = [_candidate(search, key, record, ledger.metrics(key)) for key, record in records.items()]
    if not any(math.isfinite(candidate.value) for candidate in candidates):
        return []
    later = [item for item in config.phases if isinstance(item, ConfirmPhase) and item.of == phase.name]
    goals: list[Goal] = [item.goal for item in search.objectives]
    chosen = _front_first(candidates, goals)[:count]
    for key in dict.fromkeys(item.per for item in later if item.per):
        groups: dict[str, list[Candidate]] = {}
        for candidate in top_per(candidates, len(candidates), key=key, goal=objective.goal):
            groups.setdefault(repr(flatten(candidate.config).get(key)), []).append(candidate)
        chosen += [candidate for group in groups.values() for candidate in _front_first(group, goals)[:count]]
    return list(dict.fromkeys(candidate.key for candidate in chosen))


def _candidate(
    search: SearchConfig, key: str, record: Mapping[str, Any], metrics: Mapping[str, float]
) -> Candidate:  # fmt: skip
    value, *others = (metrics.get(item.metric, math.nan) for item in search.objectives)
    return Candidate(key, value, record["number"], record["config"], tuple(others))


def _front_first(candidates: Sequence[Candidate], goals: Sequence[Goal]) -> list[Candidate]:
    """The best first by the first objective; where there are several, those of the front before all others."""
    front = {candidate.key for candidate in front_of(candidates, goals)} if len(goals) > 1 else set()
    return sorted(ranked(candidates, goal=goals[0]), key=lambda candidate: candidate.key not in front)


def agreement_line(ledger: Ledger, phase: SearchPhase, search: SearchConfig) -> str:
    """How the small grid ranked the finalists, for the closing lines; empty where there were none."""
    record = {item["name"]: item for item in (ledger.read_json("study.json") or {}).get("phases", ())}
    finalists = record.get(phase.name, {}).get("finalists") or []
    if not finalists:
        return ""
    metric = search.objectives[0].metric
    found = agreement_of({key: ledger.events(key) for key in finalists}, finalists, metric)
    return f"small grid against the whole one, finalists of {phase.name} by {metric}: {found}\n"
