"""What several methods share: units, seeded construction, parameter groups and the description of an export.

Shape suffixes: B batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones import StagedBackbone, creation_arguments
from models.distillation.loss import View
from models.methods.method import Batch, Context, Export, Sampler


def to_signed(images_BCHW: Tensor) -> Tensor:
    """Images from [0, 1] to [-1, 1], the units of backbones and restorations."""
    return images_BCHW * 2 - 1


def from_signed(images_BCHW: Tensor) -> Tensor:
    """Images from [-1, 1] to [0, 1], clamped."""
    return ((images_BCHW + 1) / 2).clamp(0, 1)


class FromUnit(nn.Module):
    """A network of images in [-1, 1] as one of images in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.network(to_signed(images_BCHW))


def signed_pair(sampler: Sampler | None, batch: Batch, *, draw: int) -> tuple[Tensor, Tensor]:
    """Target and input of a batch in [-1, 1]; without a sampler both are the images."""
    if sampler is None:
        signed_BCHW = to_signed(batch.images_BCHW)
        return signed_BCHW, signed_BCHW
    pair = sampler(batch.images_BCHW, batch.keys_B, draw=draw, level=batch.noise_level)
    return to_signed(pair.target_BCHW), to_signed(pair.input_BCHW)


def backbone_view(backbone: StagedBackbone, images_BCHW: Tensor) -> View:
    """All that a backbone makes of images in [-1, 1], in one pass."""
    maps, embedding_BD, logits_BN = backbone.look(images_BCHW, range(backbone.num_stages))
    last = backbone.model.get_classifier()
    # As a view: counting operations takes no leaf among what a module is given.
    weights_ND = last.weight.view_as(last.weight) if isinstance(last, nn.Linear) else None
    return View(tuple(maps), embedding_BD, logits_BN, weights_ND)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generator that initial weights on the CPU come from, and leave it as it was found."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def parameter_groups(network: nn.Module, *, backbone: StagedBackbone) -> dict[str, list[nn.Parameter]]:
    """All parameters: the "backbone" without its classifier, and the rest as "heads"."""
    new = {id(parameter) for parameter in backbone.classifier_parameters()}
    kept = {id(parameter): parameter for parameter in backbone.parameters() if id(parameter) not in new}
    heads = [parameter for parameter in network.parameters() if id(parameter) not in kept]
    return {"backbone": list(kept.values()), "heads": heads}


def make_export(
    deployed: nn.Module, *, method: str, context: Context, settings: dict[str, Any], backbone: StagedBackbone
) -> Export:
    """Weights on the CPU, and what they need: the method's settings, timm's arguments and the normalisation."""
    state = {name: value.detach().cpu().clone() for name, value in deployed.state_dict().items()}
    config = {
        "method": method,
        "settings": {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        "backbone": context.backbone,
        "num_classes": context.num_classes,
        "image_size": context.image_size,
        "input_size": context.input_size or context.image_size,
        "timm": creation_arguments(context.backbone, context.input_size or context.image_size),
        "mean": list(backbone.mean),
        "std": list(backbone.std),
    }
    return Export(state, config)
