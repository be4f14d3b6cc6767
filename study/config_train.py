"""The model, optim and train sections of a study file: the network, its optimiser with SAM, how long it trains."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.batchnorm import BatchNorm
from study.config_data import Section
from study.config_noise import Probability


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

    name: Literal["sgd", "adamw"] = Field(default="sgd", description="The base optimiser, which SAM stands around.")
    lr: float = Field(default=0.05, gt=0.0, le=10.0, description="Learning rate of heads and classifier at the start.")
    backbone_lr_scale: float = Field(default=1.0, gt=0.0, le=1.0, description="The backbone learns at lr times this.")
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0, description="SGD's momentum, AdamW's beta1.")
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0, description="The optimiser's; no part of SAM's ascent.")
    schedule: Literal["cosine", "constant", "step"] = Field(
        default="cosine", description="How the rate falls: to 0 along a cosine, not at all, or in steps."
    )
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

    epochs: int = Field(default=10, ge=1, le=100_000, description="How often each training image is seen.")
    budget: BudgetConfig | None = Field(default=None, description="In place of epochs: gradient passes to spend.")
    batch_size: int = Field(default=64, ge=2, le=65_536, description="Images of one update, over all workers.")
    eval_batch_size: int = Field(
        default=256, ge=1, le=65_536, description="Images of one forward pass in validation and test."
    )
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
