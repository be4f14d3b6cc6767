"""What methods have in common that train a plain backbone and deploy it alone."""

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from models.backbones import StagedBackbone
from models.distillation.loss import View
from models.methods.common import FromUnit, backbone_view, parameter_groups, to_signed
from models.methods.method import Lesson


class Taught(nn.Module):
    """What trains: a backbone, and whatever it learns by beside it."""

    backbone: StagedBackbone


Network = TypeVar("Network", bound=Taught)


class BackboneStudent(Generic[Network]):
    """The parts of a method whose deployed network is `network.backbone`: nothing it learned by is left in them."""

    network: Network

    @property
    def backbone(self) -> StagedBackbone:
        """The student's backbone."""
        return self.network.backbone

    @property
    def deployed(self) -> nn.Module:
        """The timm model itself: no adapter, no head, no teacher."""
        return self.backbone.model

    @torch.no_grad()
    def predict(self, images_BCHW: Tensor) -> Tensor:
        """The backbone's logits_BN of images in [0, 1]."""
        return self.backbone.logits(to_signed(images_BCHW))

    def predictor(self) -> nn.Module:
        """The backbone alone."""
        return FromUnit(self.backbone)

    def lesson(self, images_BCHW: Tensor, *, stages: int) -> Lesson:
        """Maps of the last stages and the logits_BN of images in [0, 1]: a student can teach the next one."""
        wanted = range(self.backbone.num_stages - stages, self.backbone.num_stages)
        features, logits_BN = self.backbone.forward_all(to_signed(images_BCHW), wanted)
        return Lesson(features, [logits_BN])

    def view(self, images_BCHW: Tensor) -> View:
        """The student's own."""
        return backbone_view(self.backbone, to_signed(images_BCHW))

    def restore(self, images_BCHW: Tensor) -> Tensor | None:  # noqa: ARG002
        """None: the student restores no images."""
        return None

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The backbone; its classifier and what it learns by as "heads"."""
        return parameter_groups(self.network, backbone=self.backbone)
