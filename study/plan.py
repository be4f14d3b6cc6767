"""What a study would do, what it would cost and what it lacks, before anything starts."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from models.backbones import Stages, check_backbone, create_backbone
from models.methods.method import Teacher
from study.algorithms import remarks
from study.build import build_method
from study.config import StudyConfig, TrialConfig
from study.config_method import teacher_kind, teachers_of
from study.config_phases import ConfirmPhase, Phase, SearchPhase
from study.config_search import ResourcesConfig
from study.data.prepare import allot
from study.data.real import list_real, open_real
from study.data.sources import open_source
from study.estimate import (
    Cost,
    Sizes,
    check_budget,
    epochs_of,
    measure,
    trial_seconds,
    validation_seconds,
    without_weights,
)
from study.grids import part_of
from study.nodes import total
from study.override import apply
from study.places import resolve_places
from study.plantext import plan_text
from study.possible import networks, refuse_what_cannot_run, teacher_configs
from study.preflight import Node, check_fit
from study.problems import ProblemsError, dotted
from study.space import Space, for_phase, parse
from study.studyfile import LoadedStudy, StudyFileError
from study.teachers import find_teacher
from study.trained import read_model

DRAWS = 16
MAX_MEASURED = 4


@dataclass(frozen=True)
class Estimate:
    """Configurations of one method in one phase; ranges are lowest to highest."""

    method: str
    trials: float
    passes: tuple[float, float]
    seconds: tuple[float, float]
    mean_seconds: float


@dataclass(frozen=True)
class PhasePlan:
    """One phase.

    Attributes:
        searched: (key, values, condition) in words.
        estimates: For each method.
        passes: Gradient passes of all trials.
        seconds: Of all trials, one after the other.
        notes: What a person should know before starting.
    """

    phase: Phase
    config: StudyConfig
    trials: int
    searched: tuple[tuple[str, str, str], ...] = ()
    estimates: tuple[Estimate, ...] = ()
    passes: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backbone:
    """A backbone of the study."""

    name: str
    parameters: int
    stages: Stages


@dataclass(frozen=True)
class Plan:
    """What `murk check` shows.

    Attributes:
        lacks: What no trial could start without, one sentence each; empty where all is there.
        at_once: Trials that fit at the same time.
        nodes: Of the cluster that was asked; none where it is this machine.
    """

    study: LoadedStudy
    sizes: Sizes
    class_names: tuple[str, ...]
    backbones: tuple[Backbone, ...]
    phases: tuple[PhasePlan, ...]
    available: Mapping[str, float]
    at_once: int
    lacks: tuple[str, ...]
    measured: int
    nodes: tuple[Node, ...] = ()

    @property
    def trials(self) -> int:
        return sum(phase.trials for phase in self.phases)

    @property
    def seconds(self) -> float:
        """As many trials at once as fit."""
        return sum(phase.seconds / max(1, min(self.at_once, phase.trials)) for phase in self.phases)

    def text(self) -> str:
        """The plan for a person to read."""
        return plan_text(self)


@dataclass
class _Costs:
    """Measured configurations, each once."""

    sizes: Sizes
    study: StudyConfig
    known: dict[tuple[object, ...], Cost | None] = field(default_factory=dict)
    methods: set[str] = field(default_factory=set)

    def of(self, config: TrialConfig, *, needed: bool = False) -> Cost | None:
        """None where enough others were measured, unless it is needed: a phase of no known configuration."""
        key = (config.model.backbone, config.method, config.optim.sam.rho > 0, config.train.batch_size,
               bool(config.training_noise()), config.train.precision, config.train.micro_batch,
               config.optim.sam.every)  # fmt: skip
        if key not in self.known or (needed and self.known[key] is None):
            full = sum(cost is not None for cost in self.known.values()) >= MAX_MEASURED
            new_method = config.method.name not in self.methods
            self.known[key] = self._measure(config) if new_method or needed or not full else None
            self.methods.add(config.method.name)
        return self.known[key]

    def _measure(self, config: TrialConfig) -> Cost:
        resources = self.study.resources
        device = "auto" if resources.gpus_per_worker > 0 else "cpu"
        threads = int(resources.cpus_per_worker)
        teachers = {name: self._teacher(reference) for name, reference in teachers_of(config.method).items()}
        return measure(config, num_classes=self.sizes.num_classes, device=device, threads=threads, **teachers)

    def _teacher(self, reference: str) -> Teacher:
        """Of the teacher's size: that of a phase is not trained yet, so it is the first that the phase can train."""
        if teacher_kind(reference) == "phase":
            config = without_weights(teacher_configs(self.study, reference)[0])
            method = build_method(config, num_classes=self.sizes.num_classes)
        else:
            storage = str(resolve_places(self.study.tracking, cwd=Path.cwd()).storage)
            method = read_model(find_teacher(reference, storage=storage).place).method
        assert isinstance(method, Teacher)
        return method


def make_plan(
    study: LoadedStudy, *, available: Mapping[str, float] | None = None, nodes: Sequence[Node] | None = None
) -> Plan:
    """Check a study against this machine and work out what it would do. Starts no Ray and decodes no image.

    Args:
        available: CPU and GPU counts to run on; this machine's when left out.
        nodes: Those of a cluster, in place of one machine.

    Raises:
        StudyFileError: The images, a backbone or weights are not there; a ValueError.
    """
    config = study.config
    try:
        refuse_what_cannot_run(config)
        sizes, class_names = count_images(config)
    except ProblemsError as error:
        places = [(study.sources.get(dotted(problem.path), study.path), problem) for problem in error.problems]
        raise StudyFileError("\n".join(f"{place}: {problem}" for place, problem in places)) from None
    if nodes is not None:
        available = total(nodes)
    elif available is None:
        available = machine()
    costs = _Costs(sizes, config)
    at_once, lacks = fit(config.resources, *([available] if nodes is None else nodes))
    phases = tuple(_plan_phase(config, phase, costs) for phase in config.phases)
    return Plan(
        study=study,
        sizes=sizes,
        class_names=class_names,
        backbones=_backbones(config, sizes.num_classes),
        phases=phases,
        available=available,
        at_once=at_once,
        lacks=lacks,
        measured=sum(cost is not None for cost in costs.known.values()),
        nodes=tuple(nodes or ()),
    )


def machine() -> dict[str, float]:
    """CPUs and GPUs that this process may use."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}


def fit(resources: ResourcesConfig, *nodes: Node) -> tuple[int, tuple[str, ...]]:
    """How many trials fit side by side, and what is lacking where not even one does."""
    try:
        check_fit(resources, nodes)
    except ValueError as error:
        return 0, (str(error),)
    alone = check_fit(resources.model_copy(update={"max_concurrent": None}), nodes).max_concurrent
    return min(alone, resources.max_concurrent or alone), ()


def count_images(config: StudyConfig) -> tuple[Sizes, tuple[str, ...]]:
    """Images of each split and the names of the classes, without decoding an image."""
    data = config.data
    rows, _, names, _ = allot(data, open_source(data).listing())
    real = sum(len(list_real(open_real(path), path, names).labels) for path in config.noise.real.values())
    sizes = Sizes(len(names), len(rows["train"]), len(rows["validation"]), len(rows["test"]), real)
    return sizes, tuple(names)


def _backbones(config: StudyConfig, num_classes: int) -> tuple[Backbone, ...]:
    found = {}
    for network in networks(config):
        if network.backbone in found:
            continue
        with torch.device("meta"):
            built = create_backbone(network.backbone, num_classes=num_classes, image_size=network.image_size)
        parameters = sum(parameter.numel() for parameter in built.parameters())
        found[network.backbone] = Backbone(
            network.backbone, parameters, check_backbone(network.backbone, network.image_size)
        )
    return tuple(found.values())


def _plan_phase(study: StudyConfig, phase: Phase, costs: _Costs) -> PhasePlan:
    config = for_phase(study, phase)
    if isinstance(phase, SearchPhase):
        space = parse(config.search.space, config)
        draws = [apply(config.trial(), params) for params in space.draws(DRAWS if space.domains else 1)]
        shares = _by_method(draws)
        trials = config.search.trials
        searched = tuple(_searched(space, list(config.search.space)))
        plan = PhasePlan(phase, config, trials, searched, notes=_notes(config, space))
        return _estimated(plan, shares, costs, finalists=_num_finalists(study, phase, config, space))
    if isinstance(phase, ConfirmPhase):
        return _plan_confirm(study, phase, costs)
    return _estimated(PhasePlan(phase, config, len(phase.seeds)), _by_method([config.trial()]), costs)


def _plan_confirm(study: StudyConfig, phase: ConfirmPhase, costs: _Costs) -> PhasePlan:
    """A confirm phase re-runs what its search may choose, so it is estimated by draws of that search."""
    source = for_phase(study, next(item for item in study.phases if item.name == phase.of))
    space = parse(source.search.space, source)
    params = space.draws(DRAWS if space.domains else 1)
    draws = [apply(apply(source.trial(), item), phase.set) for item in params]
    top = min(phase.top * _num_values(space, phase.per), source.search.trials)
    shares = _by_method(draws, equal=phase.per == "method.name")
    config = for_phase(study, phase)
    plan = PhasePlan(phase, config, top * len(phase.seeds), notes=_seed_notes(phase, study, top))
    return _estimated(plan, shares, costs)


def _num_values(space: Space, key: str | None) -> int:
    """How many values of a key a phase chooses for; 1 where it chooses for none."""
    return 1 if key is None else next(item for item in space.domains if item.key == key).size() or 1


def _num_finalists(study: StudyConfig, phase: SearchPhase, config: StudyConfig, space: Space) -> int:
    """Trials that get the whole validation grid after a search by a part of it, at most."""
    fidelity = config.search.fidelity
    if fidelity is None or not part_of(fidelity, config.trial()):
        return 0
    later = [item for item in study.phases if isinstance(item, ConfirmPhase) and item.of == phase.name]
    groups = max((_num_values(space, item.per) for item in later), default=1)
    return min(fidelity.finalists * groups, config.search.trials)


def _seed_notes(phase: ConfirmPhase, study: StudyConfig, top: int) -> tuple[str, ...]:
    """Which seeds may follow, and what they add at most."""
    further = phase.all_seeds(study.train.seed)[len(phase.seeds) :]
    if phase.adaptive is None or not further:
        return ()
    return (
        f"those that validation does not part from the best get more seeds, {phase.adaptive.step} at a time: "
        f"{', '.join(map(str, further))}; at most {top * len(further)} trials more, which are not estimated",
    )


def _by_method(configs: list[TrialConfig], *, equal: bool = False) -> dict[str, tuple[float, list[TrialConfig]]]:
    """Configurations by method, with the share of trials that each method has."""
    groups: dict[str, list[TrialConfig]] = {}
    for config in configs:
        groups.setdefault(config.method.name, []).append(config)
    return {
        name: (1 / len(groups) if equal else len(items) / len(configs), items) for name, items in sorted(groups.items())
    }


def _estimated(
    plan: PhasePlan, shares: Mapping[str, tuple[float, list[TrialConfig]]], costs: _Costs, *, finalists: int = 0
) -> PhasePlan:
    estimates, passes, images = [], 0.0, costs.sizes.train
    tested = plan.phase.kind != "search"
    fidelity, looks = None if tested else plan.config.search.fidelity, 0.0
    workers = plan.config.resources.max_workers
    for turn in itertools.zip_longest(*(configs for _, configs in shares.values())):
        for config in filter(None, turn):  # by turns, so that each method has its share of what is timed
            costs.of(config)
    for name, (share, configs) in shares.items():
        if not any(costs.of(config) for config in configs):
            costs.of(configs[0], needed=True)
        known = [(config, cost) for config in configs if (cost := costs.of(config)) is not None]
        for config, _ in known:
            check_budget(config, num_classes=costs.sizes.num_classes, num_images=images, workers=workers)
        seconds = [
            trial_seconds(
                config, cost, costs.sizes, tested=tested, workers=workers, part=part_of(fidelity, config)
            )
            for config, cost in known
        ]  # fmt: skip
        looks += share * float(np.mean([validation_seconds(config, cost, costs.sizes) for config, cost in known]))
        each = [cost.passes for _, cost in known]
        trials = plan.trials * share
        whole = [cost.passes * images * epochs_of(config, cost, num_train=images) for config, cost in known]
        passes += trials * float(np.mean(whole))
        mean = float(np.mean(seconds))
        estimates.append(Estimate(name, trials, (min(each), max(each)), (min(seconds), max(seconds)), mean))
    total = sum(item.trials * item.mean_seconds for item in estimates)
    total += finalists * looks
    return PhasePlan(plan.phase, plan.config, plan.trials, plan.searched, tuple(estimates), passes, total, plan.notes)


def _searched(space: Space, order: list[str]) -> list[tuple[str, str, str]]:
    rows = []
    for domain in sorted(space.domains, key=lambda domain: order.index(domain.key)):
        conditions = []
        for item in domain.when:
            values = [value.strip('"') for value in item.values]
            conditions.append(f"{item.key} is {' or '.join(values)}")
        rows.append((domain.key, domain.describe(), " and ".join(conditions)))
    return rows


def _notes(config: StudyConfig, space: Space) -> tuple[str, ...]:
    search, notes = config.search, []
    count = space.count()
    if not space.domains:
        notes.append("search.space is empty: every trial would be the same; a phase of kind train is meant for that")
    elif count is not None and count < search.trials:
        notes.append(f"the space has only {count} different configurations, so the search ends with those")
    notes += remarks(search, space.domains)
    if search.scheduler is not None:
        notes.append("asha stops poor trials early, so the search may take much less than estimated")
    if (part := part_of(search.fidelity, config)) and search.fidelity is not None:
        notes.append(
            f"trials are scored by {part['images']} images under {', '.join(part['corruptions'])} at severity "
            f"{', '.join(map(str, part['severities']))}; the best {search.fidelity.finalists} get the whole grid"
        )
    if search.warm_start:
        notes.append(f"the sampler is told of trials of {', '.join(search.warm_start)} first; they are not counted")
    return tuple(notes)
