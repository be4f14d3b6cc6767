"""A search that starts warm: trials of earlier studies that its sampler is told of, taken over once and kept.

What is taken is written to `study.json` at the first launch and read from there ever after, so that another study that
goes on or goes away changes nothing here. Trials must be measured alike; all else may differ, and is said.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from analysis.labels import flatten
from study.config import NUMERICS, StudyConfig, TrialConfig
from study.config_phases import SearchPhase
from study.grids import part_of
from study.ledger import Ledger
from study.origins import Origin, origin_of
from study.outcomes import course
from study.override import apply
from study.places import redact
from study.problems import Problem, ProblemsError
from study.searcher import drawn_again
from study.space import Space, parse
from study.studyrun import say
from study.trialsource import PastTrial

_MEASURED = ("noise.validation", "noise.seed", "noise.scale", "resolution.validation", "resolution.with_noise",
             "resolution.kernel", "resolution.view", "task")  # fmt: skip
"""What decides how a figure is measured: keys that begin so must be equal (`noise.validation_images` among them)."""
_ASIDE = ("data.path", "train.seed", "noise.test", "noise.held_out", "noise.real", "resolution.test", "task.pairs",
          "task.images", "train.adapt_bn", "noise.similarity")  # fmt: skip
"""What no search trial's figures depend on, or only by chance."""
_SHOWN = 4


def taken_trials(ledger: Ledger, phase: SearchPhase) -> list[PastTrial]:
    """The trials that a phase took over when the study began."""
    kept = ((ledger.read_json("study.json") or {}).get("warm") or {}).get(phase.name, {})
    return [
        PastTrial(**{**item, "course": {int(epoch): value for epoch, value in item["course"].items()}})
        for item in kept.get("taken", ())
    ]


def take_trials(ledger: Ledger, phase: SearchPhase, config: StudyConfig, *, storage: str) -> None:
    """Take over the trials of a phase's earlier studies into `study.json`, unless that was done; says what was left.

    Args:
        config: The study as it stands in this phase.
        storage: Where studies lie, for `STUDY`.

    Raises:
        ValueError: An earlier study is not there, or is of other images.
    """
    references = config.search.warm_start
    record = ledger.read_json("study.json") or {}
    if not references or phase.name in (record.get("warm") or {}):
        return
    space, taken, skipped, differs = parse(config.search.space, config), [], Counter(), set()
    for place, reference in enumerate(references):
        try:
            origin = origin_of(reference, storage)
            earlier = origin.record()
            if earlier["fingerprint"] != record["fingerprint"]:
                raise ValueError(
                    f"must be of the same images, but those of {redact(reference)} have another fingerprint "
                    f"({earlier['fingerprint'][:12]}, here {record['fingerprint'][:12]}), so its figures tell of "
                    "others; take it out"
                )
        except ValueError as error:
            raise ProblemsError([Problem(("search", "warm_start", place), str(error))]) from error
        for key, trial in _trials(origin, earlier):
            found = _fitting(origin.ledger, key, trial, config, space)
            if isinstance(found, str):
                skipped[found] += 1
                continue
            taken.append(found)
            differs |= _differing(trial, apply(config.trial(), found.params))
    kept = {"taken": [item._asdict() for item in taken], "skipped": dict(skipped), "differs": sorted(differs)}
    ledger.write_json("study.json", {**record, "warm": {**(record.get("warm") or {}), phase.name: kept}})
    say(warm_text(phase.name, kept))


def warm_text(phase: str, kept: Mapping[str, Any]) -> str:
    """What a phase took over, in words."""
    lines = [
        f"{phase}: the sampler is told of {len(kept['taken'])} trials of earlier studies, which count as none here"
    ]
    lines += [f"  {count} left out: {reason}" for reason, count in sorted(kept["skipped"].items())]
    if kept["differs"]:
        more = f" and {len(kept['differs']) - _SHOWN} more" if len(kept["differs"]) > _SHOWN else ""
        lines.append(f"  warning: they were trained with other settings than here: "
                     f"{', '.join(kept['differs'][:_SHOWN])}{more}")  # fmt: skip
    return "\n".join(lines)


def _trials(origin: Origin, record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The trials that the earlier study's searches count as their own, or has so far."""
    for phase in record["phases"]:
        if phase["kind"] == "search" and origin.phase in (None, phase["name"]):
            for key in phase["trials"] or origin.ledger.keys(phase["name"]):
                yield key, origin.ledger.trial(key)


def _fitting(ledger: Ledger, key: str, trial: Mapping[str, Any], config: StudyConfig, space: Space) -> PastTrial | str:
    """The trial as the sampler is told of it, or why it is not."""
    params, status, search = trial["params"], ledger.status(key), config.search
    if status not in ("finished", "pruned"):
        return f"{'failed' if status == 'failed' else 'without an end'}"
    if trial.get("numerics", NUMERICS) != NUMERICS:
        return "of a version of Murk with other numbers"
    strange = sorted(set(params) - {domain.key for domain in space.domains})
    if strange:
        return f"search.space has no {', '.join(strange)}"
    if drawn_again(space, params) is None:
        return "a value lies outside search.space, or a key of it is missing"
    try:
        here, there = apply(config.trial(), params), TrialConfig.model_validate(trial["config"])
    except (ValueError, ValidationError):
        return "the settings do not go together here"
    if _measure(here) != _measure(there) or (trial.get("fidelity") or {}) != part_of(search.fidelity, here):
        return "measured by other validation noise, images or grid"
    metrics = {name: value for name, value in ledger.metrics(key).items() if value is not None}
    missing = [item.metric for item in search.objectives if item.metric not in metrics]
    if missing:
        return f"has no {', '.join(missing)}"
    objective = search.objectives[0].metric
    return PastTrial(f"{ledger.study}/{key}", dict(params), status, metrics, course(ledger, key, objective))


def _measure(config: TrialConfig) -> dict[str, Any]:
    flat = flatten(config.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if key.startswith(_MEASURED) and not key.startswith(_ASIDE)}


def _differing(trial: Mapping[str, Any], here: TrialConfig) -> set[str]:
    """Dotted keys of settings that differ beside those that were drawn."""
    one = flatten(TrialConfig.model_validate(trial["config"]).model_dump(mode="json"))
    other = flatten(json.loads(here.model_dump_json()))
    differ = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    return {key for key in differ if not key.startswith(_ASIDE)}
