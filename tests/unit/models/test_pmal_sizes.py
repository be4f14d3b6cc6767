"""PMAL at odd image sizes and with a head on every stage, and the sizes of the paper's network."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.backbones import check_backbone, create_backbone
from models.methods.method import Batch, Context
from models.methods.pmal import Pmal, PmalNetwork, PmalSettings
from models.sam import SamSettings, sam_step

# Every stage of a family: with a stem stage, without one, and of one resolution.
STAGES = {"test_resnet": 5, "test_efficientnet": 5, "test_convnext": 4, "test_vit": 4}


def make(backbone: str, *, stages: int, image_size: int = 32) -> Pmal:
    settings = PmalSettings(stages=stages, head_widths=(6, 8), classifier_width=5, decoder_widths=(8, 8, 4))
    method = Pmal(Context(backbone, num_classes=3, image_size=image_size, seed=2), settings)
    method.network.double()
    return method


def make_batch(height: int, width: int, count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)
    return Batch(images_BCHW, labels_B=torch.arange(count) % 3, keys_B=torch.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "stages", "height", "width"),
    [
        ("test_resnet", 5, 97, 61),
        ("test_efficientnet", 5, 97, 61),
        ("test_convnext", 4, 97, 61),
        ("test_resnet", 3, 368, 368),
    ],
)
def test_odd_sizes_train_every_decoder_weight_at_every_stage(
    backbone: str, stages: int, height: int, width: int
) -> None:
    method, batch = make(backbone, stages=stages), make_batch(height, width, count=2)
    network = method.network.float()
    batch = Batch(batch.images_BCHW.float(), batch.labels_B, batch.keys_B)
    for head, objective in enumerate(list(method.objectives(batch))[:-1]):
        _, restored_BCHW = network.restore(batch.images_BCHW * 2 - 1, head)
        assert restored_BCHW.shape == batch.images_BCHW.shape
        names, weights = zip(*network.decoders[head].named_parameters(), strict=True)
        gradients = torch.autograd.grad(objective.loss(slice(0, 2)).total, weights)
        for name, gradient in zip(names, gradients, strict=True):
            assert bool(gradient.flatten(1).abs().sum(1).all()), f"stage {head + 1} {name}: a filter does not train"


@pytest.mark.parametrize("backbone", STAGES)
def test_every_stage_can_have_a_head_and_an_update(backbone: str) -> None:
    method, batch = make(backbone, stages=STAGES[backbone]), make_batch(32, 32)
    assert check_backbone(backbone, 32).strides == method.backbone.strides[-STAGES[backbone] :]
    optimizer = torch.optim.SGD(method.network.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    names = []
    for objective in method.objectives(batch):
        names.append(objective.name)
        before = {name: value.detach().clone() for name, value in method.network.named_parameters()}
        closure = lambda objective=objective: objective.loss(slice(0, 4)).total / 4  # noqa: E731
        sam_step(optimizer, closure, parameters=objective.parameters, sam=SamSettings(), modules=method.network)
        reached = {id(parameter) for parameter in objective.parameters}
        for name, value in method.network.named_parameters():
            assert torch.equal(before[name], value) == (id(value) not in reached), f"{objective.name} {name}"
    assert names == [*(f"stage{number + 1}" for number in range(STAGES[backbone])), "clean"]
    assert len(method.network.all_logits(batch.images_BCHW)) == STAGES[backbone] + 1
    with pytest.raises(ValueError, match=rf"stages must be between 1 and {STAGES[backbone]} for backbone '{backbone}'"):
        make(backbone, stages=STAGES[backbone] + 1)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def giga_macs(run: Any) -> float:
    """Multiply-adds of a forward pass, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9


@pytest.mark.slow
def test_the_papers_network_has_the_derived_sizes() -> None:
    """ResNet50, 448 px, 196 classes; on the meta device, which holds shapes only."""
    with torch.device("meta"):
        backbone = create_backbone("resnet50", num_classes=196, image_size=448)
        network = PmalNetwork(backbone, num_classes=196, settings=PmalSettings()).eval()
        images_BCHW: Tensor = torch.zeros(1, 3, 448, 448)
    features = [network.feature(images_BCHW, head) for head in range(3)]
    assert [tuple(feature.shape[1:3]) for feature in features] == [(512, 56), (1024, 28), (2048, 14)]
    recognition = [giga_macs(lambda h=h: network.heads[h](features[h])) for h in range(3)]
    restoration = [giga_macs(lambda h=h: network.decoders[h](features[h], images_BCHW)) for h in range(3)]
    assert count(backbone) / 1e6 == pytest.approx(23.9, abs=0.05)
    assert giga_macs(lambda: backbone.logits(images_BCHW)) == pytest.approx(16.3, abs=0.05)
    assert count(network.heads) / 1e6 == pytest.approx(17.9, abs=0.05)
    assert recognition[0] == pytest.approx(15.6, abs=0.05)
    assert sum(recognition) == pytest.approx(20.9, abs=0.05)
    assert count(network.decoders) / 1e6 == pytest.approx(2.35, abs=0.005)
    assert sum(restoration) == pytest.approx(14.4, abs=0.05)
    assert giga_macs(lambda: network.all_logits(images_BCHW)) == pytest.approx(37, abs=0.5)  # the teacher at test
