"""The denoising-recognition head of PMAL: a classifier of a stage's feature map and a decoder to a clean image.

Source: arXiv 2401.14336 (section on the Denoising-Recognition Head).
Shape suffixes: B batch, C channels, H height, W width, N classes.
"""

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

LastActivation = Literal["leaky_relu", "none"]

_HEAD_MOMENTUM = 0.01  # of the two convolutions' batch norms, as in the paper's code
_LEAKY_SLOPE = 0.1
_NUM_DOUBLINGS = 3  # the learned PixelShuffle(2) steps; coarser maps are unfolded to an eighth of the image first


class RecognitionHead(nn.Module):
    """Logits from a stage's feature map: two convolutions, global max pooling, two linear layers.

    Args:
        channels: C of the feature map.
        num_classes: N.
        conv_widths: output channels of the 1x1 and the 3x3 convolution; the paper's are (512, 1024).
        classifier_width: width between the two linear layers; the paper's is 512.
    """

    def __init__(self, channels: int, *, num_classes: int, conv_widths: tuple[int, int], classifier_width: int) -> None:
        super().__init__()
        reduce, recognise = conv_widths
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, reduce, kernel_size=1, bias=False),
            nn.BatchNorm2d(reduce, momentum=_HEAD_MOMENTUM),
            nn.ReLU(),
            nn.Conv2d(reduce, recognise, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(recognise, momentum=_HEAD_MOMENTUM),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(
            nn.BatchNorm1d(recognise),
            nn.Linear(recognise, classifier_width),
            nn.BatchNorm1d(classifier_width),
            nn.ELU(),
            nn.Linear(classifier_width, num_classes),
        )

    def forward(self, feature_BCHW: Tensor) -> Tensor:
        """Logits_BN of a feature map of any size.

        Raises:
            ValueError: for a single image in training mode, whose batch statistics do not exist.
        """
        if self.training and feature_BCHW.shape[0] < 2:
            raise ValueError(
                "a recognition head in training mode needs at least 2 images in a (micro-)batch for its batch "
                f"statistics, but got {feature_BCHW.shape[0]}: raise the batch size, accumulate over fewer slices "
                "or join the last short batch to the one before"
            )
        pooled_BC = self.convolutions(feature_BCHW).amax(dim=(2, 3))
        return self.classifier(pooled_BC)


class DenoisingHead(nn.Module):
    """A restored image from a stage's feature map and the noisy image, at the image's own size.

    The map is unfolded (PixelShuffle) to an eighth of the image, then three convolutions each double it. The
    paper fixes strides 8, 16 and 32. Ours, departures: a finer map takes only the last of the three steps, as many as
    it needs; where the channels do not divide, a 1x1 convolution makes them; and a restoration of another size
    than the image (odd sizes, strides that are no power of two) is resized to the image, so that its branch always
    trains.

    Args:
        channels: C of the feature map.
        stride: side of the image over the side of the map.
        widths: output channels of the doubling steps, each divisible by 4; the paper's are (256, 128, 64). The skip
            branch is as wide as the last.
        last_activation: after the last convolution of both branches. The paper's "leaky_relu" shrinks negative values
            of the [-1, 1] range; "none" leaves them.
    """

    def __init__(
        self, channels: int, *, stride: int, widths: tuple[int, int, int], last_activation: LastActivation
    ) -> None:
        super().__init__()
        indivisible = [width for width in widths if width < 4 or width % 4]
        if indivisible:
            raise ValueError(
                f"decoder_widths must each be a multiple of 4 (a PixelShuffle(2) follows), but got {widths}"
            )
        num_doublings = math.ceil(math.log2(stride))
        self.restoration = nn.Sequential(
            *_unfold(channels, factor=2 ** max(0, num_doublings - _NUM_DOUBLINGS)),
        )
        channels = _unfolded_channels(channels, factor=2 ** max(0, num_doublings - _NUM_DOUBLINGS))
        for width in widths[_NUM_DOUBLINGS - min(num_doublings, _NUM_DOUBLINGS) :]:
            self.restoration.extend([_convolution(channels, width), nn.LeakyReLU(_LEAKY_SLOPE), nn.PixelShuffle(2)])
            channels = width // 4
        self.restoration.extend([_convolution(channels, 3), _last(last_activation)])
        self.skip = nn.Sequential(
            _convolution(3, widths[-1]),
            nn.LeakyReLU(_LEAKY_SLOPE),
            _convolution(widths[-1], 3),
            _last(last_activation),
        )

    def forward(self, feature_BCHW: Tensor, images_BCHW: Tensor) -> Tensor:
        """The restored images_BCHW; images are in [-1, 1] units, the result is not clamped."""
        restored_BCHW = self.restoration(feature_BCHW)
        if restored_BCHW.shape[2:] != images_BCHW.shape[2:]:
            restored_BCHW = F.interpolate(
                restored_BCHW, size=images_BCHW.shape[2:], mode="bilinear", align_corners=False, antialias=False
            )
        return self.skip(images_BCHW) + restored_BCHW


def _unfold(channels: int, *, factor: int) -> list[nn.Module]:
    if factor == 1:
        return []
    if channels % factor**2 == 0:
        return [nn.PixelShuffle(factor)]
    wanted = _unfolded_channels(channels, factor=factor) * factor**2
    return [nn.Conv2d(channels, wanted, kernel_size=1, bias=False), nn.PixelShuffle(factor)]


def _unfolded_channels(channels: int, *, factor: int) -> int:
    return math.ceil(channels / factor**2)


def _convolution(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)


def _last(activation: LastActivation) -> nn.Module:
    return nn.LeakyReLU(_LEAKY_SLOPE) if activation == "leaky_relu" else nn.Identity()
