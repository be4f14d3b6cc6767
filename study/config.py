"""The study file as one typed, frozen tree: what may be written, its bounds and its defaults.

Source of the design: a study file is data, not a program. Every section is a frozen pydantic model that refuses
unknown keys; a method's section is generated from the settings dataclass that the method itself declares, so that a
new method needs no line here.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, Field, create_model, model_validator

from models.batchnorm import BatchNorm
from models.methods.registry import METHODS
from noise.families import CORRUPTIONS
from study.config_data import DataConfig, Section, SyntheticVehicles
from study.config_noise import NoiseConfig, Probability, TrainNoise
from study.config_resolution import ResolutionConfig
from study.config_task import AnyTask, Classification

NUMERICS = 3
"""Raised by hand whenever the same settings give other numbers; part of every trial's identity."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Names become folders and MLflow experiments: letters, digits, '.', '_' and '-', 64 at most."""


# --------------------------------------------------------------------------------------------------------------- model
class ModelConfig(Section):
    """The backbone: any timm model that gives feature maps."""

    backbone: str = Field(default="resnet10t", min_length=1, description="Name of a timm model.")
    pretrained: bool | str = Field(
        default=False, description="true (timm's own weights), a .safetensors path, or false."
    )
    batch_norm: BatchNorm = Field(
        default="train",
        description="train: by each worker's own batch; frozen: the pretrained backbone's own statistics (heads follow "
        "the batch); sync: by the batch of all GPU workers.",
    )

    @model_validator(mode="after")
    def _frozen_has_statistics(self) -> Self:
        if self.batch_norm == "frozen" and self.pretrained is False:
            raise ValueError(
                "batch_norm must be train or sync without pretrained weights, whose statistics frozen keeps, but got "
                "frozen; set model.pretrained, or leave batch_norm out"
            )
        return self


# -------------------------------------------------------------------------------------------------------------- method
class MethodSettings(Section):
    """Base of the generated sections; `name` chooses the method."""

    name: str


TEACHER = (
    "Who teaches: an earlier phase's name (its best trial by validation accuracy), PHASE@seed (its trial of "
    "the student's own seed, so that seeds pair up), STUDY/KEY of another study, or the "
    "folder or URL of a trial or its model.safetensors; a relative path has a slash and counts from the study file"
)


def method_settings(section: MethodSettings) -> Any:
    """The settings dataclass that a method is built from, of its section.

    Raises:
        ValueError: Settings do not go together; the text starts with the name of one.
    """
    spec = METHODS[section.name]
    values = {item.name: getattr(section, item.name) for item in dataclasses.fields(spec.settings)}
    return spec.settings(**{
        name: value.model_dump() if isinstance(value, Section) else value for name, value in values.items()
    })  # fmt: skip


def is_decomposable(section: MethodSettings) -> bool:
    """Whether a batch's losses add up over its slices."""
    return METHODS[section.name].decomposable and getattr(method_settings(section), "decomposable", True)


def teacher_of(section: MethodSettings) -> str | None:
    """How a method's section names its teacher; None for a method without one."""
    return getattr(section, "teacher", None) if METHODS[section.name].taught else None


def teachers_of(section: MethodSettings) -> dict[str, str]:
    """Setting -> reference of all who teach a method: `teacher`, and `direct_teacher` where it has one."""
    found = {"teacher": teacher_of(section), "direct_teacher": getattr(section, "direct_teacher", None)}
    return {name: reference for name, reference in found.items() if reference is not None}


_SAME_SEED = "@seed"


def teacher_phase(reference: str) -> tuple[str, bool]:
    """The phase that a teacher's reference names, and whether its trial must be of the student's seed."""
    return reference.removesuffix(_SAME_SEED), reference.endswith(_SAME_SEED)


def teacher_kind(reference: str) -> Literal["phase", "trial", "place"]:
    """What a teacher's reference names: a phase of the study, `STUDY/KEY`, or a folder, file or URL."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}/[0-9a-f]{16}", reference):
        return "trial"
    return "place" if "/" in reference or reference.endswith(".safetensors") else "phase"


def _bounded(hint: Any, bounds: dict[str, Any]) -> Any:
    """The type with its bounds, those of a tuple on each of its entries."""
    if not bounds:
        return hint
    if get_origin(hint) is tuple:
        return tuple[tuple(part if part is Ellipsis else Annotated[part, Field(**bounds)] for part in get_args(hint))]
    return Annotated[hint, Field(**bounds)]


def _fields_of(settings: type) -> dict[str, Any]:
    """A section's fields, those of nested settings as a section of their own."""
    hints, fields = get_type_hints(settings), {}
    for item in dataclasses.fields(settings):
        doc, hint = item.metadata.get("doc"), hints[item.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            inner = create_model(hint.__name__, __base__=Section, __doc__=hint.__doc__, **_fields_of(hint))
            fields[item.name] = (inner, Field(default_factory=inner, description=doc))
            continue
        bounds = {
            k: v for k, v in item.metadata.items() if k in {"gt", "ge", "lt", "le", "multiple_of"} and v is not None
        }
        fields[item.name] = (_bounded(hint, bounds), Field(item.default, description=doc))
    return fields


def _method_section(name: str, settings: type) -> type[MethodSettings]:
    fields: dict[str, Any] = {"name": (Literal[name], name), **_fields_of(settings)}
    if METHODS[name].taught:
        fields["teacher"] = (str, Field(min_length=1, description=TEACHER))
    if METHODS[name].taught_twice:
        text = "A second teacher beside it, named in the same way; see direct_weight."
        fields["direct_teacher"] = (str | None, Field(default=None, min_length=1, description=text))
    return create_model(f"{name.title()}Method", __base__=MethodSettings, __doc__=METHODS[name].doc, **fields)


METHOD_SECTIONS: dict[str, type[MethodSettings]] = {
    name: _method_section(name, spec.settings) for name, spec in METHODS.items()
}

if TYPE_CHECKING:
    AnyMethod = MethodSettings
else:
    AnyMethod = Annotated[
        Union[tuple(METHOD_SECTIONS.values())],  # noqa: UP007
        Field(discriminator="name"),
    ]


# --------------------------------------------------------------------------------------------------------------- optim
class SamConfig(Section):
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412; adaptive: Kwon et al. 2021, 2102.11600).

    Variants: Liu et al. 2022 (looksam, 2203.02714), Mueller et al. 2023 (sam_on, 2306.04226). See docs/sam.md.
    """

    rho: float = Field(default=0.05, ge=0.0, le=10.0, description="Radius of the ascent; 0 turns SAM off.")
    adaptive: bool = Field(
        default=False, description="ASAM: scale the ascent by the weights; wants about 10 times the rho."
    )
    eta: float = Field(
        default=0.01, ge=0.0, le=1.0, description="Added to |w| in ASAM's scaling; read only if adaptive."
    )
    every: int = Field(default=1, ge=1, le=1000, description="Only every so many batches climb; the rest are cheaper.")
    variant: Literal["sam", "looksam", "sam_on"] = Field(
        default="sam", description="looksam: reuse the last climb between climbs; sam_on: only norm layers climb."
    )
    alpha: float = Field(default=0.7, ge=0.0, le=10.0, description="Weight of what LookSAM reuses.")
    ascent: Literal["global", "local"] = Field(
        default="global", description="Several workers: climb by the whole batch's gradient, or each by its own."
    )

    @model_validator(mode="after")
    def _eta_has_effect(self) -> Self:
        if "eta" in self.model_fields_set and not self.adaptive and self.eta != 0.01:
            raise ValueError("eta has no effect without adaptive: true; set adaptive or leave eta out")
        return self

    @model_validator(mode="after")
    def _variant_has_effect(self) -> Self:
        for name in ("every", "variant", "ascent"):
            value = getattr(self, name)
            if self.rho == 0 and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with rho: 0, which turns SAM off; leave {name} out or set rho")
        if self.alpha != type(self).model_fields["alpha"].default and self.variant != "looksam":
            raise ValueError("alpha has no effect without variant: looksam; set that or leave alpha out")
        if self.variant == "looksam" and self.every == 1:
            raise ValueError(
                "every must be above 1 with variant: looksam, which saves passes between its climbs, but got 1; "
                "the paper has 5"
            )
        return self


class OptimConfig(Section):
    """The base optimiser, its schedule and SAM."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.05, gt=0.0, le=10.0, description="Learning rate of heads and classifier at the start.")
    backbone_lr_scale: float = Field(default=1.0, gt=0.0, le=1.0, description="The backbone learns at lr times this.")
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="SGD's momentum, AdamW's beta1.")
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0)
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    step_at: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = Field(
        default=(0.625, 0.75, 0.875), min_length=1, description="Shares of the training at which schedule: step falls."
    )
    step_factor: float = Field(default=0.1, gt=0.0, lt=1.0, description="What the rate is multiplied by at each.")
    warmup_epochs: int = Field(default=0, ge=0, description="Epochs of linear warm-up.")
    clip_norm: float | None = Field(
        default=None, gt=0.0, description="Greatest norm of the gradient of an update; left out: not clipped."
    )
    sam: SamConfig = SamConfig()

    @model_validator(mode="after")
    def _steps_have_effect(self) -> Self:
        for name in ("step_at", "step_factor"):
            if self.schedule != "step" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect without schedule: step; set that or leave {name} out")
        if list(self.step_at) != sorted(set(self.step_at)):
            raise ValueError(f"step_at must be shares that grow, but got {list(self.step_at)}")
        return self


# --------------------------------------------------------------------------------------------------------------- train
class AugmentConfig(Section):
    """Crop, flip and colour, on the batch's device."""

    crop_padding: int = Field(
        default=4, ge=0, le=256, description="Random crop after padding by this many pixels; 0: none."
    )
    flip: Probability = Field(default=0.5, description="Probability of a left-right flip.")
    colour: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Strength of brightness, contrast, saturation jitter."
    )


class BudgetConfig(Section):
    """Gradient passes that a trial may spend: a forward and backward pass of one image by the deployed backbone is 1.

    Heads, decoders, teachers and SAM's second pass count at their share of multiplications; SAM-ON's ascent, and a
    teacher's pass under SAM, count as if whole. Trials of one budget can be compared whatever their methods; the
    schedule goes on with each batch, as their epochs differ.
    """

    passes: float | None = Field(default=None, gt=0, description="In all.")
    passes_per_image: float | None = Field(default=None, gt=0, description="For each training image.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.passes is None) == (self.passes_per_image is None):
            raise ValueError("must have one of passes and passes_per_image, such as {passes_per_image: 60}")
        return self


class TrainConfig(Section):
    """How long and on what batches a trial trains."""

    epochs: int = Field(default=10, ge=1, le=100_000)
    budget: BudgetConfig | None = Field(default=None, description="In place of epochs: gradient passes to spend.")
    batch_size: int = Field(default=64, ge=2, le=65_536, description="Images of one update, over all workers.")
    eval_batch_size: int = Field(default=256, ge=1, le=65_536)
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0, description="eps/(N-1) on each other class.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto", description="auto: bf16 where the GPU has it."
    )
    micro_batch: int | None = Field(
        default=None, ge=2, le=65_536, description="Images of one forward pass at most, on each worker (saves memory)."
    )
    augment: AugmentConfig = AugmentConfig()
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, description="Also within an epoch, each so many batches."
    )
    adapt_bn: bool = Field(
        default=False,
        description="Measure the test a second time, with BN statistics of each cell's own images (no labels); rows "
        "marked adapted, which depend on the test's other images.",
    )
    reestimate_bn: bool = Field(
        default=True, description="Re-estimate BN statistics on clean train images before the end."
    )
    seed: int = Field(default=0, ge=0, description="Weights, order, augmentation and training noise.")

    @model_validator(mode="after")
    def _epochs_have_effect(self) -> Self:
        if self.budget is not None and self.epochs != TrainConfig.model_fields["epochs"].default:
            raise ValueError(f"epochs has no effect beside budget, but got {self.epochs}; take one of them out")
        return self


# -------------------------------------------------------------------------------------------------------------- search
class Scheduler(Section):
    """Early stopping of poor trials (ASHA, Li et al. 2020, arXiv 1810.05934)."""

    name: Literal["asha"]
    grace_epochs: int = Field(default=2, ge=1)
    reduction_factor: int = Field(default=3, ge=2, le=16)


class Objective(Section):
    """A headline metric and its direction."""

    metric: Literal["acc/clean", "acc/noise", "acc/worst_family", "cost/passes", "cost/seconds"] = "acc/noise"
    goal: Literal["maximise", "minimise"] = "maximise"


class SearchConfig(Section):
    """What is searched and how."""

    space: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Dotted key -> domain (with `when`).")
    algorithm: Literal["tpe", "random"] = "tpe"
    objectives: tuple[Objective, ...] = Field(default=(Objective(),), min_length=1, max_length=3)
    trials: int = Field(default=8, ge=1, le=100_000)
    scheduler: Scheduler | None = None
    seed: int = Field(default=0, ge=0, description="Seed of the sampler.")

    @model_validator(mode="after")
    def _one_scalar_for_asha(self) -> Self:
        if self.scheduler is not None and len(self.objectives) > 1:
            raise ValueError("scheduler: asha needs a single objective; take one out of objectives or drop scheduler")
        return self


# ----------------------------------------------------------------------------------------------- resources and tracking
class ResourcesConfig(Section):
    """Where trials run."""

    executor: Literal["auto", "inline", "ray_train"] = Field(
        default="auto",
        description="auto: one worker without GPU runs in the trial's own process, all else by Ray Train.",
    )
    workers_per_trial: int = Field(default=1, ge=1, le=4096)
    cpus_per_worker: float = Field(default=1.0, gt=0.0, le=1024)
    gpus_per_worker: float = Field(default=0.0, ge=0.0, le=16)
    max_concurrent: int | None = Field(default=None, ge=1, description="Trials at once; left out: as many as fit.")
    retries: int = Field(
        default=1, ge=0, le=100, description="How often a trial that lost its process is started again."
    )

    @model_validator(mode="after")
    def _inline_is_one_worker(self) -> Self:
        if self.executor == "inline" and self.workers_per_trial > 1:
            raise ValueError("executor: inline runs one worker; set workers_per_trial: 1 or executor: ray_train")
        return self


class TrackingConfig(Section):
    """Where records go. Left out: a results folder beside you, with MLflow in SQLite there."""

    enabled: bool = Field(default=True, description="Write to MLflow; the ledger is always written.")
    uri: str | None = Field(default=None, description="MLflow server; left out: SQLite in the storage place.")
    storage: str | None = Field(default=None, description="Folder or fsspec URL for records and checkpoints.")


# -------------------------------------------------------------------------------------------------------------- phases
class SearchPhase(Section):
    """A search over trials, scored on validation images under validation noise."""

    kind: Literal["search"]
    name: Name
    set: dict[str, Any] = Field(default_factory=dict, description="Dotted keys that hold in this phase only.")
    search: SearchConfig | None = Field(default=None, description="In place of the study's `search`.")


class TrainPhase(Section):
    """One trial as the file stands, for each seed; reads the test split at the end."""

    kind: Literal["train"]
    name: Name
    set: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)


class ConfirmPhase(Section):
    """The best configurations of an earlier phase, trained anew with new seeds, and only then tested."""

    kind: Literal["confirm"]
    name: Name
    of: str = Field(description="Name of the search phase to choose from.")
    top: int = Field(default=1, ge=1, le=100, description="How many configurations (of each value of `per`).")
    per: str | None = Field(
        default=None, description="Dotted key; choose the top of each of its values, such as method.name."
    )
    seeds: tuple[int, ...] = Field(default=(101, 102, 103), min_length=1, description="Never the search's seed.")
    set: dict[str, Any] = Field(default_factory=dict)


Phase = Annotated[SearchPhase | TrainPhase | ConfirmPhase, Field(discriminator="kind")]


class ContrastConfig(Section):
    """A difference that the report is to judge, stated before anything is measured."""

    arm: Name = Field(description="A train phase, or a confirm phase of one configuration.")
    against: Name = Field(description="Another one.")
    margin_points: float | None = Field(
        default=None, gt=0, le=100, description="Points that the arm may lose and still be said to keep the accuracy."
    )


DEFAULT_ENDPOINTS = ("clean", "noise")


_ENDPOINTS = "clean, noise, group:NAME, outside:NAME+NAME or corruption:NAME"


def _known_endpoint(text: str) -> str:
    kind, colon, names = text.partition(":")
    if not (text in {"clean", "noise"} or (kind in {"group", "outside", "corruption"} and colon)):
        raise ValueError(f"must be {_ENDPOINTS}, but got {text!r}")
    groups = [*dict.fromkeys(corruption.group for corruption in CORRUPTIONS.values())]
    groups += [f"resolution-{group}" for group in groups]
    what, known = ("corruption", [*CORRUPTIONS]) if kind == "corruption" else ("group of corruptions", groups)
    for name in names.split("+") if kind == "outside" else [names] if colon else []:
        if name not in known and not (kind == "corruption" and re.fullmatch(r"(\w+_)?\d+px", name)):
            side = [f"{name}px"] if kind == "corruption" and name.isdecimal() else []
            near = side or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            raise ValueError(
                f"must name a {what}, but got {name!r}; "
                + (f"near: {', '.join(near)}" if near else f"there are {', '.join(known)}")
            )
    return text


class ReportConfig(Section):
    """What the report compares with."""

    contrasts: tuple[ContrastConfig, ...] = Field(
        default=(),
        description="Differences between phases, stated beforehand; left out: all against the baseline.",
    )
    endpoints: tuple[Annotated[str, AfterValidator(_known_endpoint)], ...] = Field(
        default=DEFAULT_ENDPOINTS,
        min_length=1,
        description="What contrasts are judged by, each a family of its own: clean, noise, group:NAME, outside:A+B, "
        "corruption:NAME (corruption:16px for a lower resolution).",
    )

    baseline: dict[str, Any] = Field(
        default_factory=lambda: {"method.name": "plain"},
        description="Dotted keys and values of the configuration that mCE is normalised by.",
    )
    normaliser: Literal["baseline", "alexnet"] = Field(
        default="baseline",
        description="alexnet: also mCE by AlexNet's published errors, for ImageNet at 224 px with 1,000 classes only.",
    )


class TrialConfig(Section):
    """Everything that decides a trial's numbers."""

    data: DataConfig = SyntheticVehicles()
    model: ModelConfig = ModelConfig()
    method: AnyMethod = Field(default_factory=lambda: METHOD_SECTIONS["plain"](name="plain"))
    noise: NoiseConfig = NoiseConfig()
    resolution: ResolutionConfig = ResolutionConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    task: AnyTask = Classification()

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
