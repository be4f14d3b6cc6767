"""Backbones of several timm families, cut into stages."""

import pytest
import torch

from models.backbones import check_backbone, create_backbone

FAMILIES = {
    "test_resnet": (2, 4, 8, 16, 32),
    "resnet10t": (2, 4, 8, 16, 32),
    "test_vit": (16, 16, 16, 16),
    "mobilenetv3_small_050": (2, 4, 8, 16, 32),
    "convnext_atto": (4, 8, 16, 32),
    "test_efficientnet": (2, 4, 8, 16, 32),
    "levit_128s": (16, 32, 64),
    "cifar_resnet8x4": (1, 2, 4),
    "cifar_wrn16_1": (1, 2, 4),
    "cifar_vgg8_bn": (1, 2, 4, 8),
}
SIZE = 64


@pytest.mark.parametrize("name", FAMILIES)
def test_partial_passes_are_parts_of_the_whole(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, num_classes=3, image_size=SIZE).eval()
    images_BCHW = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    assert backbone.strides == FAMILIES[name] == check_backbone(name, SIZE).strides
    stages = range(backbone.num_stages)
    with torch.no_grad():
        features, logits_BN = backbone.forward_all(images_BCHW, stages)
        torch.testing.assert_close(logits_BN, backbone.logits(images_BCHW))
        whole = backbone.model.forward_intermediates(
            images_BCHW * backbone.scale_1C11 + backbone.shift_1C11, intermediates_only=True
        )
        for stage, feature_BCHW in zip(stages, features, strict=True):
            torch.testing.assert_close(backbone.forward_to(images_BCHW, stage), feature_BCHW)
            torch.testing.assert_close(whole[backbone.stages.indices[stage]], feature_BCHW)
            side = SIZE // backbone.strides[stage]
            assert feature_BCHW.shape == (2, backbone.channels[stage], side, side)
    reached = [len(backbone.stage_parameters(stage)) for stage in stages]
    assert reached == sorted(set(reached))
