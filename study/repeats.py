"""A confirm phase with adaptive seeds: contenders that validation does not part get more of them, round by round.

Which seeds come next, and which contender gets them, follows from the study file and from validation rows alone; every
look is kept in `study.json`, so that a later launch goes the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.recordfile import parse_table
from analysis.repeats import Decision, Rule, decide, image_scores
from study.config_phases import ConfirmPhase
from study.ledger import Ledger, TrialSpec
from study.revisit import VALIDATION_ROWS, look_at_all, look_at_each_image
from study.search import PhaseSummary, run_list, summary_of
from study.studyrecord import record_phase
from study.studyrun import StudyRun, say


class Contender(NamedTuple):
    """A configuration under its search trial's key; `specs` has a trial for each seed that it may get."""

    name: str
    specs: Sequence[TrialSpec]


def rule_of(phase: ConfirmPhase) -> Rule:
    """When a phase looks and what each look may spend."""
    assert phase.adaptive is not None
    return Rule(len(phase.seeds), phase.adaptive.step, phase.adaptive.max_seeds, phase.adaptive.error)


def run_repeats(run: StudyRun, phase: ConfirmPhase, contenders: Sequence[Contender], metric: str) -> PhaseSummary:
    """Run every contender's first seeds, then more of those that are open, until none is or all seeds are used.

    A trial that failed is tried again once in a launch, not at every look.

    Args:
        metric: What validation judges by; one of `analysis.repeats.METRICS`.

    Raises:
        Interrupted: Someone asked to stop; the next launch goes on from there.
    """
    rule, looks = rule_of(phase), _kept(run.ledger, phase)
    planned = {contender.name: rule.first for contender in contenders}
    for look in looks:
        _add_seeds(planned, look.open, look.leader, rule, look.look)
    tried: set[str] = set()
    while True:
        specs = [spec for contender in contenders for spec in contender.specs[: planned[contender.name]]]
        specs.sort(key=lambda spec: spec.number)
        left = [spec for spec in specs if spec.key not in tried or run.ledger.status(spec.key) == "running"]
        run_list(left, phase=phase.name, ledger=run.ledger, runtime=run.runtime)
        tried |= {spec.key for spec in left}
        summary = summary_of(run.ledger, [spec.key for spec in specs])
        number = len(looks)
        if number and (not looks[-1].open or rule.planned(number) == rule.planned(number - 1)):
            return summary
        scores = _scores(run, contenders, planned, metric)
        if not any(len(scores_SI) for scores_SI in scores.values()):
            return summary  # every trial failed
        was_open = (looks[-1].leader, *looks[-1].open) if looks else tuple(scores)
        names = [name for name in scores if name in was_open]
        looks.append(decide(scores, rule, look=number, was_open=names))
        record_phase(
            run.ledger, phase, status="running", looks=[look.as_dict() for look in looks], error=rule.error
        )  # fmt: skip
        if not looks[-1].open or rule.planned(number + 1) == rule.planned(number):
            return summary
        _add_seeds(planned, looks[-1].open, looks[-1].leader, rule, number)
        say(f"{phase.name}: validation does not part {1 + len(looks[-1].open)} configurations with "
            f"{rule.planned(number)} seeds; {rule.planned(number + 1)} now")  # fmt: skip


def _add_seeds(planned: dict[str, int], still_open: Sequence[str], leader: str, rule: Rule, look: int) -> None:
    if still_open:
        planned.update(dict.fromkeys((leader, *still_open), rule.planned(look + 1)))


def _kept(ledger: Ledger, phase: ConfirmPhase) -> list[Decision]:
    """The looks of earlier launches."""
    phases = (ledger.read_json("study.json") or {}).get("phases", ())
    record = next((item for item in phases if item["name"] == phase.name), {})
    return [Decision(**{**look, "open": tuple(look["open"])}) for look in record.get("looks") or ()]


def _scores(
    run: StudyRun, contenders: Sequence[Contender], planned: Mapping[str, int], metric: str
) -> dict[str, np.ndarray]:
    """Validation scores_SI of each contender's finished trials."""
    done = {
        contender.name: [
            spec.key for spec in contender.specs[: planned[contender.name]] if run.ledger.status(spec.key) == "finished"
        ]
        for contender in contenders
    }
    keys = [key for own in done.values() for key in own]
    problems = look_at_all(
        look_at_each_image, keys, ledger=run.ledger, cache_dir=run.places.cache_dir, runtime=run.runtime
    )
    if problems:
        key, text = next(iter(problems.items()))
        raise ValueError(f"trial {key} could not be looked at again, so no further seeds can be decided on: {text}")
    return {name: image_scores([_rows(run.ledger, key) for key in own], metric) for name, own in done.items()}


def _rows(ledger: Ledger, key: str) -> pd.DataFrame:
    return parse_table(ledger.read_bytes(key, VALIDATION_ROWS) or b"", f"{VALIDATION_ROWS} of trial {key}")
