"""The finalists of a search that was scored by a small grid: which trials they are, and their whole-grid figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.constraints import is_feasible
from analysis.fidelity import agreement_of
from analysis.selection import Candidate, top_of, top_per
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

    Trials that break a constraint by the small grid are left out, unless all do.
    """
    objective, count = search.objectives[0], search.fidelity.finalists if search.fidelity else 0
    kept = [key for key in done if is_feasible(search.limits, ledger.metrics(key))]
    records = {key: ledger.trial(key) for key in kept or done}
    candidates = [
        Candidate(key, ledger.metrics(key).get(objective.metric, math.nan), record["number"], record["config"])
        for key, record in records.items()
    ]
    if not any(math.isfinite(candidate.value) for candidate in candidates):
        return []
    later = [item for item in config.phases if isinstance(item, ConfirmPhase) and item.of == phase.name]
    chosen = top_of(candidates, count, goal=objective.goal)
    for key in dict.fromkeys(item.per for item in later if item.per):
        chosen += top_per(candidates, count, key=key, goal=objective.goal)
    return list(dict.fromkeys(candidate.key for candidate in chosen))


def agreement_line(ledger: Ledger, phase: SearchPhase, search: SearchConfig) -> str:
    """How the small grid ranked the finalists, for the closing lines; empty where there were none."""
    record = {item["name"]: item for item in (ledger.read_json("study.json") or {}).get("phases", ())}
    finalists = record.get(phase.name, {}).get("finalists") or []
    if not finalists:
        return ""
    metric = search.objectives[0].metric
    found = agreement_of({key: ledger.events(key) for key in finalists}, finalists, metric)
    return f"small grid against the whole one, finalists of {phase.name} by {metric}: {found}\n"
