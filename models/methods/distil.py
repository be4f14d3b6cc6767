"""Distillation: one update of a plain backbone by its labels and by any weighted sum of losses to a frozen teacher.

    L = label_weight * CE(student(x), y) + sum_l w_l * L_l(student(x), teacher(x'))

x is what training shows of an image (noise, a lower resolution), x' the same cut of it as it was, or with
`teacher_input: same` just what the student sees. The teacher is run once for a batch, in evaluation mode: all slices
and both passes of SAM see the same view. What losses learn by (adapters, regressors, embeddings, memory banks) trains
and is checkpointed with the student and is gone from the export.

Losses that compare the images of a batch compare those of one worker, or with `gather` those of all workers, with the
gradient of the whole batch's loss. They cannot be taken apart into micro-batches.

Source: each loss's own module under models/distillation; the weights and the recipe of the public benchmark of CRD's
authors (arXiv 1910.10699).
Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, make_dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from models.backbones import StagedBackbone, check_backbone, create_backbone
from models.distillation.gather import Crowd, crowd_of, gathered
from models.distillation.loss import DistillationLoss, Facts, RelationalLoss, Sample, Shape, View, wide
from models.distillation.registry import LOSSES, LossSettings
from models.losses import smoothed_cross_entropy
from models.methods.common import backbone_view, make_export, seeded, to_signed
from models.methods.cost import counted_once, gradient_passes, meta_batch, meta_copy
from models.methods.method import Batch, Context, Export, LossSum, Objective, Viewed, setting
from models.methods.student import BackboneStudent, Taught

TeacherInput = Literal["clean", "same"]
Start = Literal["new", "teacher"]

if TYPE_CHECKING:

    @dataclass(frozen=True)
    class LossWeights:
        """A field for each loss, whose names are known when it runs."""

        def __init__(self, **weights: float) -> None: ...

else:
    LossWeights = make_dataclass(
        "LossWeights",
        [(name, float, setting(0.0, ge=0, doc=f"{spec.doc}; published weight {spec.weight:g}; 0: none"))
         for name, spec in LOSSES.items()],
        frozen=True,
    )  # fmt: skip
    LossWeights.__doc__ = "Weight of each loss to the teacher; what is left out is not there."


@dataclass(frozen=True)
class DistilSettings(LossSettings):
    """Settings of distillation by losses that are named."""

    losses: LossWeights = setting(  # noqa: RUF009
        LossWeights(), doc="weight of each loss to the teacher, such as {kd: 0.9, rkd: 1.0}"
    )
    label_weight: float = setting(1.0, ge=0, doc="weight of the labels' cross entropy; beside kd: 0.9 published as 0.1")
    teacher_input: TeacherInput = setting(  # noqa: RUF009
        "clean", doc="what the teacher sees: the image as it was, or the same as the student"
    )
    start: Start = setting(  # noqa: RUF009
        "new", doc="initial weights: model.pretrained or random ones, or those of a teacher of the same backbone"
    )
    gather: bool = setting(False, doc="several workers: losses between images compare those of all workers")

    def __post_init__(self) -> None:
        if isinstance(self.losses, Mapping):
            object.__setattr__(self, "losses", LossWeights(**cast("Mapping[str, float]", self.losses)))
        check_losses(self, self.weights())
        if not self.weights():
            raise ValueError(
                f"losses must give one or more a weight above 0, such as {{kd: 0.9}}, but none has one; there are "
                f"{', '.join(LOSSES)}"
            )

    def weights(self) -> dict[str, float]:
        """Of the losses that are there."""
        return {name: weight for name, weight in asdict(self.losses).items() if weight > 0}

    @property
    def decomposable(self) -> bool:
        """Whether no loss compares the images of a batch."""
        return not any(LOSSES[name].relational for name in self.weights())


def check_losses(settings: LossSettings, weights: Mapping[str, float]) -> None:
    """Refuse settings of losses that are not there, and gathering where nothing is compared.

    Raises:
        ValueError: the text starts with the name of the setting.
    """
    for item in fields(LossSettings):
        owner = next(name for name in sorted(LOSSES, key=len, reverse=True) if item.name.startswith(f"{name}_"))
        if getattr(settings, item.name) != item.default and owner not in weights:
            raise ValueError(
                f"{item.name} has no effect without {owner} among the losses; give that a weight or take this out"
            )
    if getattr(settings, "gather", False) and not any(LOSSES[name].relational for name in weights):
        raise ValueError("gather has no effect, as no loss here compares images with each other; leave it out")


class StudentNetwork(Taught):
    """The student's backbone, and what its losses learn by."""

    def __init__(self, backbone: StagedBackbone, losses: Mapping[str, DistillationLoss]) -> None:
        super().__init__()
        self.backbone = backbone
        self.losses = nn.ModuleDict(losses)


class _Shown:
    """The teacher's view of one batch, taken when a loss first asks, so that it runs under the losses' precision."""

    def __init__(self, teacher: Viewed, images_BCHW: Tensor) -> None:
        self._teacher, self._images_BCHW = teacher, images_BCHW

    @cached_property
    def view(self) -> View:
        network = self._teacher.network
        network.to(self._images_BCHW.device, self._images_BCHW.dtype).eval().requires_grad_(False)
        with torch.no_grad():
            return self._teacher.view(self._images_BCHW)


class Distil(BackboneStudent[StudentNetwork]):
    """See the head of this file."""

    name = "distil"

    def __init__(self, context: Context, settings: DistilSettings) -> None:
        self._context = context
        self._settings = settings
        self._weights = settings.weights()
        side = context.input_size or context.image_size
        check_backbone(context.backbone, side)
        with seeded(context.seed):
            # The backbone first: of one seed, every method starts from the same backbone.
            backbone = create_backbone(
                context.backbone,
                num_classes=context.num_classes,
                image_size=side,
                pretrained=context.pretrained,
                frozen_batch_norm=context.frozen_batch_norm,
            )
            if settings.start == "teacher" and context.teacher is not None:
                _start_from(backbone, context.teacher.backbone)
            losses = {} if context.teacher is None else self._build_losses(backbone)
        self.network = StudentNetwork(backbone, losses)

    def objectives(self, batch: Batch) -> Iterator[Objective]:
        """One update of the student and of what its losses learn by.

        Raises:
            ValueError: The method was built without a teacher.
        """
        seen_BCHW = batch.images_BCHW
        if self._context.sampler is not None:
            pair = self._context.sampler(batch.images_BCHW, batch.keys_B, draw=0, level=batch.noise_level)
            seen_BCHW = pair.input_BCHW
        return self._steps(self.network, self._sources(), batch, seen_BCHW)

    def export(self) -> Export:
        """timm's own weights, and how timm builds the model."""
        return make_export(
            self.deployed, method=self.name, context=self._context, settings=asdict(self._settings),
            backbone=self.network.backbone,
        )  # fmt: skip

    def passes_per_image(self) -> float:
        """The student's pass, its losses' and the teacher's forward pass, with the student's own as unit.

        A driver that doubles it for SAM counts the teacher's pass twice: an upper bound by that one forward pass.
        """
        return self._passes

    @cached_property
    def _passes(self) -> float:
        context = self._context
        teachers = [(teacher.network, factor) for teacher, factor in self._sources().values()]
        sizes = (context.image_size, context.input_size)
        return counted_once(self.name, self.network, teachers, self._settings, sizes, count=self._count)

    def _count(self) -> float:
        context, shapes = self._context, meta_copy(self.network)
        sources = {}
        for prefix, (teacher, factor) in self._sources().items():
            sources[prefix] = copy.deepcopy(teacher), factor
            sources[prefix][0].network.to("meta")
        large = meta_batch(shapes, image_size=context.image_size)
        small = meta_batch(shapes, image_size=context.input_size or context.image_size)
        steps = self._steps(shapes, sources, large, small.images_BCHW)
        return gradient_passes(steps, backbone=shapes.backbone, batch=small)

    def _sources(self) -> dict[str, tuple[Viewed, float]]:
        """Who teaches and by what factor, under the prefix of its losses' names."""
        if self._context.teacher is None:
            raise ValueError(
                f"{self.name} must have a teacher to train, but was built without one; it can only predict"
            )
        return {"": (_viewed(self._context.teacher), 1.0)}

    def _build_losses(self, backbone: StagedBackbone) -> dict[str, DistillationLoss]:
        context = self._context
        side = context.input_size or context.image_size
        own, losses = _shape(backbone, side), {}
        for prefix, (teacher, _) in self._sources().items():
            classes = int(teacher.backbone.model.num_classes)
            if classes != context.num_classes:
                raise ValueError(
                    f"the teacher must know the {context.num_classes} classes of the images, but knows {classes}"
                )
            shown = context.image_size if self._settings.teacher_input == "clean" else side
            facts = Facts(own, _shape(teacher.backbone, shown), context.num_classes, context.train_labels)
            losses |= {f"{prefix}{name}": LOSSES[name].build(facts, self._settings) for name in self._weights}
        return losses

    def _steps(
        self, network: StudentNetwork, sources: Mapping[str, tuple[Viewed, float]], batch: Batch, seen_BCHW: Tensor
    ) -> Iterator[Objective]:
        shown_BCHW = batch.images_BCHW if self._settings.teacher_input == "clean" else seen_BCHW
        shown = {prefix: (_Shown(teacher, shown_BCHW), factor) for prefix, (teacher, factor) in sources.items()}
        loss = partial(self._loss, network, shown, to_signed(seen_BCHW), self._sample(batch))
        yield Objective(
            name="distil", parameters=list(network.parameters()), loss=loss, decomposable=self._settings.decomposable
        )
        for module in network.losses.values():
            cast("DistillationLoss", module).commit()

    def _loss(
        self,
        network: StudentNetwork,
        shown: Mapping[str, tuple[_Shown, float]],
        seen_BCHW: Tensor,
        sample: Sample,
        part: slice,
    ) -> LossSum:
        student, own = backbone_view(network.backbone, seen_BCHW[part]), _sample_rows(sample, part)
        count = len(own.labels_B)
        smoothing = self._context.label_smoothing
        entropy_B = smoothed_cross_entropy(wide(student.logits_BN), own.labels_B, smoothing=smoothing)
        total = self._settings.label_weight * entropy_B.sum()
        crowd = crowd_of(count, own.labels_B.device) if self._settings.gather else None
        for prefix, (seen, factor) in shown.items():
            teacher = _view_rows(seen.view, part)
            for name, weight in self._weights.items():
                module = cast("DistillationLoss", network.losses[f"{prefix}{name}"])
                total = total + factor * weight * count * self._value(module, student, teacher, own, crowd)
        return LossSum(total, count)

    def _value(
        self, module: DistillationLoss, student: View, teacher: View, sample: Sample, crowd: Crowd | None
    ) -> Tensor:
        """A loss of this worker's images, or of all workers' where it compares images and those are gathered."""
        if crowd is None or not isinstance(module, RelationalLoss):
            return module(student, teacher, sample)
        ours, theirs = module.parts(student, teacher)
        return module.compare(gathered(ours, crowd), gathered(theirs, crowd))

    def _sample(self, batch: Batch) -> Sample:
        """Rows in the training set by the images' ids; by the batch's order where only shapes or times are asked."""
        device = batch.labels_B.device
        if self._sorted_ids is None or batch.ids_B is None:
            rows_B = torch.arange(len(batch), device=device)
        else:
            ids, order = self._sorted_ids
            rows_B = order[torch.searchsorted(ids, batch.ids_B)].to(device, non_blocking=True)
        return Sample(batch.labels_B, rows_B, batch.keys_B, batch.progress)

    @cached_property
    def _sorted_ids(self) -> tuple[Tensor, Tensor] | None:
        if self._context.train_ids is None:
            return None
        ids, order = torch.sort(self._context.train_ids)
        return ids, order


def _viewed(teacher: object) -> Viewed:
    if not isinstance(teacher, Viewed):
        raise ValueError("the teacher must show its maps, embedding and logits, but its method has no view")
    return teacher


def _view_rows(view: View, part: slice) -> View:
    return View(
        tuple(values[part] for values in view.maps), view.embedding_BD[part], view.logits_BN[part], view.classifier_ND
    )


def _sample_rows(sample: Sample, part: slice) -> Sample:
    return Sample(sample.labels_B[part], sample.rows_B[part], sample.keys_B[part], sample.progress)


def _shape(backbone: StagedBackbone, side: int) -> Shape:
    """Of a backbone's views of images of that side, by shapes alone."""
    shapes = meta_copy(backbone).eval()
    with torch.no_grad():
        maps, embedding_BD, _ = shapes.look(meta_batch(shapes, image_size=side).images_BCHW, range(backbone.num_stages))
    return Shape(tuple((one.shape[1], one.shape[2], one.shape[3]) for one in maps), embedding_BD.shape[1])


def _start_from(backbone: StagedBackbone, teacher: StagedBackbone) -> None:
    own, given = backbone.model.state_dict(), teacher.model.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
        raise ValueError(
            "start: teacher needs a teacher of the student's own backbone, whose weights it begins with, but theirs "
            "differ; take start: new, or that backbone"
        )
    backbone.model.load_state_dict(given)
