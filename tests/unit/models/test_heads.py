"""Shapes, restorations of any size and errors of the denoising-recognition head."""

import pytest
import torch
from torch import nn

from models.heads import DenoisingHead, RecognitionHead

WIDTHS = (16, 12, 8)


def test_recognition_head_is_the_papers() -> None:
    head = RecognitionHead(2048, num_classes=196, conv_widths=(512, 1024), classifier_width=512)
    # 1x1 and 3x3 convolutions without bias, four batch norms, two linear layers.
    expected = 2048 * 512 + 9 * 512 * 1024 + 2 * (512 + 1024 + 1024 + 512) + (1024 + 1) * 512 + (512 + 1) * 196
    assert sum(parameter.numel() for parameter in head.parameters()) == expected
    momenta = [module.momentum for module in head.modules() if isinstance(module, nn.BatchNorm2d)]
    assert momenta == [0.01, 0.01]


def test_recognition_head_takes_the_maximum() -> None:
    head = RecognitionHead(4, num_classes=3, conv_widths=(4, 4), classifier_width=4).eval()
    feature_BCHW = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    maps_BCHW = head.convolutions(feature_BCHW)
    pooled_BC = torch.stack([image_CHW.flatten(1).max(dim=1).values for image_CHW in maps_BCHW])
    assert (pooled_BC - maps_BCHW.mean((2, 3))).abs().max() > 0.01
    torch.testing.assert_close(head(feature_BCHW), head.classifier(pooled_BC))


def test_recognition_head_explains_a_batch_of_one() -> None:
    head = RecognitionHead(4, num_classes=3, conv_widths=(4, 4), classifier_width=4)
    with pytest.raises(ValueError, match=r"at least 2 images .* but got 1: raise the batch size"):
        head(torch.zeros(1, 4, 2, 2))
    assert head.eval()(torch.zeros(1, 4, 2, 2)).shape == (1, 3)


@pytest.mark.parametrize(("stride", "channels"), [(8, 512), (16, 1024), (32, 2048)])
def test_denoising_head_is_the_papers(stride: int, channels: int) -> None:
    head = DenoisingHead(channels, stride=stride, widths=(256, 128, 64), last_activation="leaky_relu")
    unfolded = channels // (stride // 8) ** 2
    restoration = 9 * (unfolded * 256 + 64 * 128 + 32 * 64 + 16 * 3)
    assert sum(parameter.numel() for parameter in head.restoration.parameters()) == restoration
    assert sum(parameter.numel() for parameter in head.skip.parameters()) == 9 * (3 * 64 + 64 * 3)


@pytest.mark.parametrize(
    ("stride", "channels", "size"),
    [(8, 8, (32, 32)), (32, 32, (97, 61)), (32, 5, (64, 64)), (16, 6, (368, 46)), (4, 6, (20, 20)), (14, 8, (56, 56))],
)
def test_restoration_has_the_size_of_the_image_and_trains(stride: int, channels: int, size: tuple[int, int]) -> None:
    head = DenoisingHead(channels, stride=stride, widths=WIDTHS, last_activation="none")
    images_BCHW = torch.rand(2, 3, *size)
    feature_BCHW = torch.rand(2, channels, -(-size[0] // stride), -(-size[1] // stride), requires_grad=True)
    restored_BCHW = head(feature_BCHW, images_BCHW)
    assert restored_BCHW.shape == images_BCHW.shape
    restored_BCHW.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert feature_BCHW.grad is not None
    assert feature_BCHW.grad.abs().sum() > 0


def test_last_activation_shrinks_negative_values() -> None:
    plain, leaky = (
        DenoisingHead(8, stride=8, widths=WIDTHS, last_activation=activation) for activation in ("none", "leaky_relu")
    )
    leaky.load_state_dict(plain.state_dict())
    feature_BCHW, images_BCHW = torch.rand(1, 8, 2, 2), torch.rand(1, 3, 16, 16)
    branches = plain.skip(images_BCHW), plain.restoration(feature_BCHW)
    expected = sum(torch.where(branch > 0, branch, 0.1 * branch) for branch in branches)
    torch.testing.assert_close(leaky(feature_BCHW, images_BCHW), expected)
    torch.testing.assert_close(plain(feature_BCHW, images_BCHW), branches[0] + branches[1])


def test_widths_must_divide() -> None:
    with pytest.raises(ValueError, match=r"decoder_widths must each be a multiple of 4 .* got \(16, 10, 8\)"):
        DenoisingHead(8, stride=8, widths=(16, 10, 8), last_activation="none")
