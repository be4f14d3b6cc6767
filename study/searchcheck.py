"""What a search's small grid, its earlier studies and a confirm phase's further seeds demand of the rest of a study."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.repeats import METRICS
from study.algorithms import WARM_ALGORITHMS
from study.config import StudyConfig
from study.config_noise import MAX_SEARCH_CORRUPTIONS, MAX_SEARCH_IMAGES, MAX_SEARCH_SEVERITIES
from study.config_phases import ConfirmPhase, Phase, SearchPhase
from study.grids import part_of
from study.places import redact
from study.problems import Path, Problem, near_text


def search_problems(study: StudyConfig, phase: Phase, config: StudyConfig, path: Path) -> Iterator[Problem]:
    """Of one phase.

    Args:
        config: The study as it stands in this phase.
        path: Of the phase.
    """
    if isinstance(phase, SearchPhase):
        where: Path = (*path, "search") if phase.search is not None else ("search",)
        yield from _fidelity(study, phase, config, where)
        yield from _places(config, where)
    if isinstance(phase, ConfirmPhase) and phase.adaptive is not None:
        yield from _adaptive(study, phase, (*path, "adaptive"))


def _fidelity(study: StudyConfig, phase: SearchPhase, config: StudyConfig, where: Path) -> Iterator[Problem]:
    """A small grid is a part of the whole one that leaves noise to choose by, and it has finalists enough."""
    noise, fidelity = config.noise, config.search.fidelity
    if fidelity is None:
        return
    here = (*where, "fidelity")
    if isinstance(fidelity.corruptions, tuple):
        for name in fidelity.corruptions:
            if name not in noise.validation:
                known = near_text(name, noise.validation) or f"; there are {', '.join(noise.validation) or 'none'}"
                text = f'must be part of noise.validation, so that finalists are ranked alike, but got "{name}"{known}'
                yield Problem((*here, "corruptions"), text)
    elif isinstance(fidelity.corruptions, int) and fidelity.corruptions > len(noise.validation):
        text = f"must be at most the {len(noise.validation)} of noise.validation, but got {fidelity.corruptions}"
        yield Problem((*here, "corruptions"), text)
    for level in fidelity.severities or ():
        if level not in noise.validation_severities:
            known_levels = list(noise.validation_severities)
            text = f"must be part of noise.validation_severities, which are {known_levels}, but got {level}"
            yield Problem((*here, "severities"), text)
    if not part_of(fidelity, config):
        text = (
            "has no effect, as it is the whole validation grid; name fewer images, corruptions or severities than "
            f"noise.validation_images ({noise.validation_images}), validation and validation_severities, or leave it "
            "out"
        )
        yield Problem(here, text)
    if fidelity.corruptions == () or fidelity.severities == ():
        yield Problem(here, "must keep noise to choose by, but names none; leave corruptions or severities out for all")
    objective = config.search.objectives[0].metric
    if not objective.startswith("acc/"):
        text = f"has no effect on a first objective of {objective}; put an accuracy first, or leave it out"
        yield Problem(here, text)
    for item in study.phases:
        if isinstance(item, ConfirmPhase) and item.of == phase.name and item.top > fidelity.finalists:
            text = f"must be at least the {item.top} that {item.name} confirms, but got {fidelity.finalists}"
            yield Problem((*here, "finalists"), text)


def _places(config: StudyConfig, where: Path) -> Iterator[Problem]:
    """No place of a study file holds a secret, since the file is kept with the records."""
    search = config.search
    named: list[tuple[Path, str]] = [
        (("warm_start", index), place) for index, place in enumerate(search.warm_start or ())
    ]
    if search.optuna_storage is not None:
        named.append((("optuna_storage",), search.optuna_storage))
    for inside, place in named:
        if redact(place) != place:
            text = "must hold no user, password or token, since the study file is kept with the records"
            how = " (PGUSER and PGPASSWORD for PostgreSQL)" if inside == ("optuna_storage",) else ""
            text = f"{text}, but got {redact(place)}; give them by the environment{how}"
            yield Problem((*where, *inside), text)
    names = search.warm_start or ()
    if names and search.algorithm not in WARM_ALGORITHMS:
        text = f"has no effect on {search.algorithm}, which learns nothing from earlier studies' trials"
        yield Problem((*where, "warm_start"), f"{text}; take {' or '.join(WARM_ALGORITHMS)}, or leave it out")
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem((*where, "warm_start", index), f'stands twice: "{name}"; take one of them out')
        if name.partition("/")[0] == config.name and "://" not in name:
            text = f'must be another study, but got "{name}", which is this one and goes on by itself'
            yield Problem((*where, "warm_start", index), text)


def _adaptive(study: StudyConfig, phase: ConfirmPhase, path: Path) -> Iterator[Problem]:
    """Further seeds need contenders, two seeds to begin with, room for more, and an objective of images."""
    adaptive, first = phase.adaptive, len(phase.seeds)
    assert adaptive is not None
    source = next(item for item in study.phases if item.name == phase.of)
    search = getattr(source, "search", None) or study.search
    if adaptive.max_seeds <= first:
        text = f"must be above the {first} seeds that the phase begins with, but got {adaptive.max_seeds}"
        yield Problem((*path, "max_seeds"), text)
    if first < 2:
        text = "needs 2 seeds or more to begin with, as one tells nothing of others, but the phase names 1"
        yield Problem(path, f"{text}; add some to seeds")
    if phase.top == 1 and phase.per is None:
        text = "has no effect on one configuration, which has no contender; raise top, or take it out"
        yield Problem(path, text)
    objective = search.objectives[0].metric
    if objective not in METRICS:
        text = f"compares image by image, so {phase.of} must have {' or '.join(METRICS)} as its first objective"
        yield Problem(path, f"{text}, but has {objective}; change that, or take it out")


def grid_problems(study: StudyConfig) -> Iterator[Problem]:
    """Validation after each epoch is held small, unless searches are scored by a part of it."""
    searches = [phase.search or study.search for phase in study.phases if isinstance(phase, SearchPhase)]
    if searches and all(search.fidelity is not None for search in searches):
        return
    noise = study.noise
    sizes = {
        "validation": (len(noise.validation), MAX_SEARCH_CORRUPTIONS, "corruptions"),
        "validation_severities": (len(noise.validation_severities), MAX_SEARCH_SEVERITIES, "severities"),
        "validation_images": (noise.validation_images, MAX_SEARCH_IMAGES, "images"),
    }
    for key, (size, most, what) in sizes.items():
        if size > most:
            text = f"must be at most {most} {what}, as all are measured after each epoch, but got {size}"
            yield Problem(("noise", key), f"{text}; or have trials scored by a part of them with search.fidelity")
