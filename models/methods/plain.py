"""Plain training: one update of the backbone by cross entropy, on noisy images when there is a sampler.

With a tuned sampler this is the baseline that every other method has to beat.
Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from models.backbones import StagedBackbone, create_backbone
from models.distillation.loss import View
from models.losses import smoothed_cross_entropy
from models.methods.common import FromUnit, backbone_view, make_export, parameter_groups, seeded, signed_pair, to_signed
from models.methods.cost import counted_once, gradient_passes, meta_batch, meta_copy
from models.methods.method import Batch, Context, Export, Lesson, LossSum, Objective, Sampler


@dataclass(frozen=True)
class PlainSettings:
    """Plain training has no settings of its own; its noise is the study's."""


class Plain:
    """A timm backbone and its classifier."""

    def __init__(self, context: Context, settings: PlainSettings) -> None:
        self._context = context
        self._settings = settings
        with seeded(context.seed):
            self.network: StagedBackbone = create_backbone(
                context.backbone,
                num_classes=context.num_classes,
                image_size=context.image_size,
                pretrained=context.pretrained,
                frozen_batch_norm=context.frozen_batch_norm,
            )

    @property
    def deployed(self) -> nn.Module:
        """The timm model itself, so that its exported weights load without Murk."""
        return self.network.model

    @property
    def backbone(self) -> StagedBackbone:
        """The network itself."""
        return self.network

    def objectives(self, batch: Batch) -> Iterator[Objective]:
        """One update of everything."""
        return self._objectives(self.network, batch, self._context.sampler)

    @torch.no_grad()
    def predict(self, images_BCHW: Tensor) -> Tensor:
        """logits_BN of images in [0, 1]."""
        return self.network.logits(to_signed(images_BCHW))

    def predictor(self) -> nn.Module:
        """The backbone."""
        return FromUnit(self.network)

    def lesson(self, images_BCHW: Tensor, *, stages: int) -> Lesson:
        """Maps of the last stages and the logits_BN of images in [0, 1]."""
        wanted = range(self.network.num_stages - stages, self.network.num_stages)
        features, logits_BN = self.network.forward_all(to_signed(images_BCHW), wanted)
        return Lesson(features, [logits_BN])

    def view(self, images_BCHW: Tensor) -> View:
        """The backbone's own."""
        return backbone_view(self.network, to_signed(images_BCHW))

    def restore(self, images_BCHW: Tensor) -> Tensor | None:  # noqa: ARG002
        """None: plain training restores no images."""
        return None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone, and its classifier as "heads"."""
        return parameter_groups(self.network, backbone=self.network)

    def export(self) -> Export:
        """timm's own weights, and how timm builds the model."""
        settings = asdict(self._settings)
        return make_export(
            self.deployed, method="plain", context=self._context, settings=settings, backbone=self.network
        )

    def passes_per_image(self) -> float:
        """1: the unit that other methods are measured in."""
        return self._passes

    @cached_property
    def _passes(self) -> float:
        return counted_once("plain", self.network, self._context.image_size, count=self._count)

    def _count(self) -> float:
        shapes = meta_copy(self.network)
        batch = meta_batch(shapes, image_size=self._context.image_size)
        return gradient_passes(self._objectives(shapes, batch, None), backbone=shapes, batch=batch)

    def _objectives(self, network: StagedBackbone, batch: Batch, sampler: Sampler | None) -> Iterator[Objective]:
        _, input_BCHW = signed_pair(sampler, batch, draw=0)

        def loss(part: slice) -> LossSum:
            logits_BN = network.logits(input_BCHW[part])
            losses_B = smoothed_cross_entropy(logits_BN, batch.labels_B[part], smoothing=self._context.label_smoothing)
            return LossSum(losses_B.sum(), len(losses_B))

        yield Objective(name="classify", parameters=list(network.parameters()), loss=loss)
