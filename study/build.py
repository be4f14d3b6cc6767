"""From a trial's settings to its parts: the method with initial weights, what training shows, the loop's settings."""

from __future__ import annotations

import numpy as np
import torch

from models.methods.method import Context, Method, Sampler, Teacher
from models.methods.registry import METHODS
from models.sam import SamSettings
from noise.low_resolution import Lens, LowResolution
from noise.training import NoiseType, TrainingNoise
from study.config import TrialConfig
from study.config_method import method_settings
from study.data.image_set import ImageSet
from study.loop import LoopSettings


def build_method(
    config: TrialConfig,
    *,
    num_classes: int,
    teacher: Teacher | None = None,
    direct_teacher: Teacher | None = None,
    train: ImageSet | None = None,
) -> Method:
    """The method that a config names, with initial weights from the training seed.

    Args:
        teacher, direct_teacher: Of a method that has them; without a teacher such a method can only predict.
        train: The images it is to train on; left out where it is only to predict or to be timed.
    """
    spec = METHODS[config.method.name]
    context = Context(
        backbone=config.model.backbone,
        num_classes=num_classes,
        image_size=config.data.image_size,
        pretrained=config.model.pretrained,
        input_size=config.resolution.input_size(config.data.image_size),
        sampler=training_sampler(config),
        label_smoothing=config.train.label_smoothing,
        seed=config.train.seed,
        epochs=None if config.train.budget else config.train.epochs,
        teacher=teacher,
        direct_teacher=direct_teacher,
        train_ids=None if train is None else torch.from_numpy(np.array(train.ids)),
        train_labels=None if train is None else torch.from_numpy(np.array(train.labels)),
        frozen_batch_norm=config.model.batch_norm == "frozen",
    )
    return spec.build(context, method_settings(config.method))


def training_sampler(config: TrialConfig) -> Sampler | None:
    """What training shows of images: noise, a lower resolution or both; None for the images as they are."""
    types = [NoiseType(item.name, item.severities, item.probability, item.strength) for item in config.training_noise()]
    noise = TrainingNoise(types, scale=config.noise.scale) if types else None
    return low_resolution(config, noise) or noise


def low_resolution(config: TrialConfig, noise: TrainingNoise | None = None) -> LowResolution | None:
    """The lower resolution that training has, with noise at that size; None where it has none."""
    asked = config.resolution
    if not asked.train:
        return None
    return LowResolution(asked.train, lens=Lens(asked.kernel, small=asked.view == "small"), noise=noise)


def loop_settings(config: TrialConfig, device: torch.device) -> LoopSettings:
    """The loop's plain settings from a config; `precision: auto` resolved for the device."""
    optim, train, curriculum = config.optim, config.train, config.noise.curriculum
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if train.precision == "bf16" and device.type == "cuda" and not has_bf16:
        raise ValueError("train.precision: bf16 is not supported by this GPU; use auto or float32")
    return LoopSettings(
        epochs=train.epochs,
        batch_size=train.batch_size,
        seed=train.seed,
        optimizer=optim.name,
        lr=optim.lr,
        backbone_lr_scale=optim.backbone_lr_scale,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        schedule=optim.schedule,
        step_at=optim.step_at,
        step_factor=optim.step_factor,
        warmup_epochs=optim.warmup_epochs,
        sam=SamSettings(**optim.sam.model_dump()),
        clip_norm=optim.clip_norm,
        micro_batch=train.micro_batch,
        crop_padding=train.augment.crop_padding,
        flip=train.augment.flip,
        colour=train.augment.colour,
        checkpoint_every_steps=train.checkpoint_every_steps,
        curriculum_start=curriculum.start if curriculum else 1.0,
        curriculum_epochs=curriculum.epochs if curriculum else 0,
        budget_passes=train.budget.passes if train.budget else None,
        budget_per_image=train.budget.passes_per_image if train.budget else None,
        bf16=train.precision == "bf16" or (train.precision == "auto" and has_bf16),
    )
