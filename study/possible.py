"""Refuse, before anything starts, what only the machine can tell: images, backbones and weights that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from timm.models import get_pretrained_cfg

from analysis.metrics import ALEXNET_CLASSES
from models.backbones import check_backbone, create_backbone
from study.config import StudyConfig, TrialConfig
from study.config_method import teacher_kind, teacher_phase, teachers_of
from study.config_phases import Phase, SearchPhase
from study.data.prepare import allot
from study.data.real import list_real, open_real
from study.data.source import Source
from study.data.sources import open_source
from study.data.staging import staged
from study.estimate import whole_passes
from study.origins import warm_problems
from study.override import apply
from study.places import resolve_places
from study.problems import Path as KeyPath
from study.problems import Problem, ProblemsError
from study.space import for_phase, parse
from study.teachers import FoundTeacher, check_sizes, check_teacher, find_teacher, has_fixed_size, phase_problem


class Network(NamedTuple):
    """What decides whether a network can be built."""

    backbone: str
    image_size: int
    stages: int
    pretrained: bool | str
    batch_norm: str = "train"
    several_sizes: bool = False


def refuse_what_cannot_run(study: StudyConfig, *, storage: str | None = None) -> None:
    """Check every phase of a study against this machine's files and timm's models; downloads and starts nothing.

    Args:
        storage: Where studies lie, in which teachers of other studies are looked for; by the study's `tracking`.

    Raises:
        ProblemsError: With a problem for each mistake; a ValueError.
    """
    problems = [*_data(study), *_pairs(study)]
    for network in networks(study):
        problems += [problem for problem in network_problems(network) if problem not in problems]
    if not problems:
        problems = list(dict.fromkeys(_teachers(study, storage)))
        place = storage or str(resolve_places(study.tracking, cwd=Path.cwd()).storage)
        problems += [*warm_problems(study, storage=place), *_graces(study)]
    if problems:
        raise ProblemsError(problems)


def networks(study: StudyConfig) -> list[Network]:
    """The networks that a study can build, as far as its searches were tried out, each once."""
    configs = [config for phase in study.phases for config in configs_of(study, phase)]
    return list(dict.fromkeys(_network_of(config, side) for config in configs for side in _sides(config)))


def configs_of(study: StudyConfig, phase: Phase) -> list[TrialConfig]:
    """What a phase can train, a search as far as it was tried out; nothing for a confirm phase, which repeats one."""
    config = for_phase(study, phase)
    if isinstance(phase, SearchPhase):
        space = parse(config.search.space, config)
        return [apply(config.trial(), params) for params in space.samples()]
    return [] if phase.kind == "confirm" else [config.trial()]


def _network_of(config: TrialConfig, side: int) -> Network:
    """Of a trial as it meets images of one side."""
    model = config.model
    stages = getattr(config.method, "stages", 1)
    return Network(
        model.backbone, side, stages, model.pretrained, model.batch_norm, several_sizes=len(_sides(config)) > 1
    )


def _sides(config: TrialConfig) -> list[int]:
    """Of all images that a trial's network sees."""
    lower, full = config.resolution, config.data.image_size
    if lower.view == "up":
        return [full]
    return list(dict.fromkeys([lower.input_size(full), full, *lower.validation, *lower.test]))


def _teachers(study: StudyConfig, storage: str | None) -> Iterator[Problem]:
    """Teachers that are not there or do not fit; of one that a phase will train, its backbone."""
    found: dict[str, FoundTeacher] = {}
    for phase in study.phases:
        for config in configs_of(study, phase):
            for setting, reference in teachers_of(config.method).items():
                try:
                    if teacher_kind(reference) == "phase":
                        _phase_can_teach(study, phase, reference, config)
                        continue
                    if reference not in found:
                        place = storage or str(resolve_places(study.tracking, cwd=Path.cwd()).storage)
                        found[reference] = find_teacher(reference, storage=place)
                    check_teacher(found[reference], config, class_names(study, open_source(study.data)))
                except ValueError as error:
                    yield Problem(("method", setting), str(error))


def _phase_can_teach(study: StudyConfig, phase: Phase, reference: str, config: TrialConfig) -> None:
    text = phase_problem(study, phase, reference)
    if text:
        raise ValueError(text)
    for teacher in teacher_configs(study, reference):
        check_sizes(teacher.model.backbone, trained_at=config.data.image_size, config=config)


def teacher_configs(study: StudyConfig, reference: str) -> list[TrialConfig]:
    """What a phase that teaches can train; a confirm phase repeats the search that it is of."""
    name, _ = teacher_phase(reference)
    phase = next(item for item in study.phases if item.name == name)
    source = getattr(phase, "of", name)
    return configs_of(study, next(item for item in study.phases if item.name == source))


def _graces(study: StudyConfig) -> Iterator[Problem]:
    """Grace periods in gradient passes that no trial of their search comes to the end of."""
    for index, phase in enumerate(study.phases):
        if not isinstance(phase, SearchPhase):
            continue
        scheduler = for_phase(study, phase).search.scheduler
        grace = scheduler and scheduler.grace_passes_per_image
        longest = _longest(study, phase, above=grace) if grace else None
        if longest is not None:
            where: KeyPath = ("phases", index, "search") if phase.search is not None else ("search",)
            text = (
                f"must be below the {longest:.4g} gradient passes for each training image that the longest trial takes "
                f"(epochs times what the method and SAM cost, or train.budget), or no trial is ever stopped early, but "
                f"got {grace:g}; lower it, or take the scheduler out"
            )
            yield Problem((*where, "scheduler", "grace_passes_per_image"), text)


def _longest(study: StudyConfig, phase: Phase, *, above: float) -> float | None:
    """Passes for each image of a search's longest trial; None where one is known, or may be, to be above a number."""
    allotted = allot(study.data, open_source(study.data).listing())
    num_classes, num_images = len(allotted.class_names), len(allotted.rows["train"])
    known: dict[str, float] = {}
    for config in configs_of(study, phase):
        settings = config.model_dump_json(include={"model", "method", "optim", "train", "resolution"})
        if settings not in known:
            found = whole_passes(config, num_classes=num_classes, num_images=num_images)
            if found is None or found > above:
                return None
            known[settings] = found
    return max(known.values(), default=None)


def _data(study: StudyConfig) -> Iterator[Problem]:
    """The study's images, and what can be told of the rest only by their classes."""
    try:
        source = open_source(study.data)
    except (ValueError, OSError) as error:
        yield _placed(str(error), ("data",))
        return
    by_classes = study.data.unseen_classes is not None
    if not study.noise.real and study.report.normaliser != "alexnet" and not by_classes:
        return
    try:
        names = class_names(study, source)
    except (ValueError, OSError) as error:
        yield _placed(str(error), ("data",))
        return
    if study.report.normaliser == "alexnet" and len(names) != ALEXNET_CLASSES:
        text = f"alexnet is for ImageNet's {ALEXNET_CLASSES:,} classes, but the data have {len(names)}; use baseline"
        yield Problem(("report", "normaliser"), text)
    for name, path in study.noise.real.items():
        try:
            list_real(open_real(path), path, names)
        except (ValueError, OSError) as error:
            yield Problem(("noise", "real", name), str(error))


def _pairs(study: StudyConfig) -> Iterator[Problem]:
    """Files of the pairs that verification is tested on; what they hold is looked at with the images.

    Those at a URL are copied to this machine now, as the images to train on are.
    """
    for name in ("pairs", "images"):
        place = getattr(study.task, name, None)
        if place is not None and "://" in place:
            try:
                staged(place)
            except ValueError as error:
                yield Problem(("task", name), str(error))
        elif place is not None and not Path(place).exists():
            yield Problem(("task", name), f"must be there, but there is no such file or folder: {place}")


def class_names(study: StudyConfig, source: Source) -> tuple[str, ...]:
    """The classes that the study trains on, without decoding an image."""
    return allot(study.data, source.listing()).class_names


def _placed(text: str, path: KeyPath) -> Problem:
    """A message that starts with a dotted key names its own place."""
    first, _, rest = text.partition(" ")
    if first.startswith(f"{path[0]}."):
        return Problem(tuple(first.rstrip(":").split(".")), rest)
    return Problem(path, text)


def network_problems(network: Network) -> Iterator[Problem]:
    """Why a network cannot be built here."""
    try:
        frozen = network.batch_norm == "frozen"
        check_backbone(network.backbone, network.image_size, network.stages, frozen_batch_norm=frozen)
    except ValueError as error:
        first, _, rest = str(error).partition(" ")
        path = {"stages": ("method", "stages"), "batch_norm": ("model", "batch_norm")}.get(first, ("model", "backbone"))
        yield Problem(path, rest if first in {"stages", "batch_norm", "backbone"} else str(error))
        return
    if network.several_sizes and has_fixed_size(network.backbone):
        yield Problem(
            ("resolution", "view"),
            f"must be up with backbone {network.backbone!r}, which takes images of one size only, but got small",
        )
        return
    yield from _weights(network)


def _weights(network: Network) -> Iterator[Problem]:
    path, given = ("model", "pretrained"), network.pretrained
    if given is True:
        config = get_pretrained_cfg(network.backbone)
        if config is None or not config.has_weights:
            text = f"true needs published weights, but timm has none for {network.backbone!r}; give a .safetensors file"
            yield Problem(path, f"{text}, or false")
    elif isinstance(given, str) and not (given.endswith(".safetensors") and Path(given).is_file()):
        yield Problem(path, f"must be true, false or a .safetensors file, but there is no such file: {given}")
    elif isinstance(given, str):
        try:
            with torch.random.fork_rng():
                create_backbone(network.backbone, num_classes=2, image_size=network.image_size, pretrained=given)
        except (ValueError, OSError) as error:
            yield Problem(path, str(error))
