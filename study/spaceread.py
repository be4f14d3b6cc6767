"""Reading `search.space`: each entry by itself, before the rest of the study is looked at."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from study.config import StudyConfig, TrialConfig
from study.domains import Condition, Domain, frozen, read_domain
from study.keys import places, unknown_trial_key
from study.problems import Path, Problem, shown
from study.readable import value_problems

YARDSTICK = ("data", "noise.validation", "noise.validation_severities", "noise.validation_images", "noise.test",
             "noise.test_severities", "noise.held_out", "noise.real", "noise.seed", "noise",
             "resolution.validation", "resolution.test", "resolution.test_kernel", "resolution.with_noise",
             "resolution", "task")  # fmt: skip
"""What all trials of a study are measured by, so that no search and no phase may change it."""


def read_domains(space: Mapping[str, Mapping[str, Any]]) -> tuple[list[Domain], list[Problem]]:
    """All domains that can be read, and what is wrong in each entry by itself."""
    domains: list[Domain] = []
    problems: list[Problem] = []
    for key, entry in space.items():
        refused = key_problem(key) or _inside_another(key, space)
        if refused:
            problems.append(Problem((key,), refused))
            continue
        domain, found = read_domain(key, entry, (key,))
        when, more = _conditions(entry, (key, "when")) if "when" in entry else ((), [])
        problems += [*found, *more]
        if domain is not None:
            domains.append(replace(domain, when=when))
    if not problems:
        problems = _circles(domains)
    return domains, problems


def key_problem(key: str) -> str:
    """Why a dotted key cannot be searched or set for a phase; "" where it can."""
    if key not in places():
        outside = places(StudyConfig).get(key)
        if outside:
            return f"is no setting of a trial; what can be searched or set is in {', '.join(TrialConfig.model_fields)}"
        return unknown_trial_key(key)
    if key in YARDSTICK or key.startswith(("data.", "task.")):
        return (
            "is what all trials of a study are measured by, so it must stay the same in a study; "
            "take it out, or make a study of its own for each value"
        )
    return ""


def _inside_another(key: str, space: Mapping[str, Any]) -> str:
    outer = [other for other in space if key.startswith(f"{other}.")]
    return f"stands inside of {outer[0]}, which is searched as a whole; take one of them out" if outer else ""


def _conditions(entry: Mapping[str, Any], path: Path) -> tuple[tuple[Condition, ...], list[Problem]]:
    when = entry["when"]
    if not isinstance(when, dict) or not when:
        return (), [Problem(path, f"must map a key to a value or a list of them, but got {shown(when)}")]
    conditions, problems = [], []
    for key, value in when.items():
        values = value if isinstance(value, list) else [value]
        if key not in places():
            problems.append(Problem((*path, key), unknown_trial_key(key)))
            continue
        if not values:
            problems.append(Problem((*path, key), "must be a value or a list of at least one, but got []"))
        for item in values:
            problems += value_problems(key, item, (*path, key))
        conditions.append(Condition(key, tuple(frozen(key, item) for item in values)))
    return tuple(conditions), problems


def _needs(domain: Domain, domains: Mapping[str, Domain]) -> list[str]:
    """The searched keys that a domain's conditions read: those named, or sections that hold those."""
    return [key for key in domains for item in domain.when if item.key == key or item.key.startswith(f"{key}.")]


def _circles(domains: list[Domain]) -> list[Problem]:
    try:
        in_order(domains)
    except graphlib.CycleError as error:
        circle = error.args[1]
        text = f"must not go in a circle, but {' needs '.join(reversed(circle))}; take one of these conditions out"
        return [Problem((circle[-1], "when"), text)]
    return []


def in_order(domains: list[Domain]) -> tuple[Domain, ...]:
    """What conditions read is drawn first; else as written."""
    by_key = {domain.key: domain for domain in domains}
    order = graphlib.TopologicalSorter({domain.key: _needs(domain, by_key) for domain in domains}).static_order()
    return tuple(by_key[key] for key in order)
