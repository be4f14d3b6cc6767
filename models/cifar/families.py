"""The three families of the benchmark: residual networks, wide residual networks and VGG, for small images.

Names of parameters are those of the public benchmark, so that its weights fit once they are a .safetensors file.

Shape suffixes: B batch, C channels, H height, W width.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.cifar.network import CifarNetwork, Tap

_STRIDES = (1, 2, 2)  # of the three stages of a residual network
_NUM_POOLED = 3  # blocks of VGG that a max pooling follows


class ResidualBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + x); the shortcut is a normed 1x1 convolution where the shape changes.

    Source: He et al. 2016 (arXiv 1512.03385), figure 2 and option B.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        branch_BCHW = self.bn2(self.conv2(branch_BCHW))
        return F.relu(branch_BCHW + self.downsample(x_BCHW), inplace=True)


class PreActivationBlock(nn.Module):
    """conv(relu(norm(conv(a)))) + x with a = relu(norm(x)); the shortcut is a 1x1 convolution of a where C changes.

    Source: Zagoruyko & Komodakis 2016 (arXiv 1605.07146), figure 1 (c) without dropout.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
        self.convShortcut = None  # the benchmark's name
        if in_channels != out_channels:
            self.convShortcut = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        active_BCHW = F.relu(self.bn1(x_BCHW), inplace=True)
        branch_BCHW = self.conv2(F.relu(self.bn2(self.conv1(active_BCHW)), inplace=True))
        return branch_BCHW + (x_BCHW if self.convShortcut is None else self.convShortcut(active_BCHW))


def residual_network(
    *, depth: int, widths: Sequence[int], num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"
) -> CifarNetwork:
    """A residual network of three stages; its maps are taken after the last ReLU of the stem and of each stage.

    Args:
        depth: 6 n + 2 for n blocks in a stage.
        widths: channels of the stem and of the three stages.
        num_classes, in_chans, global_pool: as in timm.

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2, with projections; widths of Tian et al. 2020 (arXiv
    1910.10699). The pooling takes the whole map, theirs 8x8 pixels, which is the same for images of 32 pixels.
    """
    assert depth % 6 == 2, depth
    parts: dict[str, nn.Module] = {
        "conv1": _conv3x3(in_chans, widths[0], 1),
        "bn1": nn.BatchNorm2d(widths[0]),
        "relu": nn.ReLU(inplace=True),
    }
    for stage, stride in enumerate(_STRIDES, start=1):
        blocks = _blocks(ResidualBlock, widths[stage - 1], widths[stage], stride, count=depth // 6)
        parts[f"layer{stage}"] = nn.Sequential(*blocks)
    taps = [Tap(part, *at) for part, at in zip(("relu", "layer1", "layer2", "layer3"), _places(widths), strict=True)]
    return CifarNetwork(parts, taps=taps, classifier="fc", num_classes=num_classes, global_pool=global_pool)


def wide_residual_network(
    *, depth: int, widening: int, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"
) -> CifarNetwork:
    """A wide residual network of three stages; its maps are the stem's output and the sums of the stages.

    The sums have no norm and no ReLU yet, as in the benchmark's forward pass; the next stage or, for the last, a norm
    and a ReLU before the pooling apply them.

    Args:
        depth: 6 n + 4 for n blocks in a stage.
        widening: channels of the stages over 16, 32 and 64.
        num_classes, in_chans, global_pool: as in timm.

    Source: Zagoruyko & Komodakis 2016 (arXiv 1605.07146). The pooling takes the whole map, as above.
    """
    assert depth % 6 == 4, depth
    widths = (16, 16 * widening, 32 * widening, 64 * widening)
    parts: dict[str, nn.Module] = {"conv1": _conv3x3(in_chans, widths[0], 1)}
    for stage, stride in enumerate(_STRIDES, start=1):
        blocks = _blocks(PreActivationBlock, widths[stage - 1], widths[stage], stride, count=depth // 6)
        parts[f"block{stage}"] = nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks)))
    parts |= {"bn1": nn.BatchNorm2d(widths[-1]), "relu": nn.ReLU(inplace=True)}
    taps = [Tap(part, *at) for part, at in zip(("conv1", "block1", "block2", "block3"), _places(widths), strict=True)]
    return CifarNetwork(
        parts,
        taps=taps,
        classifier="fc",
        num_classes=num_classes,
        global_pool=global_pool,
        start_classifier=_start_wide_classifier,
    )


def vgg_network(
    *, blocks: Sequence[Sequence[int]], num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"
) -> CifarNetwork:
    """VGG with batch norms and one linear layer; its maps are taken after the last ReLU of each block.

    Max pooling halves the side after each of the first three blocks. The benchmark pools a fourth time when images have
    exactly 64 pixels; here the strides are the same for all sizes.

    Args:
        blocks: channels of the convolutions of each block.
        num_classes, in_chans, global_pool: as in timm.

    Source: Simonyan & Zisserman 2015 (arXiv 1409.1556), cut down by Tian et al. 2020 (arXiv 1910.10699).
    """
    parts: dict[str, nn.Module] = {}
    taps: list[Tap] = []
    channels, stride = in_chans, 1
    for index, widths in enumerate(blocks):
        parts[f"block{index}"] = nn.Sequential(*_plain_layers(channels, widths))
        channels = widths[-1]
        taps.append(Tap(f"block{index}", channels, stride))
        if index < _NUM_POOLED:
            parts[f"pool{index}"] = nn.MaxPool2d(kernel_size=2)
            stride *= 2
    return CifarNetwork(
        parts,
        taps=taps,
        classifier="classifier",
        num_classes=num_classes,
        global_pool=global_pool,
        start_classifier=_start_vgg_classifier,
    )


def _conv3x3(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _blocks(
    kind: type[ResidualBlock] | type[PreActivationBlock], in_channels: int, channels: int, stride: int, *, count: int
) -> Iterator[nn.Module]:
    """A stage: the first block changes the shape."""
    yield kind(in_channels, channels, stride)
    for _ in range(count - 1):
        yield kind(channels, channels, 1)


def _places(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Channels and stride of the maps of a stem and three stages."""
    return list(zip(widths, (1, 1, 2, 4), strict=True))


def _plain_layers(in_channels: int, widths: Sequence[int]) -> Iterator[nn.Module]:
    for width in widths:
        yield nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
        yield nn.BatchNorm2d(width)
        yield nn.ReLU(inplace=True)
        in_channels = width


def _start_wide_classifier(last: nn.Linear) -> None:
    nn.init.zeros_(last.bias)


def _start_vgg_classifier(last: nn.Linear) -> None:
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
