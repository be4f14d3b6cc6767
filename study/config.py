"""The study file as one typed, frozen tree: what may be written, its bounds and its defaults.

Source of the design: a study file is data, not a program. Every section is a frozen pydantic model that refuses
unknown keys; a method's section is generated from the settings dataclass that the method itself declares, so that a
new method needs no line here.
"""

from __future__ import annotations

import difflib
from typing import Any, Self

from pydantic import Field, model_validator

from models.methods.registry import METHODS
from study.config_data import DataConfig, Name, Section, SyntheticVehicles
from study.config_method import METHOD_SECTIONS, AnyMethod, is_decomposable, method_settings
from study.config_noise import NoiseConfig, TrainNoise
from study.config_phases import ConfirmPhase, Phase, ReportConfig, SearchPhase
from study.config_resolution import ResolutionConfig
from study.config_search import ResourcesConfig, SearchConfig, TrackingConfig
from study.config_task import AnyTask, Classification
from study.config_train import ModelConfig, OptimConfig, TrainConfig

NUMERICS = 3
"""Raised by hand whenever the same settings give other numbers; part of every trial's identity."""


class TrialConfig(Section):
    """Everything that decides a trial's numbers."""

    data: DataConfig = Field(default=SyntheticVehicles(), description="Where images come from, how they are split.")
    model: ModelConfig = ModelConfig()
    method: AnyMethod = Field(
        default_factory=lambda: METHOD_SECTIONS["plain"](name="plain"), description="How a network is trained."
    )
    noise: NoiseConfig = NoiseConfig()
    resolution: ResolutionConfig = ResolutionConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    task: AnyTask = Field(default=Classification(), description="What a trained network is judged by.")

    @model_validator(mode="after")
    def _task_fits(self) -> Self:
        name = self.task.name
        if name == "classification" and getattr(self.data, "unseen_classes", None) is not None:
            raise ValueError(
                "task.name must be retrieval or verification with data.unseen_classes, whose test images are of "
                "classes that no classifier learns, but got classification; set task: {name: retrieval}, or take "
                "unseen_classes out"
            )
        if name != "classification" and self.noise.real:
            raise ValueError(
                f"noise.real must be left out with task.name: {name}, as its folders are of images to classify; take "
                "it out"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.method.name == "pmal" and self.noise.train == ():
            raise ValueError(
                "noise.train must not be empty with method.name: pmal, which learns to undo it; "
                "leave it out for the paper's own pmal_pair, or make it conditional on the method"
            )
        try:
            method_settings(self.method)
        except ValueError as error:
            raise ValueError(f"method.{error}") from None
        self._teachers_fit()
        if self.resolution.view == "small" and not METHODS[self.method.name].takes_small:
            raise ValueError(
                f"resolution.view must be up with method.name: {self.method.name}, which restores images at their "
                "size, but got small"
            )
        if hasattr(self.method, "student_input"):
            self._student_noise_fits(str(getattr(self.method, "student_input", "")))
        if problem := self.resolution.problem(self.data.image_size):
            raise ValueError(problem)
        if not (self.noise.validation or self.resolution.validation):
            raise ValueError(
                "noise.validation must name a corruption, or resolution.validation a side: without them there is "
                "nothing but clean images to choose by"
            )
        if not (self.noise.test or self.resolution.test):
            raise ValueError("noise.test must name a corruption, or resolution.test a side, but both are empty")
        if self.train.micro_batch is not None and not is_decomposable(self.method):
            raise ValueError(
                f"train.micro_batch must be left out with method.name: {self.method.name}, whose loss compares the "
                "images of a batch with each other; lower train.batch_size to save memory"
            )
        if self.train.adapt_bn and (self.model.batch_norm == "frozen" or self.task.name != "classification"):
            what = "model.batch_norm: frozen" if self.model.batch_norm == "frozen" else f"task.name: {self.task.name}"
            raise ValueError(f"train.adapt_bn must be left out with {what}, but got true; take one of them out")
        if self.noise.similarity and self.task.name == "verification":
            raise ValueError(
                "noise.similarity must be left out with task.name: verification, which is tested on pairs, but got "
                "true; take it out"
            )
        if self.model.batch_norm == "sync" and self.train.micro_batch is not None:
            raise ValueError(
                "train.micro_batch must be left out with model.batch_norm: sync, as uneven workers would have other "
                "numbers of slices and wait for each other; lower train.batch_size, or take batch_norm: train"
            )
        if self.train.budget is None and self.optim.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"optim.warmup_epochs must be below train.epochs, but got {self.optim.warmup_epochs} of "
                f"{self.train.epochs}"
            )
        return self

    def _teachers_fit(self) -> None:
        if not METHODS[self.method.name].taught_twice:
            return
        weight, direct = getattr(self.method, "direct_weight", 0.0), getattr(self.method, "direct_teacher", None)
        if weight > 0 and direct is None:
            raise ValueError(
                f"method.direct_teacher is required with direct_weight {weight:g}, but is not there; name it, or take "
                "direct_weight out"
            )
        if weight == 0 and direct is not None:
            raise ValueError(
                "method.direct_teacher has no effect with direct_weight: 0; raise that, or take the teacher out"
            )

    def _student_noise_fits(self, student_input: str) -> None:
        if student_input != "clean" and not (self.noise.train or self.resolution.train):
            raise ValueError(
                f"method.student_input must be clean where no training noise is named, but got {student_input}; name "
                "some in noise.train, such as [pmal_pair]"
            )
        if student_input == "clean" and self.resolution.train:
            raise ValueError(
                f"resolution.train has no effect with method.name: {self.method.name} and method.student_input: clean; "
                "set method.student_input: noisy, or take the sides out there (in a phase: set: {resolution.train: []})"
            )
        if student_input == "clean" and self.noise.train:
            raise ValueError(
                f"noise.train has no effect with method.name: {self.method.name} and method.student_input: clean; set "
                "method.student_input: noisy, or take noise.train out there (in a phase: set: {noise.train: null})"
            )

    def training_noise(self) -> tuple[TrainNoise, ...]:
        """The noise that training draws, the method's own where none is named."""
        if self.noise.train is not None:
            return self.noise.train
        return (TrainNoise(name="pmal_pair", probability=1.0),) if self.method.name == "pmal" else ()


class StudyConfig(TrialConfig):
    """A whole study file."""

    name: Name
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()
    report: ReportConfig = ReportConfig()
    phases: tuple[Phase, ...] = Field(
        default=(SearchPhase(kind="search", name="search"), ConfirmPhase(kind="confirm", name="confirm", of="search")),
        min_length=1,
        description="What is run, one after the other.",
    )

    @model_validator(mode="after")
    def _phases_in_order(self) -> Self:
        seen: dict[str, Any] = {}
        for index, phase in enumerate(self.phases):
            here = f"phases.{index}"
            if phase.name in seen:
                raise ValueError(f"{here}.name: must be a name of its own, but got {phase.name!r} a second time")
            if isinstance(phase, ConfirmPhase):
                earlier = seen.get(phase.of)
                if not isinstance(earlier, SearchPhase):
                    found = [n for n, p in seen.items() if isinstance(p, SearchPhase)]
                    raise ValueError(
                        f"{here}.of: must be the name of a search phase before it, but got {phase.of!r}; "
                        f"there {f'are {found}' if found else 'is none'}"
                    )
                if "train.seed" in (earlier.search or self.search).space or "train.seed" in earlier.set:
                    raise ValueError(
                        f"{here}.of: must be a search whose seed is train.seed alone, but {phase.of!r} changes it "
                        "(a seed is not chosen by its figures); take train.seed out of its space and set"
                    )
                if self.train.seed in phase.seeds:
                    raise ValueError(
                        f"{here}.seeds: must not hold the search's own seed {self.train.seed} (train.seed), "
                        f"but got {list(phase.seeds)}; take it out"
                    )
            seeds = getattr(phase, "seeds", ())
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{here}.seeds: must not name a seed twice, but got {list(seeds)}")
            seen[phase.name] = phase
        return self

    @model_validator(mode="after")
    def _contrasts_of_tested_phases(self) -> Self:
        tested = {phase.name: phase for phase in self.phases if not isinstance(phase, SearchPhase)}
        for index, contrast in enumerate(self.report.contrasts):
            here = f"report.contrasts.{index}"
            for key, name in (("arm", contrast.arm), ("against", contrast.against)):
                phase = tested.get(name)
                if phase is None:
                    near = difflib.get_close_matches(name, tested, n=3, cutoff=0.6)
                    raise ValueError(
                        f"{here}.{key}: must be the name of a phase that is tested, but got {name!r}; "
                        + (f"near: {', '.join(near)}" if near else f"there are {list(tested)}")
                    )
                if isinstance(phase, ConfirmPhase) and (phase.top > 1 or phase.per is not None):
                    raise ValueError(
                        f"{here}.{key}: must be a phase of one configuration, but {name!r} confirms several; give "
                        "each a phase"
                    )
            if contrast.arm == contrast.against:
                raise ValueError(f"{here}.against: must be another phase than arm, but got {contrast.against!r} twice")
        return self

    def trial(self) -> TrialConfig:
        """The part that decides a trial's numbers."""
        return TrialConfig.model_construct(**{name: getattr(self, name) for name in TrialConfig.model_fields})
