"""The networks' names, registered with timm when this module is imported.

Widths, depths, initial weights and the normalisation are those of the public benchmark (Tian et al. 2020, arXiv
1910.10699, and its code RepDistiller); so are the numbers of parameters. There are no published weights.
"""

import re
from collections.abc import Callable
from typing import Any

from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model

from models.cifar.families import residual_network, vgg_network, wide_residual_network
from models.cifar.network import CifarNetwork

_NARROW, _WIDE = (16, 16, 32, 64), (32, 64, 128, 256)  # channels of a residual network's stem and stages
_PREFIX = "cifar_"


def _config(first_conv: str, classifier: str) -> dict[str, Any] | PretrainedCfg:
    return PretrainedCfg(
        num_classes=100,
        input_size=(3, 32, 32),
        min_input_size=(3, 8, 8),
        crop_pct=1.0,
        mean=(0.5071, 0.4867, 0.4408),  # of CIFAR-100, as the benchmark writes them
        std=(0.2675, 0.2565, 0.2761),
        first_conv=first_conv,
        classifier=classifier,
        paper_ids="arXiv:1910.10699",
    )


_RESIDUAL = ("resnet20", "resnet32", "resnet56", "resnet110", "resnet8x4", "resnet32x4")
_WIDE_RESIDUAL = ("wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2")
_VGG = ("vgg8_bn", "vgg13_bn")
NAMES = tuple(_PREFIX + name for name in (*_RESIDUAL, *_WIDE_RESIDUAL, *_VGG))
"""All that timm knows from here."""

default_cfgs = generate_default_cfgs(
    {_PREFIX + name: _config("conv1", "fc") for name in (*_RESIDUAL, *_WIDE_RESIDUAL)}
    | {_PREFIX + name: _config("block0.0", "classifier") for name in _VGG}
)


def benchmark_name(name: str) -> str | None:
    """The network that the benchmark writes so ("resnet8x4", "wrn_40_2", "WRN-40-2", "vgg8"); None for another."""
    return {_letters(known.removeprefix(_PREFIX)): known for known in NAMES}.get(_letters(name))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("bn")


def _build(make: Callable[..., CifarNetwork], name: str, pretrained: bool, **kwargs: Any) -> CifarNetwork:
    num_maps = 5 if make is vgg_network else 4
    return build_model_with_cfg(make, name, pretrained, feature_cfg={"out_indices": tuple(range(num_maps))}, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """ResNet-20: 3 blocks in a stage, 16 to 64 channels."""
    return _build(residual_network, "cifar_resnet20", pretrained, depth=20, widths=_NARROW, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """ResNet-32: 5 blocks in a stage."""
    return _build(residual_network, "cifar_resnet32", pretrained, depth=32, widths=_NARROW, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """ResNet-56: 9 blocks in a stage."""
    return _build(residual_network, "cifar_resnet56", pretrained, depth=56, widths=_NARROW, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """ResNet-110: 18 blocks in a stage."""
    return _build(residual_network, "cifar_resnet110", pretrained, depth=110, widths=_NARROW, **kwargs)


@register_model
def cifar_resnet8x4(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """ResNet-8, four times as wide: 1 block in a stage, 32 channels in the stem, 64 to 256 in the stages."""
    return _build(residual_network, "cifar_resnet8x4", pretrained, depth=8, widths=_WIDE, **kwargs)


@register_model
def cifar_resnet32x4(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """ResNet-32, four times as wide: 5 blocks in a stage."""
    return _build(residual_network, "cifar_resnet32x4", pretrained, depth=32, widths=_WIDE, **kwargs)


@register_model
def cifar_wrn16_1(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """WRN-16-1: 2 blocks in a stage, 16 to 64 channels."""
    return _build(wide_residual_network, "cifar_wrn16_1", pretrained, depth=16, widening=1, **kwargs)


@register_model
def cifar_wrn16_2(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """WRN-16-2: 32 to 128 channels."""
    return _build(wide_residual_network, "cifar_wrn16_2", pretrained, depth=16, widening=2, **kwargs)


@register_model
def cifar_wrn40_1(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """WRN-40-1: 6 blocks in a stage, 16 to 64 channels."""
    return _build(wide_residual_network, "cifar_wrn40_1", pretrained, depth=40, widening=1, **kwargs)


@register_model
def cifar_wrn40_2(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """WRN-40-2: 32 to 128 channels."""
    return _build(wide_residual_network, "cifar_wrn40_2", pretrained, depth=40, widening=2, **kwargs)


@register_model
def cifar_vgg8_bn(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """VGG-8 with batch norms: one convolution in each of five blocks."""
    blocks = [[64], [128], [256], [512], [512]]
    return _build(vgg_network, "cifar_vgg8_bn", pretrained, blocks=blocks, **kwargs)


@register_model
def cifar_vgg13_bn(pretrained: bool = False, **kwargs: Any) -> CifarNetwork:
    """VGG-13 with batch norms: two convolutions in each block."""
    blocks = [[64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2]
    return _build(vgg_network, "cifar_vgg13_bn", pretrained, blocks=blocks, **kwargs)
