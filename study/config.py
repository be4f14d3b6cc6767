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

from pydantic import AfterValidator, BeforeValidator, Field, create_model, field_validator, model_validator

from models.batchnorm import BatchNorm
from models.methods.registry import METHODS
from noise.families import CORRUPTIONS, SETS, expand
from noise.training import TRAINING_ONLY
from study.config_data import DataConfig, Section, SyntheticVehicles

NUMERICS = 3
"""Raised by hand whenever the same settings give other numbers; part of every trial's identity."""

MAX_SEARCH_IMAGES = 256
MAX_SEARCH_CORRUPTIONS = 4
MAX_SEARCH_SEVERITIES = 2

Severity = Annotated[int, Field(ge=1, le=5)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0, le=5.0)]
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
    return spec.settings(**{item.name: getattr(section, item.name) for item in dataclasses.fields(spec.settings)})


def teacher_of(section: MethodSettings) -> str | None:
    """How a method's section names its teacher; None for a method without one."""
    return getattr(section, "teacher", None) if METHODS[section.name].taught else None


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


def _method_section(name: str, settings: type) -> type[MethodSettings]:
    hints = get_type_hints(settings)
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for item in dataclasses.fields(settings):
        bounds = {
            k: v for k, v in item.metadata.items() if k in {"gt", "ge", "lt", "le", "multiple_of"} and v is not None
        }
        hint = _bounded(hints[item.name], bounds)
        fields[item.name] = (hint, Field(item.default, description=item.metadata.get("doc")))
    if METHODS[name].taught:
        fields["teacher"] = (str, Field(min_length=1, description=TEACHER))
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


# --------------------------------------------------------------------------------------------------------------- noise
def _known(name: str, *, training: bool) -> str:
    known = [*sorted(CORRUPTIONS), *(sorted(TRAINING_ONLY) if training else []), *SETS]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        raise ValueError(
            f"must be {'a training noise' if training else 'a corruption'} that Murk has, but got {name!r}; "
            + (f"near: {', '.join(near)}" if near else f"there are {', '.join(known)}")
        )
    return name


class TrainNoise(Section):
    """One kind of training noise and how often an image gets it."""

    name: str
    severities: tuple[Severity, ...] = Field(
        default=(1, 2, 3), min_length=1, description="Drawn from evenly, per image."
    )
    probability: Probability = Field(default=0.5, description="Share of images that get this kind.")
    strength: tuple[Strength, Strength] | None = Field(
        default=None, description="In place of severities: least and most, 0 to 5 in their units, drawn per image."
    )

    @field_validator("strength")
    @classmethod
    def _least_first(cls, strength: tuple[float, float] | None) -> tuple[float, float] | None:
        if strength is not None and strength[0] > strength[1]:
            raise ValueError(f"must name the least first, but got {list(strength)}")
        return strength

    @field_validator("name")
    @classmethod
    def _name_known(cls, name: str) -> str:
        return _known(name, training=True)

    @model_validator(mode="after")
    def _settings_have_effect(self) -> Self:
        own = self.severities != TrainNoise.model_fields["severities"].default
        if own and self.strength is not None:
            raise ValueError(
                f"severities have no effect beside strength, but got {list(self.severities)} and "
                f"{list(self.strength)}; take one of them out"
            )
        if self.name in TRAINING_ONLY and (own or self.strength is not None):
            raise ValueError(f"must not name severities or strength for {self.name}, whose strength is its own; "
                             "take them out")  # fmt: skip
        return self


def _spelled_out(items: Any) -> Any:
    """A bare name stands for that kind with the images shared evenly: half stay clean, but all get `pmal_pair`."""
    if not isinstance(items, (list, tuple)):
        return items
    items = [name for item in items for name in (expand([item]) if isinstance(item, str) else [item])]
    names = [item for item in items if isinstance(item, str)]
    return [
        {"name": item, "probability": (1.0 if item in TRAINING_ONLY else 0.5) / len(names)}
        if isinstance(item, str)
        else item
        for item in items
    ]


class Curriculum(Section):
    """Training noise that grows over the first epochs (after Bengio et al. 2009, curriculum learning)."""

    start: float = Field(default=0.2, ge=0, lt=1, description="Share of the strength in the first epoch.")
    epochs: int = Field(default=5, ge=1, description="Epochs until the whole strength, on a line.")


TrainNoiseList = Annotated[tuple[TrainNoise, ...], BeforeValidator(_spelled_out)]


def _expanded(items: Any) -> Any:
    """The names of families and other sets spelled out."""
    is_list = isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items)
    return expand(items) if is_list else items


Corruptions = Annotated[tuple[str, ...], BeforeValidator(_expanded)]


class NoiseConfig(Section):
    """Three lists that are not to mix: what training may draw, what the search sees, what the test reads once.

    A name is a corruption, or stands for several: a family (`imagecorruptions`, `surveillance`, `kornia`, ...), or the
    benchmark's `common` 15 and `extra` 4.
    """

    train: TrainNoiseList | None = Field(
        default=None, description="Training noise; left out: the method's own (pmal: pmal_pair; plain: none)."
    )
    curriculum: Curriculum | None = Field(default=None, description="Training noise grows; left out: whole at once.")
    validation: Corruptions = Field(
        default=("gaussian_noise", "motion_blur"), min_length=1, max_length=MAX_SEARCH_CORRUPTIONS
    )
    validation_severities: tuple[Severity, ...] = Field(default=(2, 4), min_length=1, max_length=MAX_SEARCH_SEVERITIES)
    validation_images: int = Field(default=MAX_SEARCH_IMAGES, ge=1, le=MAX_SEARCH_IMAGES)
    test: Corruptions = Field(
        default=("shot_noise", "impulse_noise", "gaussian_blur", "contrast", "jpeg_compression", "resolution"),
        min_length=1,
    )
    test_severities: tuple[Severity, ...] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    held_out: Corruptions = Field(
        default=(), description="Test corruptions that no training and no search may ever see."
    )
    real: dict[str, str] = Field(
        default_factory=dict,
        description="Real noisy test images: name -> class folder or parquet file of the study's classes; relative "
        "paths count from the study file. Read where test is read, in figures of their own (no clean image pairs).",
    )
    allow_overlap: bool = Field(
        default=False, description="Let a corruption stand in two lists; the report marks it seen."
    )
    scale: Literal["nearest", "imagenet", "tiny", "cifar"] = "nearest"
    seed: int = Field(default=0, ge=0, description="Key of the evaluation noise; the same for all trials of a study.")

    @field_validator("validation", "test", "held_out")
    @classmethod
    def _names_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            _known(name, training=False)
        if len(set(names)) < len(names):
            raise ValueError(f"must not name a corruption twice, but got {list(names)}")
        return names

    @field_validator("real")
    @classmethod
    def _real_names_own(cls, real: dict[str, str]) -> dict[str, str]:
        for name, path in real.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
                raise ValueError(
                    f"must give each folder a name of letters, digits, '_' and '-', but got {name!r}; rename it"
                )
            if name in CORRUPTIONS or name in TRAINING_ONLY or name == "clean":
                raise ValueError(
                    f"must give each folder a name of its own, but {name!r} is Murk's own name of a corruption; "
                    f"call it otherwise, such as {name}_real"
                )
            if not path:
                raise ValueError(f"must give a folder or a parquet file to each name, but {name!r} has none")
        return real

    @field_validator("validation_severities", "test_severities")
    @classmethod
    def _severities_once(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(severities)) < len(severities):
            raise ValueError(f"must not name a severity twice, but got {list(severities)}")
        return severities

    @model_validator(mode="after")
    def _lists_apart(self) -> Self:
        train = {item.name for item in self.train or ()}
        total = sum(item.probability for item in self.train or ())
        if total > 1.0 + 1e-9:
            raise ValueError(f"train: probabilities must sum to at most 1, but sum to {total:g}")
        stray = set(self.held_out) - set(self.test)
        if stray:
            raise ValueError(f"held_out: {sorted(stray)} must also stand in test: held-out noise is what test reads")
        touched = set(self.held_out) & (train | set(self.validation))
        if touched:
            raise ValueError(f"held_out: {sorted(touched)} also stands in train or validation; take it out of one")
        if self.allow_overlap:
            return self
        lists = {"train": train, "validation": set(self.validation), "test": set(self.test)}
        for one, other in (("validation", "test"), ("train", "test"), ("train", "validation")):
            both = lists[one] & lists[other]
            if both:
                raise ValueError(
                    f"{sorted(both)} stands in both {one} and {other}; take it out of one, or set "
                    "noise.allow_overlap: true (the report then marks it seen)"
                )
        return self


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
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: int = Field(default=0, ge=0, description="Epochs of linear warm-up.")
    clip_norm: float | None = Field(
        default=None, gt=0.0, description="Greatest norm of the gradient of an update; left out: not clipped."
    )
    sam: SamConfig = SamConfig()


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


def _known_endpoint(text: str) -> str:
    kind, colon, names = text.partition(":")
    groups = [*dict.fromkeys(corruption.group for corruption in CORRUPTIONS.values())]
    if not (text in {"clean", "noise"} or (kind in {"group", "outside"} and colon)):
        raise ValueError(f"must be clean, noise, group:NAME or outside:NAME+NAME, but got {text!r}")
    for name in names.split("+") if kind == "outside" else [names] if colon else []:
        if name not in groups:
            near = difflib.get_close_matches(name, groups, n=3, cutoff=0.6)
            raise ValueError(
                f"must name a group of corruptions, but got {name!r}; "
                + (f"near: {', '.join(near)}" if near else f"there are {', '.join(groups)}")
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
        description="What contrasts are judged by, each a family of its own: clean, noise, group:NAME, outside:A+B.",
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
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

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
        if hasattr(self.method, "student_input"):
            self._student_noise_fits(str(getattr(self.method, "student_input", "")))
        if self.train.micro_batch is not None and not METHODS[self.method.name].decomposable:
            raise ValueError(
                f"train.micro_batch must be left out with method.name: {self.method.name}, whose loss compares the "
                "images of a batch with each other; lower train.batch_size to save memory"
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

    def _student_noise_fits(self, student_input: str) -> None:
        if student_input != "clean" and not self.noise.train:
            raise ValueError(
                f"method.student_input must be clean where no training noise is named, but got {student_input}; name "
                "some in noise.train, such as [pmal_pair]"
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
