"""Progressive multi-task anti-noise learning: S + 1 updates of every batch, shallow to deep.

Update k = 1..S reaches one stage more than the one before, and learns to recognise a noisy image, to restore it, and
to recognise what it restored:
    z_k = decoder_k(x_noisy, F_k(x_noisy))
    L_k = CE(head_k(F_k(x_noisy)), y) + alpha * restoration(z_k, x_target) + beta * CE(head_k(F_k(z_k)), y)
Update S + 1 teaches all classifiers on the clean batch:
    L_{S+1} = sum_k CE(head_k(F_k(x)), y) + 2 * CE(classifier(x), y)

The paper's order is shallow to deep, with alpha = beta = 1. For the ablations of "progressive" there are deep to
shallow (S + 1, S, .., 1), joint (one update by the sum of all losses, the S noisy pairs drawn as before), and joint
repeated (S + 1 such updates, each with S fresh pairs). With alpha = beta = 0 nothing is restored and no decoder built:
what is left are noisy views and heads.

Source: arXiv 2401.14336. Departures: a forward pass stops at the stage of its update, so deeper batch statistics see
only the passes that reach them; the decoders of other strides and sizes (models/heads.py).
Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn

from models.backbones import StagedBackbone, check_backbone, create_backbone
from models.distillation.loss import View
from models.heads import DenoisingHead, LastActivation, RecognitionHead
from models.losses import RESTORATION_LOSSES, RestorationLoss, smoothed_cross_entropy
from models.methods.common import (
    FromUnit,
    backbone_view,
    from_signed,
    make_export,
    parameter_groups,
    seeded,
    signed_pair,
    to_signed,
)
from models.methods.cost import counted_once, forward_macs, gradient_passes, meta_batch, meta_copy
from models.methods.method import (
    SUM,
    Batch,
    Context,
    Export,
    HeadCost,
    Lesson,
    LossSum,
    Objective,
    Sampler,
    setting,
)

Order = Literal["shallow_to_deep", "deep_to_shallow", "joint", "joint_repeated"]

_CLASSIFIER_WEIGHT = 2  # of the backbone's own classifier in the clean loss


@dataclass(frozen=True)
class PmalSettings:
    """PMAL's settings. The default widths are the paper's, made for 448 px on a GPU.

    Pilots at 32 px on a CPU do with head_widths (32, 64), classifier_width 32 and decoder_widths (32, 16, 16).
    """

    stages: int = setting(3, ge=1, doc="how many of the backbone's last stages, up to all, have a head and an update")
    head_widths: tuple[int, int] = setting(
        (512, 1024), ge=1, doc="channels of a recognition head's 1x1 and 3x3 convolution"
    )
    classifier_width: int = setting(512, ge=1, doc="width between the two linear layers of a recognition head")
    decoder_widths: tuple[int, int, int] = setting(
        (256, 128, 64),
        ge=4,
        multiple_of=4,
        doc="channels of a decoder's steps from an eighth of the image up; multiples of 4",
    )
    order: Order = setting(  # noqa: RUF009
        "shallow_to_deep",
        doc="of a batch's updates; joint: one update by all losses; joint_repeated: S + 1 of those on fresh noise",
    )
    alpha: float = setting(1.0, ge=0, doc="weight of the restoration loss")
    restored_weight: float = setting(
        1.0, ge=0, doc="weight of recognising the restored image; 0 here and in alpha: no decoders"
    )
    restoration_loss: RestorationLoss = setting(  # noqa: RUF009
        "charbonnier", doc="distance of the restored image to its target"
    )
    last_activation: LastActivation = setting(  # noqa: RUF009
        "leaky_relu", doc="after a decoder's last convolutions; the paper's leaky_relu shrinks dark values"
    )
    detach_restored: bool = setting(
        False, doc="stop the gradient between the restored image and its recognition; the paper lets it flow"
    )

    def __post_init__(self) -> None:
        if self.detach_restored and self.restored_weight == 0:
            raise ValueError("detach_restored has no effect with restored_weight: 0; leave it out")
        if self.detach_restored and self.alpha == 0:
            raise ValueError("detach_restored must be false with alpha: 0, or nothing trains the decoders; set alpha")

    @property
    def restores(self) -> bool:
        """Whether a loss asks for restored images, so that there are decoders."""
        return self.alpha > 0 or self.restored_weight > 0


class PmalNetwork(nn.Module):
    """A backbone with a recognition head and a decoder on each of its last stages."""

    def __init__(self, backbone: StagedBackbone, *, num_classes: int, settings: PmalSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self.tapped = range(backbone.num_stages - settings.stages, backbone.num_stages)
        self.heads = nn.ModuleList(
            RecognitionHead(
                backbone.channels[stage],
                num_classes=num_classes,
                conv_widths=settings.head_widths,
                classifier_width=settings.classifier_width,
            )
            for stage in self.tapped
        )
        self.decoders = nn.ModuleList(
            DenoisingHead(
                backbone.channels[stage],
                stride=backbone.strides[stage],
                widths=settings.decoder_widths,
                last_activation=settings.last_activation,
            )
            for stage in (self.tapped if settings.restores else ())
        )

    def feature(self, images_BCHW: Tensor, head: int) -> Tensor:
        """The feature map that a head (from 0, the shallowest) works on."""
        return self.backbone.forward_to(images_BCHW, self.tapped[head])

    def exit_logits(self, images_BCHW: Tensor, head: int) -> Tensor:
        """logits_BN of one head alone, from a pass that goes no deeper."""
        return self.heads[head](self.feature(images_BCHW, head))

    def restore(self, images_BCHW: Tensor, head: int) -> tuple[Tensor, Tensor]:
        """A head's feature map and its restoration of the images, in [-1, 1]."""
        feature_BCHW = self.feature(images_BCHW, head)
        return feature_BCHW, self.decoders[head](feature_BCHW, images_BCHW)

    def all_logits(self, images_BCHW: Tensor) -> list[Tensor]:
        """logits_BN of every head, then of the backbone's classifier, in one pass."""
        return self.look(images_BCHW, stages=len(self.tapped)).logits

    def look(self, images_BCHW: Tensor, *, stages: int) -> Lesson:
        """Maps of the last `stages`, which may be more or fewer than have a head, and all logits, in one pass."""
        deepest = self.backbone.num_stages
        reached = range(min(deepest - stages, self.tapped.start), deepest)
        features, logits_BN = self.backbone.forward_all(images_BCHW, reached)
        tapped = features[len(reached) - len(self.tapped) :]
        heads = [head(feature_BCHW) for head, feature_BCHW in zip(self.heads, tapped, strict=True)]
        return Lesson(features[len(reached) - stages :], [*heads, logits_BN])

    def view(self, images_BCHW: Tensor) -> View:
        """All maps, the backbone's embedding and the summed logits, in one pass."""
        found = backbone_view(self.backbone, images_BCHW)
        tapped = zip(self.heads, (found.maps[stage] for stage in self.tapped), strict=True)
        logits = [head(feature_BCHW) for head, feature_BCHW in tapped]
        return found._replace(logits_BN=torch.stack([*logits, found.logits_BN]).sum(0))

    def parameters_of(self, head: int) -> list[nn.Parameter]:
        """What a head's update reaches: the stem to its stage, itself and its decoder."""
        reached = self.backbone.stage_parameters(self.tapped[head])
        decoder = self.decoders[head].parameters() if len(self.decoders) else ()
        return [*reached, *self.heads[head].parameters(), *decoder]


class _Vote(nn.Module):
    """The sum of all logits_BN of images in [-1, 1]: the network without its decoders, of the same weights."""

    def __init__(self, network: PmalNetwork) -> None:
        super().__init__()
        self.backbone, self.heads, self.tapped = network.backbone, network.heads, network.tapped

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features, logits_BN = self.backbone.forward_all(images_BCHW, self.tapped)
        for head, feature_BCHW in zip(self.heads, features, strict=True):
            logits_BN = logits_BN + head(feature_BCHW)
        return logits_BN


class Pmal:
    """See the head of this file."""

    def __init__(self, context: Context, settings: PmalSettings) -> None:
        self._context = context
        self._settings = settings
        check_backbone(context.backbone, context.image_size, settings.stages)
        with seeded(context.seed):
            # The backbone first: of one seed, every method starts from the same backbone.
            backbone = create_backbone(
                context.backbone,
                num_classes=context.num_classes,
                image_size=context.image_size,
                pretrained=context.pretrained,
                frozen_batch_norm=context.frozen_batch_norm,
            )
            self.network = PmalNetwork(backbone, num_classes=context.num_classes, settings=settings)

    @property
    def deployed(self) -> nn.Module:
        """The whole network; the weights under "decoders." are not needed for a prediction."""
        return self.network

    @property
    def backbone(self) -> StagedBackbone:
        """The backbone below the heads."""
        return self.network.backbone

    def objectives(self, batch: Batch) -> Iterator[Objective]:
        """S noisy updates, each with a pair of its own, and the clean one; or those that `order` makes of them.

        Without a sampler an image is its own input and target, the arm without noise.
        """
        return self._objectives(self.network, batch, self._context.sampler)

    @torch.no_grad()
    def predict(self, images_BCHW: Tensor) -> Tensor:
        """The sum of the S + 1 classifiers' logits_BN of images in [0, 1]."""
        return self.heads(images_BCHW)[SUM]

    @torch.no_grad()
    def heads(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """logits_BN of every head alone, of the backbone's classifier and of their sum, in one pass."""
        all_logits = self.network.all_logits(to_signed(images_BCHW))
        return {**dict(zip(self._head_names(), all_logits, strict=True)), SUM: torch.stack(all_logits).sum(0)}

    def head_costs(self) -> dict[str, HeadCost]:
        """Of each head as an early exit: the stem to its stage and itself; counted from shapes alone."""
        shapes = meta_copy(self.network).eval()
        images_BCHW = meta_batch(shapes, image_size=self._context.image_size).images_BCHW[:1]
        backbone, heads = shapes.backbone, shapes.heads
        forwards = [partial(shapes.exit_logits, head=head) for head in range(len(heads))]
        reached = [
            [*backbone.stage_parameters(stage), *head.parameters()]
            for stage, head in zip(shapes.tapped, heads, strict=True)
        ]
        every = [*backbone.parameters(), *heads.parameters()]
        parts = zip(
            [*self._head_names(), SUM],
            [*forwards, backbone.logits, shapes.all_logits],
            [*reached, list(backbone.parameters()), every],
            strict=True,
        )
        return {
            name: HeadCost(sum(parameter.numel() for parameter in parameters), forward_macs(forward, images_BCHW))
            for name, forward, parameters in parts
        }

    def _head_names(self) -> list[str]:
        return [*(f"stage{head + 1}" for head in range(len(self.network.heads))), "backbone"]

    def predictor(self) -> nn.Module:
        """The sum of the S + 1 classifiers' logits_BN; no decoders."""
        return FromUnit(_Vote(self.network))

    def lesson(self, images_BCHW: Tensor, *, stages: int) -> Lesson:
        """Maps of the last stages and the S + 1 classifiers' logits_BN of images in [0, 1]."""
        return self.network.look(to_signed(images_BCHW), stages=stages)

    def view(self, images_BCHW: Tensor) -> View:
        """The backbone's maps and embedding, and the sum of the S + 1 classifiers' logits."""
        return self.network.view(to_signed(images_BCHW))

    @torch.no_grad()
    def restore(self, images_BCHW: Tensor, *, head: int = -1) -> Tensor | None:
        """Images in [0, 1] as a head's decoder cleans them, None without decoders; -1 is the deepest head.

        Raises:
            IndexError: There is no such head.
        """
        if not self._settings.restores:
            return None
        head = range(len(self.network.heads))[head]
        restored_BCHW = self.network.restore(to_signed(images_BCHW), head)[1]
        return from_signed(restored_BCHW)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone; its classifier, the recognition heads and the decoders as "heads"."""
        return parameter_groups(self.network, backbone=self.network.backbone)

    def export(self) -> Export:
        """The whole network's weights and its settings."""
        settings = asdict(self._settings)
        return make_export(
            self.deployed, method="pmal", context=self._context, settings=settings, backbone=self.network.backbone
        )

    def passes_per_image(self) -> float:
        """Cost of the S + 1 updates; measured once, from shapes alone."""
        return self._passes

    @cached_property
    def _passes(self) -> float:
        return counted_once("pmal", self.network, self._settings, self._context.image_size, count=self._count)

    def _count(self) -> float:
        shapes = meta_copy(self.network)
        batch = meta_batch(shapes, image_size=self._context.image_size)
        return gradient_passes(self._objectives(shapes, batch, None), backbone=shapes.backbone, batch=batch)

    def _objectives(self, network: PmalNetwork, batch: Batch, sampler: Sampler | None) -> Iterator[Objective]:
        order = self._settings.order
        if order in {"joint", "joint_repeated"}:
            yield from self._joint(network, batch, sampler, updates=1 if order == "joint" else len(network.heads) + 1)
            return
        heads = range(len(network.heads))
        if order == "deep_to_shallow":
            yield self._clean(network, batch)
            heads = reversed(heads)
        for head in heads:
            loss = self._noisy(network, batch, sampler, head=head, draw=head + 1)
            yield Objective(name=f"stage{head + 1}", parameters=network.parameters_of(head), loss=loss)
        if order == "shallow_to_deep":
            yield self._clean(network, batch)

    def _clean(self, network: PmalNetwork, batch: Batch) -> Objective:
        parameters = [*network.backbone.parameters(), *network.heads.parameters()]
        loss = partial(self._clean_loss, network, to_signed(batch.images_BCHW), batch.labels_B)
        return Objective(name="clean", parameters=parameters, loss=loss)

    def _joint(
        self, network: PmalNetwork, batch: Batch, sampler: Sampler | None, *, updates: int
    ) -> Iterator[Objective]:
        """Updates by the sum of all losses; the first one's pairs are those of the other orders."""
        clean, stages = self._clean(network, batch).loss, len(network.heads)
        for update in range(updates):
            losses = [
                self._noisy(network, batch, sampler, head=head, draw=update * stages + head + 1)
                for head in range(stages)
            ]
            loss = partial(_sum_of, [*losses, clean])
            yield Objective(name=f"joint{update + 1}", parameters=list(network.parameters()), loss=loss)

    def _noisy(
        self, network: PmalNetwork, batch: Batch, sampler: Sampler | None, *, head: int, draw: int
    ) -> Callable[[slice], LossSum]:
        """A head's loss on a noisy pair of its own."""
        target_BCHW, input_BCHW = signed_pair(sampler, batch, draw=draw)
        return partial(self._noisy_loss, network, head, target_BCHW, input_BCHW, batch.labels_B)

    def _noisy_loss(
        self,
        network: PmalNetwork,
        head: int,
        target_BCHW: Tensor,
        input_BCHW: Tensor,
        labels_B: Tensor,
        part: slice,
    ) -> LossSum:
        settings = self._settings
        if not settings.restores:
            feature_BCHW = network.feature(input_BCHW[part], head)
            losses_B = self._entropy(network.heads[head](feature_BCHW), labels_B[part])
            return LossSum(losses_B.sum(), len(losses_B))
        feature_BCHW, restored_BCHW = network.restore(input_BCHW[part], head)
        losses_B = self._entropy(network.heads[head](feature_BCHW), labels_B[part])
        if settings.alpha > 0:
            distance = RESTORATION_LOSSES[settings.restoration_loss]
            losses_B = losses_B + settings.alpha * distance(restored_BCHW, target_BCHW[part])
        if settings.restored_weight > 0:
            seen_BCHW = restored_BCHW.detach() if settings.detach_restored else restored_BCHW
            again_BCHW = network.feature(seen_BCHW, head)
            again_B = self._entropy(network.heads[head](again_BCHW), labels_B[part])
            losses_B = losses_B + settings.restored_weight * again_B
        return LossSum(losses_B.sum(), len(losses_B))

    def _clean_loss(self, network: PmalNetwork, images_BCHW: Tensor, labels_B: Tensor, part: slice) -> LossSum:
        *heads, classifier_BN = network.all_logits(images_BCHW[part])
        losses_B = _CLASSIFIER_WEIGHT * self._entropy(classifier_BN, labels_B[part])
        for logits_BN in heads:
            losses_B = losses_B + self._entropy(logits_BN, labels_B[part])
        return LossSum(losses_B.sum(), len(losses_B))

    def _entropy(self, logits_BN: Tensor, labels_B: Tensor) -> Tensor:
        return smoothed_cross_entropy(logits_BN, labels_B, smoothing=self._context.label_smoothing)


def _sum_of(losses: Sequence[Callable[[slice], LossSum]], part: slice) -> LossSum:
    """Several losses of the same images added up."""
    parts = [loss(part) for loss in losses]
    return LossSum(torch.stack([item.total for item in parts]).sum(), parts[0].count)
