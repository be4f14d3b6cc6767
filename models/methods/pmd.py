"""Progressive multi-task distilling: a frozen teacher's maps, stage by stage, then its logits, taught to a backbone.

While the share of epochs `distil_share` lasts, S + 1 updates of every batch; the first S are
    L_k = w_k * MSE(adapter_k(F_k(x_student)), resize(T_k(x_teacher)))      (MSE: mean over the map's values)
and the last one, with the teacher's vectors of logits t_j (S + 1 of a PMAL teacher, one of a plain one),
    L = w * sum_j D(student(x_student), t_j) + CE(student(x_student), y),    D: MSE, or T^2 KL at temperature T
After that L = CE(student(x_student), y) alone, and the teacher is not run.

The teacher is run once for a batch: all updates, slices and both passes of SAM see the same lesson. A weight of 0 takes
its update or its term out.

Source: arXiv 2401.14336; KL with temperature: arXiv 1503.02531. Departures: the paper's student is the teacher's
backbone; another one is matched from the deepest stage, a 1x1 convolution (dropped from the export) where the channels
differ, and the teacher's map is resized bilinearly where the sizes differ. A noisy student has one noise for a batch.
Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import StagedBackbone, check_backbone, create_backbone
from models.distillation.loss import wide
from models.losses import smoothed_cross_entropy, softened_divergence, squared_error
from models.methods.common import make_export, seeded, to_signed
from models.methods.cost import counted_once, gradient_passes, meta_batch, meta_copy
from models.methods.method import Batch, Context, Export, Lesson, LossSum, Objective, Sampler, Teacher, setting
from models.methods.student import BackboneStudent, Taught

LogitLoss = Literal["mse", "kl"]
StudentInput = Literal["clean", "noisy", "clean_then_noisy"]
TeacherInput = Literal["clean", "same"]

_TEMPERATURE = 4.0


@dataclass(frozen=True)
class PmdSettings:
    """PMD's settings; the defaults are the paper's, which has one backbone rate: `optim.backbone_lr_scale` 1."""

    stages: int = setting(3, ge=1, doc="how many of the last stages have an update that follows the teacher's")
    distil_share: float = setting(0.5, ge=0, le=1, doc="share of the epochs, from the first, that the teacher teaches")
    feature_weight: float = setting(
        100.0, ge=0, doc="weight of the maps' distance (the paper's 100 goes with optim.lr 0.002); 0: none"
    )
    stage_weights: tuple[float, ...] = setting(
        (), ge=0, doc="factors of feature_weight, one for each stage from the shallowest; left out: all 1"
    )
    logit_weight: float = setting(1.0, ge=0, doc="weight of the logits' distance beside the labels'")
    logit_loss: LogitLoss = setting("mse", doc="distance of the logits; the paper's is mse")  # noqa: RUF009
    temperature: float = setting(_TEMPERATURE, gt=0, doc="of kl, both softmaxes divided by it")
    student_input: StudentInput = setting(  # noqa: RUF009
        "clean",
        doc="noisy: the student sees training noise, in all epochs; clean_then_noisy: only when the teacher has left",
    )
    teacher_input: TeacherInput = setting(  # noqa: RUF009
        "clean", doc="what the teacher sees of a noisy student's images: the clean ones, or the same"
    )

    def __post_init__(self) -> None:
        if self.stage_weights and len(self.stage_weights) != self.stages:
            raise ValueError(
                f"stage_weights must be one number for each of the {self.stages} stages, but got "
                f"{list(self.stage_weights)}"
            )
        if self.logit_loss != "kl" and self.temperature != _TEMPERATURE:
            raise ValueError("temperature has no effect without logit_loss: kl; set that or leave temperature out")
        if self.student_input != "noisy" and self.teacher_input != "clean":
            raise ValueError("teacher_input has no effect without student_input: noisy; set that or leave it out")
        if self.student_input == "clean_then_noisy" and self.distil_share == 1:
            raise ValueError(
                "student_input must be clean or noisy with distil_share: 1, as the teacher never leaves, but got "
                "clean_then_noisy; lower distil_share"
            )

    def weight(self, stage: int) -> float:
        """Of an update of maps, from 0, the shallowest."""
        return self.feature_weight * (self.stage_weights[stage] if self.stage_weights else 1.0)


class PmdNetwork(Taught):
    """The student: a plain backbone, and while it learns an adapter for each stage whose channels differ."""

    def __init__(self, backbone: StagedBackbone, *, stages: int, teacher: Teacher | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.tapped = range(backbone.num_stages - stages, backbone.num_stages)
        own = backbone.channels[-stages:]
        wanted = own if teacher is None else teacher.backbone.channels[-stages:]
        self.adapters = nn.ModuleList(
            nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, kernel_size=1)
            for mine, theirs in zip(own, wanted, strict=True)
        )

    def adapted(self, images_BCHW: Tensor, stage: int) -> Tensor:
        """A stage's map (from 0, the shallowest that is tapped) with the teacher's channels, of [-1, 1] images."""
        return self.adapters[stage](self.backbone.forward_to(images_BCHW, self.tapped[stage]))

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """What a stage's update reaches: the stem to the stage, and its adapter."""
        return [*self.backbone.stage_parameters(self.tapped[stage]), *self.adapters[stage].parameters()]


class _Lessons:
    """The teacher's view of one batch, taken when a loss first asks, so that it runs under the losses' precision."""

    def __init__(self, teacher: Teacher, images_BCHW: Tensor, *, stages: int) -> None:
        self._teacher, self._images_BCHW, self._stages = teacher, images_BCHW, stages

    @cached_property
    def lesson(self) -> Lesson:
        network = self._teacher.network
        network.to(self._images_BCHW.device, self._images_BCHW.dtype).eval().requires_grad_(False)
        with torch.no_grad():
            return self._teacher.lesson(self._images_BCHW, stages=self._stages)


class Pmd(BackboneStudent[PmdNetwork]):
    """See the head of this file."""

    def __init__(self, context: Context, settings: PmdSettings) -> None:
        self._context = context
        self._settings = settings
        check_backbone(context.backbone, context.image_size, settings.stages)
        if context.teacher is not None:
            _check_teacher(context.teacher, context, settings)
        with seeded(context.seed):
            # The backbone first: of one seed, every method starts from the same backbone.
            backbone = create_backbone(
                context.backbone,
                num_classes=context.num_classes,
                image_size=context.image_size,
                pretrained=context.pretrained,
                frozen_batch_norm=context.frozen_batch_norm,
            )
            self.network = PmdNetwork(backbone, stages=settings.stages, teacher=context.teacher)

    def objectives(self, batch: Batch) -> Iterator[Objective]:
        """S updates of maps and one of logits while `batch.progress` is below `distil_share`, else one of labels.

        Raises:
            ValueError: The method was built without a teacher.
        """
        return self._objectives(self.network, self._teacher(), batch, self._context.sampler)

    def export(self) -> Export:
        """timm's own weights, and how timm builds the model."""
        settings = asdict(self._settings)
        return make_export(
            self.deployed, method="pmd", context=self._context, settings=settings, backbone=self.network.backbone
        )

    def passes_per_image(self) -> float:
        """Mean over the training: the updates of a batch and the teacher's one forward pass, then the labels' update.

        A driver that doubles it for SAM counts the teacher's pass twice: an upper bound by that one forward pass.
        """
        return self._passes

    @cached_property
    def _passes(self) -> float:
        epochs, taught = self._context.epochs, self._settings.distil_share
        if epochs is not None:
            taught = sum(epoch / epochs < taught for epoch in range(epochs)) / epochs
        facts = ("pmd", self.network, self._teacher().network, self._settings, self._context.image_size)
        early, late = (counted_once(*facts, at, count=partial(self._passes_at, at)) for at in (0.0, 1.0))
        return taught * early + (1 - taught) * late

    def _passes_at(self, progress: float) -> float:
        shapes, teacher = meta_copy(self.network), copy.deepcopy(self._teacher())
        teacher.network.to("meta")
        batch = replace(meta_batch(shapes, image_size=self._context.image_size), progress=progress)
        steps = self._objectives(shapes, teacher, batch, None)
        return gradient_passes(steps, backbone=shapes.backbone, batch=batch)

    def _teacher(self) -> Teacher:
        if self._context.teacher is None:
            raise ValueError("pmd must have a teacher to train, but was built without one; it can only predict")
        return self._context.teacher

    def _objectives(
        self, network: PmdNetwork, teacher: Teacher, batch: Batch, sampler: Sampler | None
    ) -> Iterator[Objective]:
        settings = self._settings
        seen_BCHW, shown_BCHW = self._views(batch, sampler)
        whole = list(network.backbone.parameters())
        if batch.progress >= settings.distil_share:
            loss = partial(self._label_loss, network, seen_BCHW, batch.labels_B)
            yield Objective(name="classify", parameters=whole, loss=loss)
            return
        lessons = _Lessons(teacher, shown_BCHW, stages=settings.stages)
        for stage in range(settings.stages):
            if settings.weight(stage) > 0:
                loss = partial(self._feature_loss, network, stage, seen_BCHW, lessons)
                yield Objective(name=f"stage{stage + 1}", parameters=network.parameters_of(stage), loss=loss)
        loss = partial(self._logit_loss, network, seen_BCHW, batch.labels_B, lessons)
        yield Objective(name="distil", parameters=whole, loss=loss)

    def _views(self, batch: Batch, sampler: Sampler | None) -> tuple[Tensor, Tensor]:
        """What the student sees in [-1, 1] and what the teacher is shown in [0, 1], both of the same cut and place."""
        kind, taught = self._settings.student_input, batch.progress < self._settings.distil_share
        if kind == "clean" or (kind == "clean_then_noisy" and taught) or sampler is None:
            return to_signed(batch.images_BCHW), batch.images_BCHW
        pair = sampler(batch.images_BCHW, batch.keys_B, draw=0, level=batch.noise_level)
        shown_BCHW = pair.target_BCHW if self._settings.teacher_input == "clean" else pair.input_BCHW
        return to_signed(pair.input_BCHW), shown_BCHW

    def _feature_loss(
        self, network: PmdNetwork, stage: int, images_BCHW: Tensor, lessons: _Lessons, part: slice
    ) -> LossSum:
        adapted_BCHW = wide(network.adapted(images_BCHW[part], stage))
        target_BCHW = wide(lessons.lesson.features[stage][part])
        if target_BCHW.shape[2:] != adapted_BCHW.shape[2:]:
            target_BCHW = F.interpolate(
                target_BCHW, size=adapted_BCHW.shape[2:], mode="bilinear", align_corners=False, antialias=False
            )
        losses_B = self._settings.weight(stage) * squared_error(adapted_BCHW, target_BCHW)
        return LossSum(losses_B.sum(), len(losses_B))

    def _logit_loss(
        self, network: PmdNetwork, images_BCHW: Tensor, labels_B: Tensor, lessons: _Lessons, part: slice
    ) -> LossSum:
        logits_BN = wide(network.backbone.logits(images_BCHW[part]))
        losses_B = self._entropy(logits_BN, labels_B[part])
        for target_BN in lessons.lesson.logits:
            losses_B = losses_B + self._settings.logit_weight * self._distance(logits_BN, wide(target_BN[part]))
        return LossSum(losses_B.sum(), len(losses_B))

    def _label_loss(self, network: PmdNetwork, images_BCHW: Tensor, labels_B: Tensor, part: slice) -> LossSum:
        losses_B = self._entropy(network.backbone.logits(images_BCHW[part]), labels_B[part])
        return LossSum(losses_B.sum(), len(losses_B))

    def _distance(self, logits_BN: Tensor, target_BN: Tensor) -> Tensor:
        if self._settings.logit_loss == "mse":
            return squared_error(logits_BN, target_BN)
        return softened_divergence(logits_BN, target_BN, temperature=self._settings.temperature)

    def _entropy(self, logits_BN: Tensor, labels_B: Tensor) -> Tensor:
        return smoothed_cross_entropy(logits_BN, labels_B, smoothing=self._context.label_smoothing)


def _check_teacher(teacher: Teacher, context: Context, settings: PmdSettings) -> None:
    if teacher.backbone.num_stages < settings.stages:
        raise ValueError(
            f"stages must be at most {teacher.backbone.num_stages}, which the teacher's backbone has, but got "
            f"{settings.stages}"
        )
    classes = int(teacher.backbone.model.num_classes)
    if classes != context.num_classes:
        raise ValueError(f"the teacher must know the {context.num_classes} classes of the images, but knows {classes}")
